#!/usr/bin/env python3
"""The options in man/rhea.1 come from the program itself.

usage: manual.py [--check]
Renews that part of the page; with --check it only ends with 1 if the page is stale."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "man", "rhea.1")
BEGIN, END = '.\\" begin of options\n', '.\\" end of options\n'


def renewed(page, program):
    """The page with the options that the program tells."""
    options = subprocess.run([program, "-help-man"], check=True, stdout=subprocess.PIPE, text=True)
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end or not options.stdout.strip():
        sys.exit("manual.py: the marks or the options are missing")
    return head + begin + options.stdout + end + tail


def main():
    program = os.path.join(ROOT, os.environ.get("BUILD", "build"), "rhea")
    with open(PAGE) as f:
        page = f.read()
    fresh = renewed(page, program)
    if sys.argv[1:] == ["--check"]:
        return page != fresh
    with open(PAGE, "w") as f:
        f.write(fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
