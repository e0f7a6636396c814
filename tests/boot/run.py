#!/usr/bin/env python3
"""Runs the boot cases and prints `PASS|FAIL|SKIP name: …` for each; exit status 1 if any failed.

usage: run.py [-l] [-j JOBS] [PATTERN...]     -l lists the cases
A pattern fits a case's name or its group (firmware, linux, rom, bad-input, program, demo).
environment:
  RHEA_EMULATOR     the emulator's command line (default: $BUILD/rhea)
  RHEA_BOOT_CASES   patterns, with commas, for when none are given
  RHEA_TIME_SCALE   multiplies every time limit
  RHEA_BOOT_LOGS    a folder for the consoles of failed cases (default: $BUILD/logs)
"""
import concurrent.futures
import fnmatch
import getopt
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.dont_write_bytecode = True
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "bench"))
import cases  # noqa: E402
import guests  # noqa: E402
import work  # noqa: E402
from console import Console, Failure  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))


class Skip(Exception):
    """The case cannot be run here, and why."""


class Context:
    """What a case may use: a folder of its own, the guests, and emulators started in it."""

    lock = threading.Lock()
    store = guests.Guests()
    problems = {}

    def __init__(self, name, emulator):
        self.name, self.emulator = name, emulator
        self.folder = tempfile.mkdtemp(prefix=f"rhea-{name}-")
        self.consoles = []

    def have(self, key, get):
        """What get() gives; a case that needs what cannot be had is skipped, and so is the next
        one, without another try: that may be a network's long time-out."""
        with Context.lock:
            if key not in Context.problems:
                try:
                    return get()
                except guests.Unavailable as problem:
                    Context.problems[key] = f"no guest: {problem}"
        raise Skip(Context.problems[key])

    def guest(self, flavour):
        """(kernel, initramfs) of a flavour."""
        return self.have(flavour, lambda: self.store.pair(flavour, self.folder))

    def busybox_here(self, script):
        """What a script for busybox's shell prints on this host."""
        busybox = self.have("amd64 busybox", lambda: self.store.busybox("amd64"))
        # Applets are looked for before programs only where the shell finds its own name for them.
        folder = os.path.join(self.folder, "applets")
        os.mkdir(folder)
        for applet in self.run_here([busybox, "--list"]).split():
            os.symlink(busybox, os.path.join(folder, applet))
        return self.run_here([busybox, "sh", "-c", script], env={"PATH": folder})

    def initramfs_with(self, architecture, programs):
        """Our initramfs with some files of this host in it: {path there: path here}."""
        rows = []
        for name, path in programs.items():
            with open(path, "rb") as f:
                rows.append(guests.file_entry(name, f.read()))
        make = lambda: self.store.initramfs(architecture, rows)
        return self.file("initramfs-with.gz", self.have(f"{architecture} initramfs", make))

    def work_program(self):
        """The bench's guest program."""
        try:
            return work.build(self.folder)
        except (OSError, subprocess.CalledProcessError) as problem:
            raise Skip(f"no static program: {problem}")

    @staticmethod
    def run_here(argv, **keywords):
        return subprocess.run(
            argv,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            **keywords,
        ).stdout

    def file(self, name, data):
        path = os.path.join(self.folder, name)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def start(self, *arguments, **keywords):
        console = Console([*self.emulator, *arguments], **keywords)
        self.consoles.append(console)
        return console

    def start_program(self, *argv):
        """A program on a terminal of its own, which starts the emulator itself."""
        console = Console(list(argv), terminal=True)
        self.consoles.append(console)
        return console

    def skip(self, why):
        raise Skip(why)

    def keep_logs(self):
        folder = os.environ.get("RHEA_BOOT_LOGS", os.path.join(BUILD, "logs"))
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"boot-{self.name}.log"), "w") as f:
            for console in self.consoles:
                f.write(
                    f"$ {shlex.join(console.argv)}\n{console.text}\n"
                    f"--- standard error\n{console.errors()}\n"
                )


def run_case(name, emulator):
    """(word, detail) of one case."""
    context, started = Context(name, emulator), time.monotonic()
    try:
        cases.CASES[name][0](context)
        word, detail = "PASS", ""
    except Skip as why:
        word, detail = "SKIP", str(why)
    except Failure as why:
        word, detail = "FAIL", str(why)
    except Exception as why:  # a broken case is a failed case
        word, detail = "FAIL", f"{type(why).__name__}: {why}"
    if word == "FAIL":
        context.keep_logs()
    shutil.rmtree(context.folder, ignore_errors=True)
    if word == "PASS":
        cpu = sum(c.cpu_seconds for c in context.consoles)
        detail = f"{time.monotonic() - started:.1f} s, CPU {cpu:.1f} s"
    return word, " ".join(detail.split())


def select(patterns):
    fits = {
        name
        for name, (_, group) in cases.CASES.items()
        for p in patterns
        if fnmatch.fnmatch(name, p) or p == group
    }
    for p in patterns:
        if not any(fnmatch.fnmatch(n, p) or p == g for n, (_, g) in cases.CASES.items()):
            sys.exit(f"run.py: no case fits '{p}' (-l lists them)")
    return [name for name in cases.CASES if name in fits]


def main():
    options, patterns = getopt.gnu_getopt(sys.argv[1:], "lj:h", ["help"])
    options = dict(options)
    if "-h" in options or "--help" in options:
        print(__doc__)
        return 0
    patterns = patterns or [p for p in os.environ.get("RHEA_BOOT_CASES", "").split(",") if p]
    names = (
        select(patterns) if patterns else [n for n, (_, g) in cases.CASES.items() if g != "demo"]
    )
    if "-l" in options:
        for name in names:
            function, group = cases.CASES[name]
            print(f"{name:28} {group:10} {(function.__doc__ or '').partition(chr(10))[0]}")
        return 0
    emulator = shlex.split(os.environ.get("RHEA_EMULATOR", os.path.join(BUILD, "rhea")))
    if not shutil.which(emulator[0]):
        print(f"FAIL boot: {emulator[0]} is not there")
        return 1
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(int(options.get("-j", os.cpu_count() or 1))) as pool:
        running = {pool.submit(run_case, name, emulator): name for name in names}
        for future in concurrent.futures.as_completed(running):
            word, detail = future.result()
            failed += word == "FAIL"
            print(f"{word} {running[future]}: {detail}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
