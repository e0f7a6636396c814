#!/usr/bin/env python3
"""`make check`: runs the suites, shows what failed and what was skipped and why, and ends in one
line
`N passed, N failed, N skipped`. Exit status 1 if anything failed, or if nothing passed.

usage: run.py [SUITE...]
  harness     tests of this harness itself
  lint        the linter's rules
  headers     every header compiles on its own
  programs    the GoogleTest programs $BUILD/tests/{unit,device,diff} (one alone: programs:unit)
  boot        real guests and bad input (some alone: boot:PATTERN, see tests/boot/run.py -l)
  demo        `make demo ARGS=--check`
Without any: all of them. $BUILD is the folder of the build (default: build).
"""
import concurrent.futures
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("BUILD", "build")
LOGS = os.path.join(ROOT, BUILD, "logs")
PROGRAMS = ("unit", "device", "diff")
SUITES = ("harness", "lint", "headers", "programs", "boot", "demo")
PROGRAM_SECONDS = 1200  # a test program that takes longer hangs


class Tally:
    """What passed, failed and was skipped, over all suites."""

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.passed = 0
        self.failures = []
        self.skips = []

    def add(self, word, name, detail=""):
        if word == "PASS":
            self.passed += 1
            return
        (self.failures if word == "FAIL" else self.skips).append(f"{name}: {detail}")
        if not self.quiet:
            print(f"{word} {name}: {detail}"[:1000], flush=True)

    def summary(self):
        return f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped"


def how_it_ended(status):
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


# --- suites that print PASS, FAIL and SKIP lines --------------------------------------------------
def lines_suite(tally, prefix, argv, verbose=False):
    """Runs a program that prints `PASS|FAIL|SKIP name: detail` lines and ends with 1 if any
    failed."""
    failures, seen, other = len(tally.failures), 0, []
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, errors="replace")
    for line in process.stdout:
        match = re.match(r"(PASS|FAIL|SKIP) ([^ :]+):? ?(.*)", line)
        if match:
            seen += 1
            tally.add(match[1], f"{prefix}/{match[2]}", match[3])
        else:
            other.append(line)
        if not match or (verbose and match[1] == "PASS"):  # the others the tally has shown
            print(line, end="", flush=True)
    status = process.wait()
    # The lines and the exit status must agree: else something was not run.
    if not seen or (status != 0) != (len(tally.failures) > failures):
        said = "".join(other[-5:]).strip()
        tally.add("FAIL", prefix, f"{how_it_ended(status)} after {seen} results; {said}")


def run_harness(tally, _):
    lines_suite(tally, "harness", [sys.executable, "tests/harness_test.py"])


def run_lint(tally, _):
    lines_suite(tally, "lint", [sys.executable, "tests/lint/lint.py"])


def run_boot(tally, patterns):
    argv = [sys.executable, "tests/boot/run.py", *(patterns or [])]
    lines_suite(tally, "boot", argv, verbose=True)


