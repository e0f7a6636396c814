"""The rules that hold for the sources.

A rule is a function of one file, (path, lines) → problems; a problem is (line number, message).
samples.py has for each a file that breaks it and one that keeps it."""
import os
import posixpath
import re

# --- the floors of ARCHITECTURE.md: who may include what -----------------------------------------
# The first row whose folder holds the file decides; a name with a dot is one header, else a folder.
ANYTHING = None
FLOORS = [
    ("tests", ANYTHING),
    ("emulator", ANYTHING),  # a composition root
    ("dm/daemon", ANYTHING),  # the other one
    ("dm", ["dm"]),
    ("accel/dbt/adapter", ["dm", "accel/*", "accel/dbt"]),  # the one place that knows both sides,
    ("accel/dbt/cpu_state", ["dm", "accel/*", "accel/dbt"]),  # with its conversion of CPU states
    ("accel/dbt", ["dm/core", "accel/dbt"]),  # the translator is a library of its own
    ("accel/kvm", ["dm", "accel/*", "accel/kvm"]),
    ("accel/xen", ["dm", "accel/*", "accel/xen"]),
    ("accel/fake", ["dm", "accel/*", "accel/fake"]),
    ("accel", ["dm", "accel/*"]),  # what an engine is knows no engine
    ("block", ["dm", "block"]),
    ("net", ["dm", "net"]),
    ("hw/machine", ["dm", "hw", "block", "net", "accel/*"]),
    # One saved form of an interrupt controller, whichever engine or device holds it.
    ("hw/intc", ["dm", "hw", "accel/vcpu.h", "accel/x86_state.h", "accel/irqchip_state.h"]),
    ("hw", ["dm", "hw", "block/node.h", "block/vectors.h", "net/port.h"]),
]
# Folders that nobody else includes from.
ROOTS = ("dm/daemon", "emulator", "block/tool", "tests")
INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]*)"')


def below(path, folder):
    """Whether path is in folder. `folder/*` means in it, not deeper; a name without an ending
    stands for its header and its source."""
    if folder.endswith("/*"):
        return posixpath.dirname(path) == folder[:-2]
    return path == folder or path.startswith(folder + "/") or path.rpartition(".")[0] == folder


def floors(path, lines):
    here = posixpath.dirname(path)
    allowed = next((a for folder, a in FLOORS if below(path, folder)), [])
    for number, line in enumerate(lines, 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        target = match[1]
        if "/" not in target or ".." in target.split("/"):
            yield number, f'"{target}": includes are from the root of the repository'
            continue
        root = next((r for r in ROOTS if below(target, r)), None)
        if root and not below(path, root) and not path.startswith("tests/"):
            yield number, f'"{target}": nobody includes from {root}/'
        elif allowed is not ANYTHING and not any(below(target, a) for a in allowed):
            yield number, f'"{target}" is on no floor that {here}/ may include from'


# --- headers --------------------------------------------------------------------------------------
def pragma_once(path, lines):
    if path.endswith(".h") and lines.count("#pragma once") != 1:
        yield 1, "a header says #pragma once, once"


def opening_comment(path, lines):
    """What it is, who owns it, which thread, what it promises: before any code."""
    if not path.endswith(".h"):
        return
    first = next((s for s in lines if s.strip() and s.strip() != "#pragma once"), "")
    if not first.startswith("//"):
        yield 1, "a header begins with a comment that says what it is"


def no_using_namespace(path, lines):
    if path.endswith(".h"):
        for number, line in enumerate(lines, 1):
            if re.match(r"using namespace\b", line):
                yield number, "using namespace in a header reaches everyone who includes it"


def rhea_namespace(path, lines):
    """What a library's header declares is in namespace rhea or below (macros alone need none)."""
    if not path.endswith(".h") or path.startswith("tests/"):
        return
    declares = any(
        re.match(r"(class|struct|enum|inline|constexpr|template|using|void)\b", s) for s in lines
    )
    if declares and not any(re.match(r"namespace rhea\b", s) for s in lines):
        yield 1, "declarations belong into namespace rhea"


# --- text -----------------------------------------------------------------------------------------
def no_tabs(path, lines):
    for number, line in enumerate(lines, 1):
        if "\t" in line:
            yield number, "a tab"


def columns(path, lines):
    for number, line in enumerate(lines, 1):
        if len(line) > 100:
            yield number, f"{len(line)} columns, more than 100"


def clean_ends(path, lines):
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            yield number, "blanks at the end of the line"
    if lines and not lines[-1].strip():
        yield len(lines), "empty lines at the end of the file"


def file_names(path, lines):
    if not re.fullmatch(r"[a-z0-9_]+(\.[a-z0-9_]+)?", posixpath.basename(path)):
        yield 1, "file names are snake_case"


def no_promises(path, lines):
    """What is not done is written in an issue, where somebody reads it."""
    for number, line in enumerate(lines, 1):
        match = re.search(
            r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK")) + r")\b", line
        )
        if match:
            yield number, f"{match[1]}: a promise rather than code"


# --- tests ----------------------------------------------------------------------------------------
def test_names(path, lines):
    """A test file is found by its name: <folder>_<thing>_test.cc, and it holds tests."""
    if not re.match(r"tests/(unit|device|diff)/.*\.cc$", path):
        return
    holds = any(re.match(r"\s*(TYPED_)?TEST(_F|_P)?\s*\(", s) for s in lines)
    if holds != path.endswith("_test.cc"):
        yield 1, "files with tests, and no others, are named *_test.cc"


def no_disabled_tests(path, lines):
    """A test that cannot run says so when it is run (GTEST_SKIP with a reason), and is counted."""
    for number, line in enumerate(lines, 1):
        if re.match(r"\s*TEST\w*\s*\(.*\bDIS" r"ABLED_", line):
            yield number, "a disabled test is neither run nor counted"


def skips_say_why(path, lines):
    for number, line in enumerate(lines, 1):
        if re.search(r"GTEST_SKIP\(\)\s*;", line):
            yield number, "a skip says why"


RULES = [
    floors,
    pragma_once,
    opening_comment,
    no_using_namespace,
    rhea_namespace,
    no_tabs,
    columns,
    clean_ends,
    file_names,
    no_promises,
    test_names,
    no_disabled_tests,
    skips_say_why,
]


def read_lines(path):
    with open(path, encoding="utf-8") as f:
        return f.read().split("\n")[:-1]


def sources(root):
    """Every source file below root, as paths relative to it."""
    for top in ("dm", "accel", "hw", "block", "net", "emulator", "tests"):
        for folder, _, files in os.walk(os.path.join(root, top)):
            for name in sorted(files):
                if name.endswith((".h", ".cc", ".py", ".sh", ".c", ".S")):
                    yield posixpath.relpath(posixpath.join(folder, name), root)
