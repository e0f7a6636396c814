"""What real guests must do, and what bad input must lead to. Each case gets a `Context`."""
import hashlib
import os
import re
import shutil
import signal
import time

from console import CRASH, Failure, tail

CASES = {}  # name → (function, group)


def case(name, group):
    def declare(function):
        assert name not in CASES
        CASES[name] = (function, group)
        return function

    return declare


def must(pattern, text, what):
    if not re.search(pattern, text):
        raise Failure(f"{what}: no /{pattern}/ in {tail(text)}")


# --- firmware -------------------------------------------------------------------------------------
DEBUG_LOG = (
    "-m 64 -nodefaults -vga none -net none "
    "-chardev stdio,id=d -device isa-debugcon,iobase=0x402,chardev=d"
).split()
QUIET = "-display none -monitor none -no-reboot".split()
NO_MEDIUM = r"No bootable device"


def firmware_log(console):
    console.expect(r"SeaBIOS \(version ", 60)
    console.expect(r"e820: addr 0x0000000000000000 len 0x0000000004000000 \[RAM\]", 60)
    console.expect(r"Found 1 cpu\(s\)", 60)
    console.expect(NO_MEDIUM, 120)


@case("firmware-log", "firmware")
def _(context):
    """SeaBIOS, from the reset vector to the end of its boot order, by its debug port."""
    with context.start(*DEBUG_LOG, *QUIET) as console:
        firmware_log(console)
        console.signal(signal.SIGTERM)
        console.wait_exit(10)


@case("firmware-idle", "firmware")
def _(context):
    """A guest that halts for ever costs no CPU time."""
    with context.start(*DEBUG_LOG, *QUIET) as console:
        console.expect(NO_MEDIUM, 120)
        time.sleep(1)
        before = console.cpu_now()
        time.sleep(4)
        spent = console.cpu_now() - before
        if spent > 0.4:
            raise Failure(f"an idle guest cost {spent:.2f} CPU seconds in 4 s")


def firmware_without_stdin(context, stdin):
    with context.start(*DEBUG_LOG, *QUIET, stdin=stdin) as console:
        firmware_log(console)
        before = console.cpu_now()
        time.sleep(2)
        if console.cpu_now() - before > 0.5:
            raise Failure("spins on an input that has ended")
        console.signal(signal.SIGTERM)
        console.wait_exit(10)


@case("stdin-ended", "firmware")
def _(context):
    firmware_without_stdin(context, "null")


@case("stdin-closed", "firmware")
def _(context):
    firmware_without_stdin(context, "closed")


