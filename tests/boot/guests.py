#!/usr/bin/env python3
"""The guests that the boot tests, the demo and the bench run: Debian's kernels and busybox,
by package name.

Packages come through apt with a private state (sources, lists, architectures), so that i386 ones
can be had without touching what the machine's own dpkg and apt know, and without being root. What
was made of them is kept in ${XDG_CACHE_HOME:-~/.cache}/rhea and used again without asking the
network.

usage: guests.py KERNEL...     prints `kernel initramfs` paths, a line each
KERNEL is cloud-amd64, amd64 or 686-pae.
"""
import fcntl
import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rhea")
RELEASE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KERNELS = {"cloud-amd64": "amd64", "amd64": "amd64", "686-pae": "i386"}


class Unavailable(Exception):
    """A package that cannot be had here; the message says which and why."""


def run(argv, **keywords):
    """The standard output of a program that must succeed."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **keywords
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"{' '.join(argv[:3])}: {last}")
    return done.stdout


class PrivateApt:
    """apt with its own state below the cache folder; the lists are refreshed once an object's
    life."""

    def __init__(self):
        for tool in ("apt-get", "dpkg-deb"):
            if not shutil.which(tool):
                raise Unavailable(
                    f"{tool} is not on this system: guests are made of Debian packages"
                )
        if not os.path.exists(KEYRING):
            raise Unavailable(f"{KEYRING} is missing (package debian-archive-keyring)")
        self.root = os.path.join(CACHE, "apt")
        for folder in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self.root, folder), exist_ok=True)
        open(os.path.join(self.root, "status"), "w").close()
        with open(os.path.join(self.root, "sources.list"), "w") as f:
            f.write(f"deb [signed-by={KEYRING}] {self.mirror()} {RELEASE} main\n")
        configuration = os.path.join(self.root, "apt.conf")
        with open(configuration, "w") as f:
            f.write(
                f'Dir::State "{self.root}";\n'
                f'Dir::State::status "{self.root}/status";\n'
                f'Dir::Cache "{self.root}/cache";\n'
                f'Dir::Etc::SourceList "{self.root}/sources.list";\n'
                'Dir::Etc::SourceParts "/dev/null";\n'
                'APT::Architecture "amd64";\n'
                'APT::Architectures { "amd64"; "i386"; };\n'
                'Acquire::Languages "none";\n'
                'Acquire::Retries "3";\n'
                'APT::Sandbox::User "root";\n'
            )
        self.environment = dict(os.environ, APT_CONFIG=configuration, LC_ALL="C")
        run(["apt-get", "-q", "update"], env=self.environment)

    @staticmethod
    def mirror():
        """Where this machine gets its packages from, if that has the release we want."""
        try:
            form = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"]
            for line in run(form + ["Created-By: Packages"]).splitlines():
                uri, _, release = line.rpartition(" ")
                if release == RELEASE:
                    return uri
        except Unavailable:
            pass
        return "http://deb.debian.org/debian"

    def unpack(self, package, wanted, folder):
        """Downloads a package and unpacks the members that match the pattern `wanted` into
        folder."""
        run(["apt-get", "-q", "download", package], env=self.environment, cwd=folder)
        archive = [f for f in os.listdir(folder) if f.endswith(".deb")]
        if len(archive) != 1:
            raise Unavailable(f"{package}: expected one archive, got {archive}")
        archive = os.path.join(folder, archive[0])
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", archive], stdout=subprocess.PIPE
        ) as source:
            run(["tar", "-x", "-C", folder, "--wildcards", wanted], stdin=source.stdout)
        os.unlink(archive)

    def kernel_package(self, flavour):
        """The package that holds the kernel which linux-image-FLAVOUR stands for today."""
        architecture = KERNELS[flavour]
        meta = f"linux-image-{flavour}:{architecture}"
        text = run(["apt-cache", "depends", meta], env=self.environment)
        match = re.search(r"Depends: (linux-image-[0-9][^ :\n]*)", text)
        if not match:
            raise Unavailable(f"{meta} depends on no kernel")
        return f"{match[1]}:{architecture}"


def cpio(entries):
    """A `newc` cpio archive (Linux, Documentation/driver-api/early-userspace/buffer-format) of
    (name, mode, data, (major, minor)) rows. Written here because a device node then needs no root.
    """
    out = bytearray()
    rows = list(entries) + [("TRAILER!!!", 0, b"", (0, 0))]
    for inode, (name, mode, data, (major, minor)) in enumerate(rows, 1):
        encoded = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(encoded), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + encoded
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def folder_entry(name):
    return (name, stat.S_IFDIR | 0o755, b"", (0, 0))


def file_entry(name, data, mode=0o755):
    return (name, stat.S_IFREG | mode, data, (0, 0))


def link_entry(name, target):
    return (name, stat.S_IFLNK | 0o777, target.encode(), (0, 0))


def device_entry(name, major, minor):
    return (name, stat.S_IFCHR | 0o600, b"", (major, minor))


def initramfs(busybox, applets, extra=()):
    """A root file system with busybox's init, our inittab and set-up script, and `extra` rows."""
    rows = [
        folder_entry(d) for d in ("bin", "dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp")
    ]
    rows += [device_entry("dev/console", 5, 1), device_entry("dev/null", 1, 3)]
    with open(busybox, "rb") as f:
        rows.append(file_entry("bin/busybox", f.read()))
    rows += [link_entry(f"bin/{a}", "busybox") for a in applets if a != "busybox"]
    rows += [link_entry("sbin", "bin"), link_entry("init", "bin/busybox")]
    for name, mode in (("inittab", 0o644), ("setup", 0o755), ("profile", 0o644)):
        with open(os.path.join(HERE, "guest", name), "rb") as f:
            rows.append(file_entry(f"etc/{name}", f.read(), mode))
    rows += extra
    return gzip.compress(cpio(rows), 6, mtime=0)


