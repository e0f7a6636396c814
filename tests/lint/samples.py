"""For each rule, files that break it and files that keep it: (path, text).

The linter runs over them before it runs over the tree, so that a rule which can no longer fail is
itself a failure."""

HEADER = "#pragma once\n// What it is.\nnamespace rhea {\nstruct A {};\n} // namespace rhea\n"

SAMPLES = {
    "floors": (
        [
            ("dm/mem/ram.cc", '#include "hw/isa/bus.h"\n'),
            ("dm/mem/ram.cc", '#include "dm/daemon/main.h"\n'),
            ("dm/mem/ram.cc", '#include "ram.h"\n'),
            ("dm/mem/ram.cc", '#include "dm/../hw/a.h"\n'),
            ("hw/ide/disk.cc", '#include "block/raw/raw.h"\n'),
            ("hw/ide/disk.cc", '#include "accel/vcpu.h"\n'),
            ("hw/intc/apic.cc", '#include "accel/kvm/irqchip.h"\n'),
            ("hw/intc/apic.cc", '#include "accel/accelerator.h"\n'),
            ("hw/machine/pc.cc", '#include "accel/dbt/runtime/engine.h"\n'),
            ("hw/machine/pc.cc", '#include "emulator/options.h"\n'),
            ("accel/vcpu.h", '#include "accel/dbt/ir/op.h"\n'),
            ("accel/kvm/vcpu.cc", '#include "accel/dbt/ir/op.h"\n'),
            ("accel/dbt/ir/op.h", '#include "dm/mem/ram.h"\n'),
            ("accel/dbt/ir/op.h", '#include "accel/vcpu.h"\n'),
            ("block/qcow2.cc", '#include "net/port.h"\n'),
            ("net/tap.cc", '#include "tests/unit/helper.h"\n'),
        ],
        [
            ("dm/mem/ram.cc", '#include "dm/core/types.h"\n#include <hw/a.h>\n'),
            ("hw/ide/disk.cc", '#include "block/node.h"\n#include "hw/pci/function.h"\n'),
            ("hw/intc/apic.cc", '#include "accel/vcpu.h"\n#include "accel/irqchip_state.h"\n'),
            ("hw/machine/pc.cc", '#include "accel/accelerator.h"\n'),
            ("accel/dbt/adapter.cc", '#include "accel/accelerator.h"\n#include "dm/mem/ram.h"\n'),
            ("accel/dbt/ir/op.h", '#include "dm/core/types.h"\n#include "accel/dbt/ir/arena.h"\n'),
            ("emulator/main.cc", '#include "hw/machine/pc.h"\n#include "accel/dbt/adapter.h"\n'),
            ("tests/unit/a_test.cc", '#include "tests/unit/helper.h"\n#include "net/tap.h"\n'),
        ],
    ),
    "pragma_once": (
        [("dm/a.h", "// What it is.\n"), ("dm/a.h", HEADER + HEADER)],
        [("dm/a.h", HEADER)],
    ),
    "opening_comment": (
        [("dm/a.h", "#pragma once\n#include <span>\n// late\n"), ("dm/a.h", "#pragma once\n")],
        [("dm/a.h", HEADER), ("dm/a.h", "// What.\n#pragma once\n"), ("dm/a.cc", "int a;\n")],
    ),
    "no_using_namespace": (
        [("dm/a.h", "using namespace std;\n")],
        [("dm/a.cc", "using namespace rhea;\n"), ("dm/a.h", "    using namespace std;\n")],
    ),
    "rhea_namespace": (
        [("dm/a.h", "struct A {};\n"), ("dm/a.h", "namespace other {\n}\nclass B;\n")],
        [
            ("dm/a.h", HEADER),
            ("dm/a.h", "#define A 1\n"),
            ("dm/a.h", "namespace rhea::dbt {\n}\nclass B;\n"),
        ],
    ),
    "no_tabs": ([("dm/a.cc", "\tint a;\n")], [("dm/a.cc", "    int a;\n")]),
    "columns": (
        [("dm/a.cc", "//" + "x" * 99 + "\n"), ("tests/a.py", "#" + "x" * 100 + "\n")],
        [("dm/a.cc", "//" + "é" * 98 + "\n"), ("tests/a.py", "#" + "x" * 99 + "\n")],
    ),
    "clean_ends": (
        [("dm/a.cc", "int a; \n"), ("dm/a.cc", "int a;\n\n")],
        [("dm/a.cc", "\nint a;\n")],
    ),
    "file_names": (
        [("dm/AddressSpace.h", ""), ("dm/address-space.h", "")],
        [("dm/address_space.h", ""), ("tests/demo", "")],
    ),
    "no_promises": (
        [("dm/a.cc", "// TO" "DO: more\n"), ("dm/a.cc", "/* XX" "X */\n")],
        [("dm/a.cc", "// mktemp a.XX" "XXXX\n")],
    ),
    "test_names": (
        [("tests/unit/ram.cc", "TEST(a, b) {\n"), ("tests/diff/fuzz_test.cc", "int main() {}\n")],
        [("tests/unit/ram_test.cc", "TEST_F(a, b) {\n"), ("tests/unit/helper.cc", "int a;\n")],
    ),
    "no_disabled_tests": (
        [("tests/unit/a_test.cc", "TEST(A, DIS" "ABLED_b) {\n")],
        [("tests/unit/a_test.cc", "TEST(A, b) {\n")],
    ),
    "skips_say_why": (
        [("tests/unit/a_test.cc", "    GTEST_SKIP()" ";\n")],
        [("tests/unit/a_test.cc", '    GTEST_SKIP() << "no /dev/kvm";\n')],
    ),
}