@case("firmware-kvm", "firmware")
def _(context):
    """SeaBIOS by the host's KVM, with the machine's own interrupt controllers."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        context.skip("/dev/kvm is not there or not ours to open")
    with context.start("-accel", "kvm", *DEBUG_LOG, *QUIET) as console:
        firmware_log(console)
        console.signal(signal.SIGTERM)
        console.wait_exit(10)


@case("terminal-restored", "firmware")
def _(context):
    """-nographic takes the terminal; Ctrl-A x ends the program and gives it back as it was."""
    with context.start("-m", "64", "-nographic", "-net", "none", terminal=True) as console:
        console.expect(NO_MEDIUM, 120)
        console.send("\x01x")
        console.wait_exit(10)
        if not console.settings_restored():
            raise Failure("the terminal's settings are not as they were")


@case("terminal-restored-on-signal", "firmware")
def _(context):
    with context.start("-m", "64", "-nographic", "-net", "none", terminal=True) as console:
        console.expect(NO_MEDIUM, 120)
        console.signal(signal.SIGTERM)
        console.wait_exit(10)
        if not console.settings_restored():
            raise Failure("the terminal's settings are not as they were")


# --- Linux ----------------------------------------------------------------------------------------
# A kernel's complaints, but for those that are about the (virtual) hardware's age.
COMPLAINT = r"BUG:|WARNING: CPU|Oops|unchecked MSR|Call Trace|rcu: INFO|soft lockup|nobody cared"


def to_shell(console, machine, seconds=600):
    ready = console.expect(r"GUEST-READY (\S+) (\S+)", seconds)
    if ready[1] != machine:
        raise Failure(f"the guest calls itself {ready[1]}, not {machine}")
    console.expect(r"guest:\S+[#$] ", 60)


def start_linux(context, flavour, append, *arguments):
    """A kernel of this flavour and our initramfs on the serial line; append is added to its command
    line."""
    kernel, initramfs = context.guest(flavour)
    line = f"console=ttyS0 {append}".strip()
    common = ["-m", "256", "-kernel", kernel, "-initrd", initramfs, "-append", line]
    common += ["-serial", "stdio", "-display", "none", "-monitor", "none", "-net", "none"]
    return context.start(*common, *arguments)


def linux(flavour, machine):
    @case(f"linux-{flavour}", "linux")
    def _(context):
        """Debian's kernel and busybox: a shell on the serial line, an orderly end."""
        with start_linux(context, flavour, "", "-no-reboot") as console:
            to_shell(console, machine)
            must(r"timer|LOC", console.shell("cat /proc/interrupts"), "/proc/interrupts")
            must(r"(?m)^42$", console.shell("echo $((6 * 7))"), "arithmetic")
            must(r"MemTotal: +2\d{5} kB", console.shell("head -n 1 /proc/meminfo"), "memory size")
            log = console.shell("dmesg", 120)
            complaint = re.search(f"(?m)^.*({COMPLAINT}).*$", log)
            if complaint:
                raise Failure(f"the kernel complains: {complaint[0]}")
            zeros = hashlib.sha256(bytes(1 << 20)).hexdigest()
            total = console.shell("head -c 1048576 /dev/zero | sha256sum", 120)
            must(zeros, total, "sha256sum")
            before = time.monotonic()
            console.shell("sleep 3")
            slept = time.monotonic() - before
            if not 2.9 < slept < 8:
                raise Failure(f"'sleep 3' took {slept:.1f} s")
            console.send("poweroff -f\n")
            console.wait_exit(60)


linux("cloud-amd64", "x86_64")
linux("amd64", "x86_64")
linux("686-pae", "i686")


@case("linux-idle", "linux")
def _(context):
    """A guest at its prompt sleeps, and so does the emulator."""
    with start_linux(context, "cloud-amd64", "quiet", "-no-reboot") as console:
        to_shell(console, "x86_64")
        time.sleep(3)
        before = console.cpu_now()
        time.sleep(5)
        spent = console.cpu_now() - before
        if spent > 1:
            raise Failure(f"an idle guest cost {spent:.2f} CPU seconds in 5 s")


@case("linux-clock", "linux")
def _(context):
    """The guest knows the time of day, and it passes as it does here."""
    with start_linux(context, "cloud-amd64", "quiet", "-no-reboot") as console:
        to_shell(console, "x86_64")
        for _ in range(2):
            there, here = int(console.shell("date +%s").split()[-1]), time.time()
            if abs(there - here) > 3:
                raise Failure(f"the guest's clock is off by {there - here:.1f} s")
            console.shell("sleep 4")


@case("linux-memory", "linux")
def _(context):
    """More memory than fits below 4 GiB."""
    with start_linux(context, "cloud-amd64", "quiet", "-no-reboot", "-m", "6G") as console:
        to_shell(console, "x86_64")
        total = int(console.shell("head -n 1 /proc/meminfo").split()[-2])
        if not 5.5 * 2**20 < total < 6 * 2**20:
            raise Failure(f"the guest has {total} KiB")
        # Pages above 4 GiB hold what is written to them.
        copy = "dd bs=64k count=128 iflag=fullblock of=/tmp/large"
        console.shell(f"yes 0123456789abcde | {copy}", 300)
        total = hashlib.md5(b"0123456789abcde\n" * (1 << 19)).hexdigest()
        must(total, console.shell("md5sum /tmp/large", 300), "md5sum")


@case("linux-input", "linux")
def _(context):
    """A page of text pasted into the console arrives whole."""
    with start_linux(context, "cloud-amd64", "quiet", "-no-reboot") as console:
        to_shell(console, "x86_64")
        text = "".join(f"line {i} of a long paste, with {i * i} in it\n" for i in range(300))
        console.shell("stty -echo")
        console.send(f"cat > /tmp/paste\n{text}\x04")
        total = console.shell("md5sum < /tmp/paste", 120)
        must(hashlib.md5(text.encode()).hexdigest(), total, "md5sum of what was pasted")


