#pragma once
// Loading a Linux kernel (bzImage) without firmware: kernel, initrd, command line, memory map and
// ACPI tables go into guest RAM, and the boot processor enters the kernel's 32-bit entry point. The
// kernel's real-mode part does not run.
//
// Facts: Linux Documentation/x86/boot.rst, "The Linux/x86 Boot Protocol" (2.06 and newer), "32-bit
// boot protocol". Used while the machine is configured and again after each reset; every error is a
// ConfigError that names the option.
#include <string>
#include <vector>

#include "dm/core/types.h"
#include "dm/mem/address_space.h"
#include "hw/firmware/acpi/tables.h"

namespace rhea::hw {

struct LinuxBoot {
    std::string kernel;       // -kernel
    std::string initrd;       // -initrd; "": none
    std::string command_line; // -append
};

struct RamLayout {
    u64 below_4g = 0; // bytes from guest-physical 0, without holes but the legacy one
    u64 above_4g = 0; // bytes from 4 GiB
};

/// The state that the processor enters the kernel in: protected mode without paging, flat segments,
/// interrupts off.
struct LinuxEntry {
    u32 eip = 0;
    u32 esi = 0; // boot_params
    u32 gdt_base = 0;
    u16 gdt_limit = 0;
    static constexpr u16 code_selector = 0x10, data_selector = 0x18;
};

LinuxEntry load_linux(AddressMap &map, const LinuxBoot &boot, const RamLayout &ram,
                      const AcpiTables &acpi);

} // namespace rhea::hw
