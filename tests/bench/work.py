"""Building the bench's guest program, which runs on this host and in the guest alike."""
import os
import subprocess

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))


def build(folder):
    """The path of the program, made in folder. -fno-math-errno makes sqrt one instruction."""
    source, program = os.path.join(HERE, "work"), os.path.join(folder, "work")
    files = [os.path.join(source, f) for f in sorted(os.listdir(source)) if f.endswith(".c")]
    flags = ["-O2", "-fno-math-errno", "-static", f"-I{ROOT}"]
    subprocess.run(["gcc", *flags, "-o", program, *files], check=True)
    return program