@case("linux-output", "linux")
def _(context):
    """Nothing is lost when the guest writes faster than anybody reads."""
    with start_linux(context, "cloud-amd64", "quiet", "-no-reboot") as console:
        to_shell(console, "x86_64")
        console.send("seq 1 20000; echo e''nd\n")
        console.hold(3)
        said = console.expect(r"(?s)\n(1\n2\n.*?\n)end\n", 300)[1]
        if said != "".join(f"{i}\n" for i in range(1, 20001)):
            raise Failure(f"{len(said)} characters came, and not the right ones: {tail(said)}")


# Commands whose output depends on nothing but themselves: the guest's busybox must print what the
# same program prints here.
USERLAND = [
    "seq 1 3000 | awk '{s+=$1*$1/7} END {printf \"%.9f\\n\", s}'",
    "seq 1 9000 | sort -r | md5sum",
    "seq 1 9000 | gzip | gunzip | sha1sum",
    "seq 1 4000 | bzip2 | bunzip2 | sha512sum",
    "yes abcdefg | head -n 5000 | sed s/c./X/ | sha256sum",
    "echo '2^400 % 1000007; 7^90' | bc",
    "i=0; s=1; while [ $i -lt 3000 ]; do s=$((s * 31 % 65537)); i=$((i+1)); done; echo $s",
    "for i in 1 2 3 4 5 6 7 8; do (echo $((i * i))); done | tr '\\n' ' '",
    "seq 1 500 | xargs -n 7 echo | md5sum",
    "head -c 70000 /dev/zero | tr '\\0' q | uuencode - | md5sum",
    "sh -c \"trap 'echo caught' USR1; kill -USR1 \\$\\$; echo after\"",
    "(exit 7); echo $?; false || echo or; true && echo and",
    "dc -e '30 k 2 v p'",
    "printf '%d %x %o %e\\n' 12345 48879 511 3.14159",
]


def userland(flavour, machine):
    @case(f"linux-userland-{flavour}", "linux")
    def _(context):
        """A few dozen programs print in the guest what they print natively."""
        script = "".join(f"({line}) 2>&1\n" for line in USERLAND)
        native = context.busybox_here(script)
        with start_linux(context, flavour, "quiet", "-no-reboot") as console:
            to_shell(console, machine)
            console.shell("stty -echo")
            console.send(f"cat > /tmp/script\n{script}\x04")
            said = console.shell("echo '---'; sh /tmp/script; true", 300).partition("---")[2]
            if said.strip() != native.strip():
                for there, here in zip(said.strip().split("\n"), native.strip().split("\n")):
                    if there != here:
                        raise Failure(f"the guest says {there!r}, this host {here!r}")
                raise Failure(f"the guest says {tail(said)}, this host {tail(native)}")


userland("cloud-amd64", "x86_64")
userland("686-pae", "i686")


@case("linux-workloads", "linux")
def _(context):
    """The bench's workloads, in small: their checksums are those of a native run."""
    work = context.work_program()
    native = context.run_here([work, "2"])
    wanted = dict(re.findall(r"END (\S+ \S+) ([0-9a-f]+)", native))
    initramfs = context.initramfs_with("amd64", {"bin/work": work})
    kernel, _ = context.guest("cloud-amd64")
    arguments = ["-m", "256", "-kernel", kernel, "-initrd", initramfs]
    arguments += ["-append", "console=ttyS0 quiet rhea.run=work,2", "-serial", "stdio", *QUIET]
    with context.start(*arguments, "-net", "none") as console:
        for name, checksum in wanted.items():
            said = console.expect(rf"END {name} ([0-9a-f]{{16}})", 600)[1]
            if said != checksum:
                raise Failure(f"{name}: checksum {said}, natively {checksum}")
        console.expect("RUN-STATUS 0", 30)
        console.wait_exit(60)


