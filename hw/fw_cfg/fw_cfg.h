// fw_cfg: how the machine tells firmware what it is and gives it files (ACPI tables, a kernel).
//
// Facts: the published "QEMU Firmware Configuration (fw_cfg) Device" specification, x86 ports:
// selector 510h, data 511h, DMA address 514h (big-endian). Owned by the board. Items are added
// while the machine is configured and do not change afterwards; what the guest selects is the
// device's state. Items are read-only to the guest: a DMA write ends with the error bit.
#pragma once
#include "dm/device/device.h"
#include "dm/mem/dma.h"

#include <array>
#include <map>
#include <string>
#include <vector>

namespace rhea::hw {

struct FwCfgState {
    u16 selected = 0;
    u32 offset = 0;
    u32 dma_high = 0; // upper half of the DMA structure's address
    static constexpr auto fields() {
        using S = FwCfgState;
        return describe<S>(Field<&S::selected>{}, Field<&S::offset>{}, Field<&S::dma_high>{});
    }
};

class FwCfg : public StateDevice<FwCfgState> {
public:
    // Numbers of the items that are no files.
    enum Key : u16 {
        signature = 0x00,
        id = 0x01,
        uuid = 0x02,
        ram_size = 0x03,
        nographic = 0x04,
        nb_cpus = 0x05,
        machine_id = 0x06,
        kernel_address = 0x07,
        kernel_size = 0x08,
        initrd_address = 0x0a,
        initrd_size = 0x0b,
        boot_menu = 0x0e,
        max_cpus = 0x0f,
        kernel_entry = 0x10,
        kernel_data = 0x11,
        initrd_data = 0x12,
        cmdline_address = 0x13,
        cmdline_size = 0x14,
        cmdline_data = 0x15,
        setup_address = 0x16,
        setup_size = 0x17,
        setup_data = 0x18,
        file_directory = 0x19,
        first_file = 0x20,
        acpi_tables = 0x8000,
        smbios_entries = 0x8001,
        irq0_override = 0x8002,
        e820_table = 0x8003,
    };

    FwCfg(std::string name, AddressMap &map);

    std::string_view type() const noexcept override { return "fw_cfg"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    // Before the guest runs. Adding an item or a file that is there replaces it. Throws ConfigError
    // for a name of more than 55 bytes, or more files than the directory can number.
    void add_item(u16 key, std::vector<u8> bytes);
    void add_u16(u16 key, u16 value);
    void add_u32(u16 key, u32 value);
    void add_u64(u16 key, u64 value);
    void add_string(u16 key, std::string_view text); // with its terminating zero
    void add_file(std::string name, std::vector<u8> bytes);
    const std::vector<u8> *file(std::string_view name) const noexcept;

private:
    void write_directory();
    // `bytes`: what is at the current offset, zeros after the end; moves the offset.
    std::span<const u8> current() const noexcept;
    void advance(u64 n) noexcept;
    void select(u16 key) noexcept;
    void run_dma(u64 address) noexcept;
    u32 transfer(u32 control, u32 length, u64 address) noexcept;
    u64 read_ports(u64 at, unsigned size) noexcept;
    void write_ports(u64 at, unsigned size, u64 value) noexcept;
    u64 read_dma(u64 at, unsigned size) noexcept;
    void write_dma(u64 at, unsigned size, u64 value) noexcept;

    Dma dma_;
    std::map<u16, std::vector<u8>> items_;
    std::map<std::string, u16, std::less<>> files_;
    MethodTarget<&FwCfg::read_ports, &FwCfg::write_ports> ports_;
    MethodTarget<&FwCfg::read_dma, &FwCfg::write_dma> dma_ports_;
    std::array<Window, 2> windows_;
};

} // namespace rhea::hw
