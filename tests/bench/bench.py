#!/usr/bin/env python3
"""`make bench`: Rhea beside QEMU's TCG (when installed), on the same guest, in turns.

The figure is CPU seconds of the emulator, summed over its threads: on a machine that others use
too,
wall time says little. A workload counts only if its checksum is that of the same program run
natively.

usage: bench.py [option]...
  --rounds=N         how often each emulator runs everything (default 3)
  --scale=PERCENT    the workloads' amount of work (default 100)
  --only=NAME,...    workloads or groups (integer, float, memory, system, boot, start)
  --cpu=MODEL        -cpu of both emulators (default qemu64)
  --emulator=NAME=COMMAND...  one more, or another, emulator
  --no-peer          Rhea alone
  --output=FILE      the JSON (default $BUILD/bench.json)
"""
import getopt
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tests", "boot"))
import guests  # noqa: E402
import measure  # noqa: E402
import work  # noqa: E402
from measure import Broken  # noqa: E402

BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
MEGABYTES = 512
RUN_SECONDS = 1800
GROUPS = ("integer", "float", "memory", "system")


class Guest:
    """Debian's cloud kernel, our initramfs with the workloads in it."""

    def __init__(self, folder, program):
        store = guests.Guests()
        self.kernel = store.kernel("cloud-amd64")
        with open(program, "rb") as f:
            extra = [guests.file_entry("bin/work", f.read())]
        self.initramfs = os.path.join(folder, "initramfs.gz")
        guests.write(self.initramfs, store.initramfs("amd64", extra))

    def arguments(self, cpu, append):
        line = f"console=ttyS0 quiet {append}".strip()
        common = ["-cpu", cpu, "-m", str(MEGABYTES), "-net", "none", "-no-reboot"]
        common += ["-serial", "stdio", "-display", "none", "-monitor", "none"]
        return common + ["-kernel", self.kernel, "-initrd", self.initramfs, "-append", line]


def run_native(program, names, scale):
    """{name: (group, checksum, CPU seconds)}, the fastest of three."""
    best = {}
    for _ in range(3):
        out = subprocess.run(
            [program, scale, *names], check=True, stdout=subprocess.PIPE, text=True
        )
        for line in out.stdout.splitlines():
            if line.startswith("END "):
                _, name, group, checksum, seconds = line.split()
                if name not in best or float(seconds) < best[name][2]:
                    best[name] = (group, checksum, float(seconds))
    return best


def run_workloads(emulator, guest, cpu, names, scale):
    """{name: (checksum, CPU seconds of the emulator)} of one run of all of them."""
    command = ",".join(["work", scale, *names])
    results = {}
    with measure.Run(emulator + guest.arguments(cpu, f"rhea.run={command}"), RUN_SECONDS) as run:
        run.until(r"RUN work")
        while True:
            line = run.until(r"BEGIN \S+\n|RUN-STATUS \d+").line
            if line.startswith("RUN-STATUS"):
                if not line.endswith(" 0"):
                    raise Broken(f"the guest's program ended with {line}")
                return results
            name = line.split()[1]
            before = run.sample()
            after = run.until(rf"END {name} \S+ [0-9a-f]+ ")
            results[name] = (after.line.split()[3], after.cpu - before.cpu)


def run_boot(emulator, guest, cpu):
    """What a boot to the shell costs, and what is in memory then."""
    with measure.Run(emulator + guest.arguments(cpu, ""), 900) as run:
        shell = run.until(r"guest:\S+[#$] ")
        time.sleep(1)  # what it does behind the prompt is not the boot's
        kinds = measure.resident(run.pid, MEGABYTES)
    return {"cpu": shell.cpu, "wall": shell.wall, **{k: v / 1024 for k, v in kinds.items()}}


def run_start(emulator):
    """From the start of the program to the first byte on SeaBIOS's debug port."""
    arguments = "-m 64 -nodefaults -vga none -net none -display none -monitor none".split()
    arguments += ["-chardev", "stdio,id=d", "-device", "isa-debugcon,iobase=0x402,chardev=d"]
    with measure.Run(emulator + arguments, 60) as run:
        first = run.first_byte()
    return {"cpu": first.cpu, "wall": first.wall}


