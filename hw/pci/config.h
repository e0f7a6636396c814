// PciConfig: the configuration space of one PCI function: identity, write masks, base address
// registers and the interrupt pin.
//
// Facts: PCI Local Bus Specification 3.0, chapter 6. A member of its device, which keeps the bytes
// in its described state, calls reset() and settle() from its own, and gives the window to the bus
// (Space::pci_config). Base address registers show their targets in the address map as the command
// register and the guest's addresses say; a change of them is one new view.
#pragma once
#include "dm/core/callback.h"
#include "dm/core/describe.h"
#include "dm/irq/line.h"
#include "dm/mem/address_space.h"
#include "dm/mem/target.h"

#include <array>
#include <memory>

namespace rhea::hw {

struct PciConfigState {
    std::array<u8, 256> bytes{};
    static constexpr auto fields() {
        return describe<PciConfigState>(Field<&PciConfigState::bytes>{});
    }
};

namespace pci {
// Offsets of the type 0 header.
enum : u8 {
    VENDOR_ID = 0x00,
    DEVICE_ID = 0x02,
    COMMAND = 0x04,
    STATUS = 0x06,
    REVISION = 0x08,
    CLASS = 0x09,
    CACHE_LINE = 0x0c,
    LATENCY = 0x0d,
    HEADER_TYPE = 0x0e,
    BAR0 = 0x10,
    SUBSYSTEM_VENDOR = 0x2c,
    SUBSYSTEM = 0x2e,
    ROM = 0x30,
    CAPABILITIES = 0x34,
    INTERRUPT_LINE = 0x3c,
    INTERRUPT_PIN = 0x3d,
};
constexpr u16 COMMAND_IO = 0x0001, COMMAND_MEMORY = 0x0002, COMMAND_MASTER = 0x0004;
constexpr u16 COMMAND_SERR = 0x0100, COMMAND_INTX_OFF = 0x0400;
constexpr u16 STATUS_INTX = 0x0008;
constexpr u8 MULTI_FUNCTION = 0x80;

// Where a function's registers are in Space::pci_config (bus 0).
constexpr u64 config_base(unsigned device, unsigned function) noexcept {
    return u64{device} << 15 | u64{function} << 12;
}
} // namespace pci

struct PciIdentity {
    u16 vendor = 0, device = 0;
    u32 class_code = 0; // class, subclass, programming interface
    u8 revision = 0;
    u8 header_type = 0;
    u16 subsystem_vendor = 0x1af4, subsystem = 0x1100; // what firmware knows this machine by
    u8 interrupt_pin = 0;                              // 1: INTA# … 4: INTD#; 0: none
    u16 command = 0, command_writable = 0, status = 0;
};

enum class BarKind : u8 { memory, prefetchable, memory64, port };

class PciConfig final : public Target {
public:
    // `wrote`: after a write, with written() saying where; for what is the function's own.
    PciConfig(Owner &device, const char *name, PciConfigState &state, const PciIdentity &identity,
              Callback wrote = {});

    // While the device is constructed: bits that the guest may write, or clear by writing 1.
    void set_byte(u8 at, u8 value) noexcept; // the reset value
    void allow(u8 at, u64 mask, unsigned size) noexcept;
    void allow_clear(u8 at, u64 mask, unsigned size) noexcept;
    // `size`: a power of two, at least 16 (ports: 4). memory64 takes registers n and n + 1.
    void add_bar(AddressMap &map, unsigned n, BarKind kind, u64 size, Target &target);
    // The same for memory that is plain RAM (or video memory) of its own size, a power of two.
    void add_ram_bar(AddressMap &map, unsigned n, BarKind kind, std::shared_ptr<RamRegion> ram);
    // The expansion ROM's register (6.2.5.2); the image's size is a power of two, at least 2 KiB.
    void add_rom(AddressMap &map, std::shared_ptr<RamRegion> image);
    void set_intx(IrqLine line) noexcept { intx_ = line; }

    void reset() noexcept;
    // Mappings and the interrupt line from the state; the device's settle() and loaded() call it.
    void settle() noexcept;
    // The function's interrupt request, before the command register's disable bit.
    void request_interrupt(bool level) noexcept { requested_ = level; }

    u8 byte(u8 at) const noexcept { return state_.bytes[at]; }
    u16 word(u8 at) const noexcept;
    u32 dword(u8 at) const noexcept;
    void put_word(u8 at, u16 value) noexcept;
    bool wrote(u8 at, unsigned size = 1) const noexcept; // did the last write cover any of these?

    u64 read(u64 at, unsigned size) noexcept override;
    void write(u64 at, unsigned size, u64 value) noexcept override;

private:
    struct Bar {
        BarKind kind = BarKind::memory;
        u64 size = 0; // 0: not there
        Mapping mapping;
        u64 base = 0;
        bool shown = false;
    };

    void add_bar_register(unsigned n, BarKind kind, u64 size);

    PciConfigState &state_;
    std::array<u8, 256> reset_{}, writable_{}, clearable_{};
    std::array<Bar, 6> bars_;
    Bar rom_;
    Callback wrote_;
    IrqLine intx_;
    bool requested_ = false;
    u64 written_at_ = 0;
    unsigned written_size_ = 0;
};

} // namespace rhea::hw
