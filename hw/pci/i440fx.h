// Intel 82441FX (i440FX), the host bridge: PCI function 0:0.0, and what is shown between 640 KiB
// and 1 MiB.
//
// Facts: Intel 82441FX data sheet (290549), 3.2.14 (PAM), 3.2.19 (SMRAM). Owned by the board, which
// gives it the RAM region (guest-physical 0 is its offset 0, at least 1 MiB) and the firmware's ROM
// (a multiple of 128 KiB long; its last 128 KiB are what the ISA bus shows at E0000h).
//
// Each PAM segment is RAM for reads, for writes, for both or for neither; what is not RAM is the
// ISA bus. The board maps RAM below A0000h and from 100000h on.
#pragma once
#include "dm/device/device.h"
#include "dm/mem/ram.h"
#include "hw/pci/config.h"

#include <array>
#include <memory>

namespace rhea::hw {

class I440fx : public StateDevice<PciConfigState> {
public:
    I440fx(std::string name, AddressMap &map, std::shared_ptr<RamRegion> ram,
           std::shared_ptr<RamRegion> rom);

    std::string_view type() const noexcept override { return "i440fx"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    // The boot without firmware has nobody to do it: all shadow RAM readable and writable, as
    // firmware leaves it.
    void open_shadow() noexcept;

private:
    // Twelve of 16 KiB from C0000h, and F0000h to FFFFFh.
    static constexpr unsigned segments = 13;
    // Writes to RAM behind a segment that reads from the bus.
    class Shadow final : public Target {
    public:
        // The window's offset 0 is guest-physical address `origin` (modulo 2^64).
        Shadow(I440fx &device, u64 origin) noexcept
            : Target(device, "shadow RAM", {.max_size = 8, .unaligned = true}), ram_(*device.ram_),
              origin_(origin) {}
        u64 read(u64 at, unsigned size) noexcept override;
        void write(u64 at, unsigned size, u64 value) noexcept override;

    private:
        RamRegion &ram_;
        u64 origin_;
    };
    struct Segment {
        std::unique_ptr<Shadow> shadow;
        Mapping ram;     // readable RAM, writable or not
        Mapping bus;     // the ISA bus: ROM from E0000h on
        Mapping through; // reads from the bus, writes to RAM
        u8 attributes = 0;
    };

    void on_reset() noexcept override { config_.reset(); }
    u8 attributes(unsigned segment) const noexcept;

    std::shared_ptr<RamRegion> ram_;
    PciConfig config_;
    std::array<Segment, segments> segments_;
    Mapping smram_;
    bool smram_shown_ = false;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