# --- the table ------------------------------------------------------------------------------------
def geometric_mean(values):
    values = [v for v in values if v > 0]
    return math.exp(statistics.fmean(map(math.log, values))) if values else float("nan")


def median(rows):
    """The median of each figure over dictionaries with the same keys."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def print_workloads(native, medians, names):
    first, *peers = medians
    head = f"{'CPU seconds':18}{'native':>9}" + "".join(f"{e:>10}" for e in medians)
    head += f"{first + '/native':>14}" + "".join(f"{'vs ' + p:>10}" for p in peers)
    print(head)
    ratios = {}
    for group in GROUPS:
        rows = [n for n in names if native[n][0] == group]
        for name in rows:
            own = medians[first].get(name)
            line = f"{name:18}{native[name][2]:9.3f}"
            line += "".join(
                f"{medians[e][name]:10.3f}" if name in medians[e] else f"{'failed':>10}"
                for e in medians
            )
            if own:
                ratios.setdefault((group, "native"), []).append(own / native[name][2])
                line += f"{own / native[name][2]:13.1f}x"
                for peer in peers:
                    if name in medians[peer]:
                        ratio = medians[peer][name] / own
                        ratios.setdefault((group, peer), []).append(ratio)
                        line += f"{ratio:9.2f}x"
            print(line)
        if rows:
            line = f"{group + ', geomean':18}{'':9}" + " " * 10 * len(medians)
            line += f"{geometric_mean(ratios.get((group, 'native'), [])):13.1f}x"
            line += "".join(f"{geometric_mean(ratios.get((group, p), [])):9.2f}x" for p in peers)
            print(line + "\n")
    return {f"{group} vs {other}": geometric_mean(v) for (group, other), v in ratios.items()}


def print_figures(title, medians, rows):
    print(f"{title:34}" + "".join(f"{e:>12}" for e in medians))
    for key, text, factor in rows:
        print(f"{text:34}" + "".join(f"{m[key] * factor:12.2f}" for m in medians.values()))
    print()


# --- the command ----------------------------------------------------------------------------------
class Options:
    def __init__(self, argv):
        longs = ["rounds=", "scale=", "only=", "cpu=", "emulator=", "no-peer", "output=", "help"]
        try:
            given, rest = getopt.gnu_getopt(argv, "h", longs)
        except getopt.GetoptError as problem:
            sys.exit(f"bench.py: {problem}")
        if rest or any(k in ("-h", "--help") for k, _ in given):
            sys.exit(__doc__)
        values = dict(given)
        self.rounds = int(values.get("--rounds", 3))
        self.scale = values.get("--scale", "100")
        self.only = [w for w in values.get("--only", "").split(",") if w]
        self.cpu = values.get("--cpu", "qemu64")
        self.output = values.get("--output", os.path.join(BUILD, "bench.json"))
        self.emulators = {"rhea": [os.path.join(BUILD, "rhea")]}
        if "--no-peer" not in values:
            if shutil.which("qemu-system-x86_64"):
                self.emulators["tcg"] = ["qemu-system-x86_64", "-accel", "tcg"]
            else:
                print("no peer to compare with (package qemu-system-x86)")
        for key, value in given:
            if key == "--emulator":
                name, _, command = value.partition("=")
                self.emulators[name] = shlex.split(command)
        for name, command in list(self.emulators.items()):
            if not shutil.which(command[0]):
                sys.exit(f"bench.py: {command[0]} is not there")

    def wants(self, *names):
        return not self.only or any(n in self.only for n in names)


class Bench:
    def __init__(self, options, folder):
        self.options = options
        program = work.build(folder)
        listed = subprocess.run([program, "list"], check=True, stdout=subprocess.PIPE, text=True)
        rows = [line.split() for line in listed.stdout.splitlines()]
        self.names = [n for n, g in rows if options.wants(n, g)]
        known = {w for row in rows for w in row} | {"boot", "start"}
        for word in options.only:
            if word not in known:
                sys.exit(f"bench.py: --only={word}: there is no such workload or group")
        self.guest = Guest(folder, program)
        self.native = run_native(program, self.names, options.scale) if self.names else {}
        self.rounds = {e: {"workloads": [], "boot": [], "start": []} for e in options.emulators}
        self.problems = []

    def attempt(self, emulator, what, function, *arguments):
        try:
            self.rounds[emulator][what].append(function(*arguments))
        except Broken as problem:
            self.problems.append(f"{emulator}, {what}: {problem}")

    def run(self):
        options = self.options
        for number in range(options.rounds):
            for name, command in options.emulators.items():
                print(
                    f"round {number + 1} of {options.rounds}: {name}", file=sys.stderr, flush=True
                )
                if options.wants("start"):
                    self.attempt(name, "start", run_start, command)
                if options.wants("boot"):
                    self.attempt(name, "boot", run_boot, command, self.guest, options.cpu)
                if self.names:
                    arguments = (command, self.guest, options.cpu, self.names, options.scale)
                    self.attempt(name, "workloads", run_workloads, *arguments)

    def workload_medians(self, emulator):
        """{name: CPU seconds}; one whose result was ever wrong has no figure."""
        figures = {}
        for name in self.names:
            runs = [r[name] for r in self.rounds[emulator]["workloads"] if name in r]
            wrong = [checksum for checksum, _ in runs if checksum != self.native[name][1]]
            if wrong:
                self.problems.append(
                    f"{emulator}, {name}: checksum {wrong[0]}, natively {self.native[name][1]}"
                )
            elif runs:
                figures[name] = statistics.median(seconds for _, seconds in runs)
        return figures

    def report(self):
        result = {"ratios": {}, "medians": {}}
        print()
        if self.names:
            medians = {e: self.workload_medians(e) for e in self.rounds}
            result["medians"]["workloads"] = medians
            result["ratios"] = print_workloads(self.native, medians, self.names)
        for what, title, rows in (
            (
                "boot",
                f"boot to a shell, {MEGABYTES} MiB",
                [
                    ("cpu", "CPU s", 1),
                    ("wall", "wall s", 1),
                    ("other", "resident besides RAM and code, MiB", 1),
                    ("code", "generated code, MiB", 1),
                ],
            ),
            (
                "start",
                "start to the firmware's first byte",
                [("cpu", "CPU ms", 1000), ("wall", "wall ms", 1000)],
            ),
        ):
            medians = {e: median(r[what]) for e, r in self.rounds.items() if r[what]}
            if medians:
                result["medians"][what] = medians
                print_figures(title, medians, rows)
        (own, figures), *peers = result["medians"].get("boot", {"": {}}).items()
        for peer, other in peers:
            result["ratios"][f"boot vs {peer}"] = other["cpu"] / figures["cpu"]
            print(f"boot: {own} takes {figures['cpu'] / other['cpu']:.2f} of {peer}'s CPU time\n")
        return result

    def write(self, result):
        revision = subprocess.run(
            ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True
        ).stdout.strip()
        document = {
            "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "revision": revision,
            "host": {"cpu": cpu_model(), "cpus": os.cpu_count(), "kernel": platform.release()},
            "guest_cpu": self.options.cpu,
            "scale": self.options.scale,
            "emulators": self.options.emulators,
            "native": self.native,
            "rounds": self.rounds,
            "problems": self.problems,
            **result,
        }
        with open(self.options.output, "w") as f:
            json.dump(document, f, indent=1)
        print(f"written: {os.path.relpath(self.options.output)}")


def cpu_model():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "unknown"


def main():
    options = Options(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="rhea-bench-") as folder:
        try:
            bench = Bench(options, folder)
        except guests.Unavailable as problem:
            sys.exit(f"bench.py: no guest: {problem}")
        bench.run()
        result = bench.report()
        bench.write(result)
    for problem in bench.problems:
        print(f"PROBLEM {problem}")
    return 1 if bench.problems else 0


if __name__ == "__main__":
    sys.exit(main())