# --- headers --------------------------------------------------------------------------------------
def run_headers(tally, _):
    make = os.environ.get("MAKE", "make")
    argv = [make, "--no-print-directory", "-k", f"BUILD={BUILD}", "check-headers"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    failed = re.findall(r"(?m)^(\S+): does not compile on its own$", done.stderr)
    sys.stdout.write(done.stderr if failed or done.returncode else "")
    for name in failed:
        tally.add("FAIL", f"headers/{name}", "does not compile on its own")
    stamps = 0
    for _, _, files in os.walk(os.path.join(ROOT, BUILD, "headers")):
        stamps += sum(f.endswith(".ok") for f in files)
    for _ in range(stamps):
        tally.add("PASS", "headers")
    if done.returncode and not failed:
        tally.add("FAIL", "headers", f"make ended with {done.returncode}")


# --- GoogleTest -----------------------------------------------------------------------------------
def run_program(name):
    """(results, log) of one test program: rows of (word, test, detail)."""
    path = os.path.join(ROOT, BUILD, "tests", name)
    report, log = os.path.join(LOGS, f"{name}.xml"), os.path.join(LOGS, f"{name}.log")
    if os.path.exists(report):
        os.unlink(report)
    started = time.monotonic()
    with open(log, "w") as output:
        process = subprocess.Popen(
            [path, f"--gtest_output=xml:{report}"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            status = process.wait(PROGRAM_SECONDS)
            ended = how_it_ended(status)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status, ended = 1, f"still running after {PROGRAM_SECONDS} s"
    rows = from_report(name, report) if os.path.exists(report) else None
    if rows is None:
        # It broke before its report: what it printed tells what ran, and what ran last.
        rows, last = from_log(name, log)
        rows.append(("FAIL", f"{name}/{last}", f"the program broke: {ended}; see {log}"))
    elif status != 0 and not any(word == "FAIL" for word, _, _ in rows):
        rows.append(("FAIL", name, f"{ended}, though no test failed; see {log}"))
    print(f"{name}: {len(rows)} tests, {time.monotonic() - started:.1f} s", flush=True)
    return rows


def from_report(name, report):
    try:
        cases = xml.etree.ElementTree.parse(report).getroot().iter("testcase")
    except xml.etree.ElementTree.ParseError:
        return None
    rows = []
    for case in cases:
        test = f"{name}/{case.get('classname')}.{case.get('name')}"
        failures, skipped = case.findall("failure"), case.find("skipped")
        if failures:
            rows.append(("FAIL", test, " ".join(failures[0].get("message", "").split())))
        elif skipped is not None or case.get("status") != "run":
            why = skipped.get("message", "") if skipped is not None else "disabled"
            why = re.sub(r"^\S+:\d+\s*", "", why)
            rows.append(("SKIP", test, " ".join(why.split()) or "no reason given"))
        else:
            rows.append(("PASS", test, ""))
    return rows


def from_log(name, log):
    rows, last = [], "before any test"
    with open(log, errors="replace") as f:
        for line in f:
            match = re.match(r"\[ +(RUN|OK|FAILED|SKIPPED) +\] (\S+?)(,| \(|$)", line)
            if match and match[1] == "RUN":
                last = match[2]
            elif match and match[3] == " (":  # the summary at the end has no times
                word = {"OK": "PASS", "FAILED": "FAIL", "SKIPPED": "SKIP"}[match[1]]
                rows.append((word, f"{name}/{match[2]}", f"see {log}"))
    return rows, last


def run_programs(tally, names):
    names = names or [p for p in PROGRAMS if os.path.exists(os.path.join(ROOT, BUILD, "tests", p))]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for rows in pool.map(run_program, names):
            for row in rows:
                tally.add(*row)


# --- the demo -------------------------------------------------------------------------------------
def run_demo(tally, _):
    lines_suite(tally, "demo", ["tests/demo", "--check"], verbose=True)


def main():
    wanted = {}
    for argument in sys.argv[1:] or SUITES:
        suite, _, part = argument.partition(":")
        if suite not in SUITES:
            sys.exit(__doc__)
        wanted.setdefault(suite, []).extend([part] if part else [])
    os.makedirs(LOGS, exist_ok=True)
    tally = Tally()
    for suite in SUITES:
        if suite in wanted:
            print(f"--- {suite}", flush=True)
            started = time.monotonic()
            globals()[f"run_{suite}"](tally, wanted[suite])
            print(f"--- {suite}: {time.monotonic() - started:.0f} s", flush=True)
    # What matters, once more, where it is seen.
    for skip in tally.skips:
        print(f"skipped: {skip}"[:400])
    for failure in tally.failures:
        print(f"FAILED: {failure}"[:400])
    print(tally.summary())
    return 1 if tally.failures or not tally.passed else 0


if __name__ == "__main__":
    sys.exit(main())
