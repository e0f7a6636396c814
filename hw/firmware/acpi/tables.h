#pragma once
// The ACPI tables of the PC: RSDP, RSDT, FADT, FACS, MADT and DSDT, as bytes and as the script that
// places them.
//
// Firmware gets them as fw_cfg files (loader_files) and runs the script; where a kernel is loaded
// without firmware place_tables() runs the same script itself. Built once while the machine is
// configured; plain values.
//
// Facts: ACPI specification 6.3, chapter 5; the machine is that of hw/machine (PIIX3, PIIX4 power
// management).
#include <string>
#include <utility>
#include <vector>

#include "dm/core/types.h"

namespace rhea::hw {

struct AcpiConfig {
    unsigned cpus = 1;
    u16 pm_base = 0x600;
    u32 pci_hole_start = 0xc000'0000; // guest-physical: first address that is not RAM below 4 GiB
    u64 pci_hole64_start = 0;         // 0: no window above 4 GiB
    bool com1 = true;
    bool display = false; // something answers at the VGA addresses
};

/// One step of the script (the fw_cfg file etc/table-loader is a list of these).
struct LoaderStep {
    enum class Kind : u32 { allocate = 1, add_pointer = 2, add_checksum = 3 };
    Kind kind{};
    std::string file;        // what it works on
    std::string other_file;  // add_pointer: what it points into
    u32 a = 0, b = 0, c = 0; // allocate: alignment, zone; add_pointer: offset, bytes; add_checksum:
                             // offset, start, length
};

struct AcpiTables {
    static constexpr const char *tables_file = "etc/acpi/tables";
    static constexpr const char *rsdp_file = "etc/acpi/rsdp";
    static constexpr const char *script_file = "etc/table-loader";

    std::vector<u8> tables; // FACS first, so that its alignment is the file's
    std::vector<u8> rsdp;
    std::vector<LoaderStep> script;

    /// Names and bytes of the three fw_cfg files.
    std::vector<std::pair<std::string, std::vector<u8>>> loader_files() const;
};

AcpiTables make_acpi_tables(const AcpiConfig &config);

/// What the script makes of the tables when the file of tables is at `tables_at` and RSDP follows
/// it: one block of bytes for that address. `rsdp_at` gets RSDP's address.
std::vector<u8> place_tables(const AcpiTables &tables, u64 tables_at, u64 &rsdp_at);

/// Just the definition block, for tests and for looking at it.
std::vector<u8> make_dsdt(const AcpiConfig &config);

} // namespace rhea::hw
