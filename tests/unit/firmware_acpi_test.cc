#include "hw/firmware/acpi/aml.h"
#include "hw/firmware/acpi/table.h"
#include "hw/firmware/acpi/tables.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <string>

namespace rhea::hw {
namespace {

using Bytes = std::vector<u8>;

u8 sum(std::span<const u8> b) {
    u8 s = 0;
    for (const u8 x : b)
        s = u8(s + x);
    return s;
}

/// The tables as an operating system finds them: from RSDP through RSDT and FADT.
std::map<std::string, Bytes> follow(const Bytes &memory, u64 base, u64 rsdp_at) {
    std::map<std::string, Bytes> out;
    const auto at = [&](u64 address) { return memory.begin() + std::ptrdiff_t(address - base); };
    const auto take = [&](u64 address) {
        const u32 length = load_le<u32>(&*at(address) + 4);
        Bytes t(at(address), at(address) + length);
        out.emplace(std::string(t.begin(), t.begin() + 4), t);
        return t;
    };
    const Bytes rsdp(at(rsdp_at), at(rsdp_at) + 20);
    out.emplace("RSDP", rsdp);
    const Bytes rsdt = take(load_le<u32>(&rsdp[16]));
    for (usize i = 36; i < rsdt.size(); i += 4)
        take(load_le<u32>(&rsdt[i]));
    take(load_le<u32>(&out.at("FACP")[36])); // FACS
    take(load_le<u32>(&out.at("FACP")[40])); // DSDT
    return out;
}

std::map<std::string, Bytes> placed(const AcpiConfig &config, u64 base) {
    u64 rsdp_at = 0;
    const Bytes memory = place_tables(make_acpi_tables(config), base, rsdp_at);
    return follow(memory, base, rsdp_at);
}

TEST(Acpi, placed_tables_are_found_from_rsdp_and_add_up_to_zero) {
    const auto tables = placed({.cpus = 3}, 0x0fff0000);
    for (const char *name : {"RSDP", "RSDT", "FACP", "APIC", "DSDT"}) {
        ASSERT_TRUE(tables.contains(name)) << name;
        EXPECT_EQ(sum(tables.at(name)), 0) << name;
    }
    EXPECT_EQ(tables.at("FACS").size(), 64u);
}

TEST(Acpi, facs_is_aligned_to_64_bytes) {
    const u64 base = 0x0fff0000;
    const auto fadt = placed({}, base).at("FACP");
    EXPECT_EQ(load_le<u32>(&fadt[36]) % 64, 0u);
}

TEST(Acpi, fadt_names_the_registers_of_the_power_management_function) {
    const auto fadt = placed({.pm_base = 0xb000}, 0x1000000).at("FACP");
    EXPECT_EQ(load_le<u16>(&fadt[46]), 9);       // SCI
    EXPECT_EQ(load_le<u32>(&fadt[48]), 0xb2u);   // SMI command port
    EXPECT_EQ(fadt[52], 0xf1);                   // ACPI on
    EXPECT_EQ(fadt[53], 0xf0);                   // and off
    EXPECT_EQ(load_le<u32>(&fadt[56]), 0xb000u); // PM1 event
    EXPECT_EQ(load_le<u32>(&fadt[64]), 0xb004u); // PM1 control
    EXPECT_EQ(load_le<u32>(&fadt[76]), 0xb008u); // timer
}

TEST(Acpi, madt_has_one_entry_a_cpu_and_the_overrides) {
    const auto madt = placed({.cpus = 4}, 0x1000000).at("APIC");
    std::map<int, int> kinds;
    for (usize i = 44; i < madt.size(); i += madt[i + 1]) {
        ASSERT_GE(madt[i + 1], 2);
        ++kinds[madt[i]];
    }
    EXPECT_EQ(kinds[0], 4); // local APICs
    EXPECT_EQ(kinds[1], 1); // I/O APIC
    EXPECT_EQ(kinds[2], 5); // IRQ 0, 5, 9, 10, 11
    EXPECT_EQ(kinds[4], 1); // NMI
}

TEST(Acpi, loader_script_has_firmwares_format) {
    const auto files = make_acpi_tables({}).loader_files();
    const auto script = std::ranges::find(files, std::string("etc/table-loader"),
                                          &decltype(files)::value_type::first);
    ASSERT_NE(script, files.end());
    const Bytes &b = script->second;
    ASSERT_EQ(b.size() % 128, 0u);
    EXPECT_EQ(load_le<u32>(&b[0]), 1u); // allocate before anything else
    EXPECT_STREQ(reinterpret_cast<const char *>(&b[4]), "etc/acpi/rsdp");
    EXPECT_EQ(b[64], 2); // in the F segment
    EXPECT_STREQ(reinterpret_cast<const char *>(&b[132]), "etc/acpi/tables");
    EXPECT_EQ(load_le<u32>(&b[128 + 60]), 64u); // FACS' alignment
    for (usize i = 0; i < b.size(); i += 128) {
        const u32 command = load_le<u32>(&b[i]);
        EXPECT_GE(command, 1u);
        EXPECT_LE(command, 3u);
    }
}

TEST(Acpi, disassembler_accepts_every_table) {
    if (std::system("iasl -v >/dev/null 2>&1") != 0)
        GTEST_SKIP() << "iasl is not installed (package acpica-tools)";
    namespace fs = std::filesystem;
    std::string folder = (fs::temp_directory_path() / "rhea-acpi-XXXXXX").string();
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    for (const auto &[name, bytes] :
         placed({.cpus = 2, .pci_hole64_start = 0x2'0000'0000}, 0x1000000)) {
        if (name == "RSDP")
            continue;
        std::ofstream(folder + "/" + name + ".dat", std::ios::binary)
            .write(reinterpret_cast<const char *>(bytes.data()), std::streamsize(bytes.size()));
        const std::string command = "cd " + folder + " && iasl -d " + name + ".dat >log 2>&1";
        EXPECT_EQ(std::system(command.c_str()), 0) << name;
        std::ifstream log(folder + "/log");
        const std::string said{std::istreambuf_iterator<char>(log), {}};
        for (const char *word : {"Warning", "Error", "rror:", "nvalid"})
            EXPECT_EQ(said.find(word), std::string::npos) << name << ": " << said;
    }
    // And what the disassembler understood compiles again without a complaint.
    const std::string again = "cd " + folder + " && iasl -we DSDT.dsl >log 2>&1";
    EXPECT_EQ(std::system(again.c_str()), 0);
    fs::remove_all(folder);
}

TEST(Aml, package_lengths_count_themselves) {
    const auto size_of = [](usize n) { return aml::buffer(Bytes(n)).bytes(); };
    EXPECT_EQ(size_of(3)[1], 1 + 2 + 3); // length, BytePrefix 3, bytes
    const Bytes two = size_of(0x100);    // 0x100 + word prefix 3 + two bytes of length
    EXPECT_EQ(two[1] >> 6, 1);
    EXPECT_EQ((two[1] & 15) | two[2] << 4, 0x100 + 3 + 2);
    const Bytes three = size_of(0x2000);
    EXPECT_EQ(three[1] >> 6, 2);
    EXPECT_EQ((three[1] & 15) | three[2] << 4 | three[3] << 12, 0x2000 + 3 + 3);
}

TEST(Aml, names_and_integers) {
    EXPECT_EQ(aml::path("\\_SB.PCI0").bytes(),
              (Bytes{'\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0'}));
    EXPECT_EQ(aml::path("\\A.B.C").bytes(),
              (Bytes{'\\', 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_'}));
    EXPECT_EQ(aml::integer(0).bytes(), (Bytes{0}));
    EXPECT_EQ(aml::integer(1).bytes(), (Bytes{1}));
    EXPECT_EQ(aml::integer(0x1234).bytes(), (Bytes{0x0b, 0x34, 0x12}));
    EXPECT_EQ(aml::eisa_id("PNP0A03").bytes(), (Bytes{0x0c, 0x41, 0xd0, 0x0a, 0x03}));
}

} // namespace
} // namespace rhea::hw
