#!/usr/bin/env python3
"""The linter: each rule first against its samples, then over the tree.

Prints `PASS|FAIL name: …` a rule and each problem as file:line; exit status 1 if there is any.

usage: lint.py [--self-test] [FILE...]"""
import os
import sys

sys.dont_write_bytecode = True
import rules  # noqa: E402
from samples import SAMPLES  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def report(name, problems):
    for problem in problems:
        print(f"  {problem}")
    print(f"FAIL {name}: {len(problems)} problems" if problems else f"PASS {name}:")
    return not problems


def self_test(rule):
    """What is wrong with a rule, by its samples."""
    bad, good = SAMPLES.get(rule.__name__, ([], []))
    if not bad or not good:
        yield f"{rule.__name__} lacks a sample that breaks it or one that keeps it"
    for path, text in bad:
        if not list(rule(path, text.split("\n")[:-1])):
            yield f"{rule.__name__} finds nothing in {path}: {text!r}"
    for path, text in good:
        for number, message in rule(path, text.split("\n")[:-1]):
            yield f"{rule.__name__} finds '{message}' in {path}:{number}: {text!r}"


def check_tree(rule, files):
    for path, lines in files.items():
        for number, message in rule(path, lines):
            yield f"{path}:{number}: {message}"


def main():
    names = sys.argv[1:]
    only_samples = "--self-test" in names
    names = [n for n in names if n != "--self-test"]
    right = True
    for rule in rules.RULES:
        right &= report(f"{rule.__name__}-samples", list(self_test(rule)))
    if not only_samples:
        os.chdir(ROOT)
        files = {p: rules.read_lines(p) for p in names or rules.sources(".")}
        if not files:
            print("FAIL lint: no sources")
            return 1
        for rule in rules.RULES:
            right &= report(rule.__name__, list(check_tree(rule, files)))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
