"""Running an emulator under a clock: what a process has spent so far, and what it has in memory."""
import collections
import os
import re
import select
import subprocess
import time

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Broken(Exception):
    """A run that did not do what it was for."""


def cpu_seconds(pid):
    """CPU time of all threads of a process so far, those that have ended included.

    The clock of another process (clock_getcpuclockid(3)); its number is the complement of the pid,
    shifted, with the clock's kind below (Linux, include/linux/posix-timers.h). Not a number once
    the process has ended."""
    try:
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return float("nan")


Sample = collections.namedtuple("Sample", "wall cpu line")


class Run:
    """An emulator whose guest's console is its standard output, read line by line with the clocks
    of
    each. A context manager: the emulator ends with it."""

    def __init__(self, argv, limit):
        self.argv, self.start = argv, time.monotonic()
        self.limit = self.start + limit
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.pid, self.pending, self.last = self.process.pid, b"", b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.stdout.close()
        self.process.wait()

    def sample(self, line=""):
        return Sample(time.monotonic() - self.start, cpu_seconds(self.pid), line)

    def _more(self):
        left = self.limit - time.monotonic()
        if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
            raise Broken(f"took too long: {' '.join(self.argv)}; the last line: {self.last!r}")
        data = os.read(self.process.stdout.fileno(), 65536)
        if not data:
            raise Broken(f"ended early: {' '.join(self.argv)}; the last line: {self.last!r}")
        return data

    def first_byte(self):
        """When the first byte of output comes."""
        self.pending += self._more()
        return self.sample()

    def until(self, pattern):
        """The sample at which the text since the last match holds the pattern."""
        compiled = re.compile(pattern.encode())
        while True:
            match = compiled.search(CONTROL.sub(b"", self.pending))
            if match:
                text = CONTROL.sub(b"", self.pending)
                self.pending = text[match.end() :]
                return self.sample(match[0].decode())
            self.pending += self._more()
            self.last = self.pending[-200:]


def resident(pid, guest_megabytes):
    """Resident KiB of a process by kind: the guest's RAM, generated code, and everything else.

    RAM is a mapping about as large as the guest's memory; code is what may be executed and is no
    file of this system (and the other mappings of the same memory file)."""
    areas, area = [], None
    with open(f"/proc/{pid}/smaps") as smaps:
        for line in smaps:
            head = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)", line)
            if head:
                size = int(head[2], 16) - int(head[1], 16)
                area = {"size": size, "rights": head[3], "name": head[4], "resident": 0}
                areas.append(area)
            elif line.startswith("Rss:"):
                area["resident"] = int(line.split()[1])
    in_memory = lambda a: not a["name"] or a["name"].startswith(("/memfd:", "/dev/zero", "[anon"))
    code_files = {
        a["name"] for a in areas if "x" in a["rights"] and a["name"].startswith("/memfd:")
    }
    kinds = {"ram": 0, "code": 0, "other": 0}
    for a in areas:
        if in_memory(a) and ("x" in a["rights"] or a["name"] in code_files):
            kind = "code"
        elif in_memory(a) and a["size"] >= guest_megabytes * 0.9 * 2**20:
            kind = "ram"
        else:
            kind = "other"
        kinds[kind] += a["resident"]
    return kinds
