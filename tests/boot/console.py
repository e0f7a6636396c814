"""An emulator under test, its console at our end of two pipes or of a pseudo-terminal.

Every wait has a limit, and reaching it is a failure. RHEA_TIME_SCALE multiplies the limits (for
sanitizer builds and loaded machines)."""
import os
import pty
import re
import signal
import subprocess
import tempfile
import termios
import threading
import time

SCALE = float(os.environ.get("RHEA_TIME_SCALE", "1"))
# What a terminal would act on and a reader does not want to see, carriage returns included.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-B0-2]|\x1b[=>78cDEHM]|\r")
# Marks of a program that broke rather than refused.
CRASH = re.compile(
    r"terminate called|[Aa]ssertion|VERIFY|Sanitizer|runtime error|Traceback|core dumped"
)


class Failure(Exception):
    """What was expected did not happen; the message says what did."""


def tail(text, length=300):
    return repr(text[-length:])


class Console:
    """A running emulator. A context manager: leaving it ends the program, if it is still there."""

    def __init__(self, argv, terminal=False, stdin="pipe", user=None):
        """stdin: "pipe", "null" (the null device) or "closed" (no descriptor 0 at all)."""
        self.argv = argv
        self.started = time.monotonic()
        self.text = ""
        self.position = 0
        self.status = None  # as subprocess counts: negative is a signal
        self.cpu_seconds = 0.0
        self.errors_file = tempfile.TemporaryFile("w+", errors="replace")
        self.changed = threading.Condition()
        self.held_until = 0.0
        keywords = {"stderr": self.errors_file, "start_new_session": True, "user": user}
        self.terminal = None
        if terminal:
            self.terminal, inner = pty.openpty()
            self.inner = (
                inner  # kept open, so that its settings can be read after the program's end
            )
            self.settings_before = termios.tcgetattr(inner)
            self.process = subprocess.Popen(argv, stdin=inner, stdout=inner, **keywords)
            self.write_end, self.read_end = self.terminal, os.dup(self.terminal)
        else:
            source = {"pipe": subprocess.PIPE, "null": subprocess.DEVNULL, "closed": None}[stdin]
            closed = (lambda: os.close(0)) if stdin == "closed" else None
            self.process = subprocess.Popen(
                argv, stdin=source, stdout=subprocess.PIPE, preexec_fn=closed, **keywords
            )
            self.write_end = self.process.stdin.fileno() if self.process.stdin else None
            self.read_end = self.process.stdout.fileno()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        pending = b""
        while True:
            while time.monotonic() < self.held_until:
                time.sleep(0.05)
            try:
                data = os.read(self.read_end, 65536)
            except OSError:  # a terminal whose last user has gone
                data = b""
            pending += data
            # A control sequence may come in two pieces: keep an unfinished one back.
            cut = pending.rfind(b"\x1b", max(0, len(pending) - 16)) if data else -1
            whole, pending = (pending, b"") if cut < 0 else (pending[:cut], pending[cut:])
            with self.changed:
                self.text += CONTROL.sub("", whole.decode("utf-8", "replace"))
                if data and cut >= 0 and re.match(rb"\x1b(\[[0-9;?]*[A-Za-z]|[^\[])", pending):
                    self.text += CONTROL.sub("", pending.decode("utf-8", "replace"))
                    pending = b""
                self.changed.notify_all()
            if not data:
                return

    # --- what it says -----------------------------------------------------------------------------
    def expect(self, pattern, seconds):
        """The first match behind the previous one, within `seconds`."""
        compiled = re.compile(pattern)
        limit = time.monotonic() + seconds * SCALE
        while True:
            ended = self.poll() is not None
            if ended:
                self.reader.join(2)
            with self.changed:
                match = compiled.search(self.text, self.position)
                if match:
                    self.position = match.end()
                    return match
                if ended:
                    raise Failure(
                        f"ended with status {self.status} before /{pattern}/; it said "
                        f"{tail(self.errors())}, the console {tail(self.text)}"
                    )
                if time.monotonic() > limit:
                    raise Failure(
                        f"no /{pattern}/ in {seconds:g} s; the console's end: {tail(self.text)}"
                    )
                self.changed.wait(0.1)

    def errors(self):
        """What the program wrote to its standard error so far."""
        # The program shares this file's offset, so that is read elsewhere.
        size = os.fstat(self.errors_file.fileno()).st_size
        return os.pread(self.errors_file.fileno(), min(size, 65536), 0).decode("utf-8", "replace")

    def hold(self, seconds):
        """Reads nothing for a while, as a terminal does whose user has stopped it."""
        self.held_until = time.monotonic() + seconds

    # --- what we say ------------------------------------------------------------------------------
    def send(self, text):
        rest = text.encode()
        while rest:
            rest = rest[os.write(self.write_end, rest) :]

    def shell(self, command, seconds=60):
        """Runs a command in the guest's shell; its output, once it has ended with status 0."""
        self.send(f'{command}; echo "==$?=="\n')
        match = self.expect(r"(?s)\n(.*?)==(\d+)==", seconds)
        if match[2] != "0":
            raise Failure(f"guest: '{command}' ended with {match[2]}: {tail(match[1])}")
        return match[1]

    # --- its life ---------------------------------------------------------------------------------
    def poll(self):
        """The exit status, or None while it runs."""
        if self.status is None:
            pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
                self.process.returncode = self.status
                self.cpu_seconds = usage.ru_utime + usage.ru_stime
        return self.status

    def cpu_now(self):
        """CPU seconds of a program that still runs."""
        with open(f"/proc/{self.process.pid}/stat") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_exit(self, seconds, status=0):
        """Waits for the end, which must have this status."""
        limit = time.monotonic() + seconds * SCALE
        while self.poll() is None:
            if time.monotonic() > limit:
                raise Failure(f"did not end in {seconds:g} s; the console's end: {tail(self.text)}")
            time.sleep(0.02)
        self.reader.join(2)
        if self.status != status:
            raise Failure(
                f"ended with status {self.status}, not {status}: {tail(self.errors())}; "
                f"the console's end: {tail(self.text)}"
            )
        broken = CRASH.search(self.errors())
        if broken:
            raise Failure(f"broke ({broken[0]}): {tail(self.errors())}")

    def settings_restored(self):
        """Whether the terminal is as it was before the program."""
        return termios.tcgetattr(self.inner) == self.settings_before

    def signal(self, number):
        os.kill(self.process.pid, number)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.poll() is None:
            self.signal(signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.01)
        self.reader.join(2)
        if self.terminal is not None:
            for descriptor in (self.terminal, self.inner, self.read_end):
                os.close(descriptor)
        else:
            self.process.stdout.close()
            if self.process.stdin:
                try:
                    self.process.stdin.close()
                except BrokenPipeError:
                    pass