def write(path, data):
    """Replaces a file in one step, so that an interrupted run leaves no half of one."""
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.replace(path + ".new", path)


class Guests:
    """Kernels and initramfs images, made on demand. One process at a time works on the cache."""

    def __init__(self):
        os.makedirs(CACHE, exist_ok=True)
        self.apt = None

    def _apt(self):
        if not self.apt:
            self.apt = PrivateApt()
        return self.apt

    def _locked(self, path, make):
        """path, after make(folder) → bytes has filled it if it was not there."""
        with open(os.path.join(CACHE, ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                    write(path, make(folder))
        return path

    def kernel(self, flavour):
        """The path of Debian's kernel of this flavour."""

        def make(folder):
            print(f"fetching linux-image-{flavour}", file=sys.stderr)
            apt = self._apt()
            apt.unpack(apt.kernel_package(flavour), "./boot/vmlinuz-*", folder)
            (name,) = os.listdir(os.path.join(folder, "boot"))
            with open(os.path.join(folder, "boot", name), "rb") as f:
                return f.read()

        return self._locked(os.path.join(CACHE, f"vmlinuz-{flavour}"), make)

    def busybox(self, architecture):
        """The path of Debian's static busybox."""

        def make(folder):
            print(f"fetching busybox-static ({architecture})", file=sys.stderr)
            self._apt().unpack(f"busybox-static:{architecture}", "./*bin/busybox", folder)
            for directory, _, files in os.walk(folder):
                if "busybox" in files:
                    with open(os.path.join(directory, "busybox"), "rb") as f:
                        return f.read()
            raise Unavailable("busybox-static holds no busybox")

        path = self._locked(os.path.join(CACHE, f"busybox-{architecture}"), make)
        os.chmod(path, 0o755)
        return path

    def initramfs(self, architecture, extra=()):
        """The initramfs's bytes. It is made anew each time: that takes a moment, and is never
        stale."""
        # The applets' names come from the amd64 program, which this host can run.
        applets = run([self.busybox("amd64"), "--list"]).split()
        return initramfs(self.busybox(architecture), applets, extra)

    def pair(self, flavour, folder=CACHE):
        """(kernel, initramfs) paths of a flavour; the initramfs is written into folder."""
        kernel = self.kernel(flavour)
        path = os.path.join(folder, f"initramfs-{flavour}.gz")
        write(path, self.initramfs(KERNELS[flavour]))
        return kernel, path


def main():
    flavours = sys.argv[1:]
    if not flavours or any(f not in KERNELS for f in flavours):
        sys.exit(__doc__)
    guests = Guests()
    try:
        for flavour in flavours:
            print(*guests.pair(flavour))
    except Unavailable as problem:
        sys.exit(f"guests.py: {problem}")


if __name__ == "__main__":
    main()