@case("linux-reboot", "linux")
def _(context):
    """`reboot` starts the machine again."""
    with start_linux(context, "cloud-amd64", "quiet") as console:
        to_shell(console, "x86_64")
        console.send("reboot -f\n")
        to_shell(console, "x86_64")
        console.send("poweroff\n")  # by way of init, which ends every process first
        console.wait_exit(60)


@case("linux-no-reboot", "linux")
def _(context):
    """With -no-reboot a reboot ends the program."""
    with start_linux(context, "cloud-amd64", "quiet rhea.run=reboot,-f", "-no-reboot") as console:
        console.expect(r"RUN reboot -f", 600)
        console.wait_exit(60)


@case("linux-panic", "linux")
def _(context):
    """Without a root file system the kernel panics; panic=-1 makes that a reset."""
    kernel, _ = context.guest("cloud-amd64")
    arguments = ["-m", "256", "-kernel", kernel, "-append", "console=ttyS0 quiet panic=-1"]
    with context.start(*arguments, "-serial", "stdio", *QUIET, "-net", "none") as console:
        console.expect(r"Kernel panic - not syncing", 600)
        console.wait_exit(60)


# --- tiny guests of our own -----------------------------------------------------------------------
def rom(code):
    """A 64 KiB firmware image: 16-bit `code` at F000:0000, at the reset vector a jump to it."""
    image = bytearray(b"\xf4" * 65536)  # hlt
    image[: len(code)] = code
    image[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"  # jmp f000:0000
    return bytes(image)


def start_rom(context, code, *arguments):
    image = context.file("rom.bin", rom(code))
    common = ["-m", "16", "-nodefaults", "-net", "none", "-vga", "none", *QUIET]
    return context.start(*common, "-bios", image, *arguments)


EXIT_PORT = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x4"]


@case("rom-debug-exit", "rom")
def _(context):
    """mov al,0x15; out 0xf4,al: the exit status is (value << 1) | 1."""
    with start_rom(context, b"\xb0\x15\xe6\xf4", *EXIT_PORT) as console:
        console.wait_exit(20, status=0x2B)


@case("rom-triple-fault", "rom")
def _(context):
    """An empty interrupt table and an interrupt: a shut-down, and so a reset, and so the end."""
    # lidt cs:[0x10]; int3 — with a table limit of 0 at 0x10.
    code = b"\x2e\x0f\x01\x1e\x10\x00\xcc".ljust(16, b"\x90") + bytes(6)
    with start_rom(context, code) as console:
        console.wait_exit(20)


@case("rom-write-is-ignored", "rom")
def _(context):
    """Writes to ROM change nothing: the byte read back decides the exit status."""
    # mov ax,0xf000; mov ds,ax; mov byte [0x100],0x55; mov al,[0x100]; out 0xf4,al
    code = b"\xb8\x00\xf0\x8e\xd8\xc6\x06\x00\x01\x55\xa0\x00\x01\xe6\xf4"
    with start_rom(context, code, *EXIT_PORT) as console:
        console.wait_exit(20, status=(0xF4 << 1 | 1) & 0xFF)


@case("rom-jump-to-nowhere", "rom")
def _(context):
    """Protected mode, a jump to 3 GiB where nothing is, no exception table: a shut-down."""
    # lidt cs:[0x40]; lgdt cs:[0x46]; mov eax,cr0; or al,1; mov cr0,eax; jmp dword 8:0xc0000000
    code = b"\x2e\x0f\x01\x1e\x40\x00\x2e\x0f\x01\x16\x46\x00\x0f\x20\xc0\x0c\x01\x0f\x22\xc0"
    code += b"\x66\xea\x00\x00\x00\xc0\x08\x00"
    code = code.ljust(0x40, b"\x90") + bytes(6) + b"\x0f\x00" + (0xF0050).to_bytes(4, "little")
    code = code.ljust(0x50, b"\x90") + bytes(8) + bytes.fromhex("ffff0000009bcf00")
    with start_rom(context, code) as console:
        console.wait_exit(20)


# --- bad input ------------------------------------------------------------------------------------
def refuses(context, arguments, *patterns, user=None):
    """The program ends at once with status 1 and a short message that holds every pattern."""
    with context.start(*arguments, user=user) as console:
        limit = time.monotonic() + 20
        while console.poll() is None:
            if time.monotonic() > limit:
                raise Failure(f"still runs; it said {tail(console.errors())}")
            time.sleep(0.01)
        said = console.errors()
        if console.status != 1:
            raise Failure(f"ended with status {console.status}, not 1: {tail(said)}")
        if CRASH.search(said):
            raise Failure(f"broke rather than refused: {tail(said)}")
        if not said.strip() or len(said.splitlines()) > 12:
            raise Failure(f"wants a short message, said {tail(said)}")
        for pattern in patterns:
            must(pattern, said, "message")


HEADLESS = ["-serial", "stdio", *QUIET, "-net", "none"]


@case("bad-option", "bad-input")
def _(context):
    refuses(context, ["-frobnicate"], "-frobnicate")


@case("bad-option-nearest", "bad-input")
def _(context):
    refuses(context, ["-kernl", "x"], "-kernl", "-kernel")


@case("bad-option-without-value", "bad-input")
def _(context):
    refuses(context, ["-m"], "-m")


@case("bad-device", "bad-input")
def _(context):
    refuses(context, ["-device", "frobnicator", *HEADLESS], "frobnicator")


@case("bad-device-option", "bad-input")
def _(context):
    refuses(context, ["-device", "isa-debug-exit,iobsae=1", *HEADLESS], "iobsae")


@case("bad-machine", "bad-input")
def _(context):
    refuses(context, ["-machine", "abacus", *HEADLESS], "abacus")


for _name, _size in (("zero", "0"), ("words", "lots"), ("huge", "1000000000G"), ("negative", "-5")):

    @case(f"bad-memory-{_name}", "bad-input")
    def _(context, size=_size):
        refuses(context, ["-m", size, *HEADLESS], "-m")


@case("bad-memory-small", "bad-input")
def _(context):
    """1 MiB is too little for a Linux kernel, and the message says so before the guest starts."""
    kernel, _ = context.guest("cloud-amd64")
    refuses(context, ["-m", "1", "-kernel", kernel, *HEADLESS], "(?i)memory|-m")


@case("bad-kernel-missing", "bad-input")
def _(context):
    refuses(
        context,
        ["-kernel", "/nonexistent/vmlinuz", *HEADLESS],
        "/nonexistent/vmlinuz",
        "(?i)no such file",
    )


@case("bad-kernel-folder", "bad-input")
def _(context):
    refuses(context, ["-kernel", context.folder, *HEADLESS], re.escape(context.folder))


@case("bad-kernel-empty", "bad-input")
def _(context):
    path = context.file("empty", b"")
    refuses(context, ["-kernel", path, *HEADLESS], re.escape(path))


@case("bad-kernel-text", "bad-input")
def _(context):
    path = context.file("letter.txt", b"Dear kernel,\n" * 1000)
    refuses(context, ["-kernel", path, *HEADLESS], re.escape(path))


def truncated(name, length):
    @case(f"bad-kernel-truncated-{name}", "bad-input")
    def _(context):
        with open(context.guest("cloud-amd64")[0], "rb") as f:
            path = context.file("vmlinuz-cut", f.read(length))
        refuses(context, ["-kernel", path, *HEADLESS], re.escape(path))


truncated("header", 0x210)
truncated("setup", 4096)
truncated("body", 1 << 20)


@case("bad-kernel-unreadable", "bad-input")
def _(context):
    """A file whose reading fails (/proc/self/mem has nothing at offset 0), for root too."""
    refuses(context, ["-kernel", "/proc/self/mem", *HEADLESS], "/proc/self/mem")


@case("bad-kernel-forbidden", "bad-input")
def _(context):
    path = context.file("secret", b"x" * 65536)
    os.chmod(path, 0)
    if os.getuid():
        refuses(context, ["-kernel", path, *HEADLESS], re.escape(path), "(?i)permission")
        return
    # Nobody else may enter where root builds: let them run a copy, from where they may.
    os.chmod(context.folder, 0o755)
    context.emulator = [shutil.copy(shutil.which(context.emulator[0]), context.folder)]
    refuses(context, ["-kernel", path, *HEADLESS], re.escape(path), "(?i)permission", user=65534)


@case("bad-initrd-missing", "bad-input")
def _(context):
    kernel, _ = context.guest("cloud-amd64")
    refuses(
        context, ["-kernel", kernel, "-initrd", "/nonexistent/rd", *HEADLESS], "/nonexistent/rd"
    )


@case("bad-initrd-large", "bad-input")
def _(context):
    kernel, _ = context.guest("cloud-amd64")
    path = context.file("large", b"")
    os.truncate(path, 1 << 30)
    refuses(
        context, ["-m", "128", "-kernel", kernel, "-initrd", path, *HEADLESS], "(?i)initrd|large"
    )


@case("bad-append-long", "bad-input")
def _(context):
    """A kernel says in its header how long a command line it takes."""
    kernel, _ = context.guest("cloud-amd64")
    refuses(
        context, ["-kernel", kernel, "-append", "x" * 5000, *HEADLESS], "(?i)-append|command line"
    )


@case("bad-append-without-kernel", "bad-input")
def _(context):
    refuses(context, ["-append", "quiet", *HEADLESS], "-kernel")


@case("bad-initrd-without-kernel", "bad-input")
def _(context):
    path = context.file("rd", b"x" * 1000)
    refuses(context, ["-initrd", path, *HEADLESS], "-kernel")


@case("bad-cpu-model", "bad-input")
def _(context):
    refuses(context, ["-cpu", "z80", *HEADLESS], "z80")


@case("bad-cpu-feature", "bad-input")
def _(context):
    refuses(context, ["-cpu", "qemu64,+frobnicate", *HEADLESS], "frobnicate")


@case("bad-firmware-missing", "bad-input")
def _(context):
    refuses(context, ["-bios", "/nonexistent/bios.bin", *HEADLESS], "/nonexistent/bios.bin")


@case("bad-firmware-size", "bad-input")
def _(context):
    """A firmware image ends at 4 GiB; one of 1000 bytes has no place for a reset vector's page."""
    path = context.file("odd.bin", b"\xf4" * 1000)
    refuses(context, ["-bios", path, *HEADLESS], re.escape(path))


# --- the program by itself ------------------------------------------------------------------------
@case("help", "program")
def _(context):
    """-help goes to standard output and ends with 0, and names the common options."""
    with context.start("-help") as console:
        console.wait_exit(20)
        for option in ("-kernel", "-initrd", "-append", "-nographic", "-cpu"):
            must(re.escape(option), console.text, "help")


@case("version", "program")
def _(context):
    with context.start("-version") as console:
        console.wait_exit(20)
        must(r"\d+\.\d+", console.text, "version")


@case("manual", "program")
def _(context):
    """The manual page has the program's options (`make man` renews them)."""
    if os.path.basename(context.emulator[0]) != "rhea":
        context.skip("the manual is rhea's")
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "manual.py")
    with context.start_program(script, "--check") as console:
        console.wait_exit(20)


# --- the demo -------------------------------------------------------------------------------------
@case("demo", "demo")
def _(context):
    """`make demo` on a terminal, as a user would: the shell answers, and poweroff ends it."""
    script = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo")
    with context.start_program(script) as console:
        console.expect(r"To leave: ", 300)
        console.expect(r"guest:\S+[#$] ", 600)
        must(r"(?m)^Linux guest 6\.\S+ .*x86_64", console.shell("uname -a"), "uname")
        must(r"(?m)^42$", console.shell("echo $((6 * 7))"), "arithmetic")
        must(r"/dev/ttyS0|/dev/console|/dev/tty", console.shell("tty"), "the shell's terminal")
        console.send("sleep 1000\n")  # the interrupt key reaches the guest, not the emulator
        time.sleep(1)
        console.send("\x03")
        must(r"(?m)^still here$", console.shell("echo still here"), "after Ctrl-C")
        console.send("poweroff\n")
        console.wait_exit(60)
        if not console.settings_restored():
            raise Failure("the terminal's settings are not as they were")
