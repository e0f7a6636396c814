// Standard VGA on PCI (1234:1111) with the Bochs extensions: device `VGA`, -vga std.
//
// Facts: see vga_state.h; the memory BAR as the Linux driver bochs expects it (EDID at 0, VGA ports
// at 400h, VBE registers at 500h). Owned by the board, which has put it into a PCI slot. The
// legacy ranges A0000h to BFFFFh, 3B0h to 3DFh and 1CEh to 1D0h answer whatever the command
// register says, since the firmware of a machine without firmware would have said so.
//
// Video memory is one RAM region: the four planes are the four bytes of each little-endian double
// word. BAR 0 shows it as it is. Chain-4 uses each double word (on the IBM VGA, every fourth one),
// so that a chain-4 mode is a linear one; who looks at planes of what was written by chain-4 may
// notice. While a chain-4 mode does nothing else to the data, A0000h is mapped as RAM.
//
// As a Console it is the main loop's; the dirty log of its video memory is used by update() alone.
#pragma once
#include "dm/device/device.h"
#include "dm/mem/ram.h"
#include "dm/time/clock.h"
#include "dm/ui/console.h"
#include "hw/display/edid.h"
#include "hw/display/vga_state.h"

#include <memory>

namespace rhea::hw {

class Vga : public StateDevice<VgaState>, public ui::Console {
public:
    struct Config {
        unsigned slot = 2;
        u64 memory = u64{16} << 20;     // bytes, a power of two from 1 MiB to 256 MiB
        std::vector<u8> rom{};          // the expansion ROM's image; empty: none
        u32 width = 1280, height = 800; // what the monitor likes best
    };

    // Throws ConfigError for a size that cannot be, or memory that cannot be had.
    Vga(std::string name, const Config &config, AddressMap &map, Clock &clock);
    ~Vga() override;

    std::string_view type() const noexcept override { return "VGA"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    ui::Surface snapshot() override;
    std::vector<ui::Rect> update(ui::Surface &surface) override;
    std::vector<std::string> text() override;

    RamRegion &memory() noexcept { return *vram_; }

protected:
    void on_reset() noexcept override;
    void loaded() noexcept override { ++changes_; }
    void save_fields(state::FieldWriter &out) const override;
    void load_fields(state::FieldReader &in) override;

private:
    // vga.cc: registers
    u8 read_register(u16 port) noexcept;
    void write_register(u16 port, u8 value) noexcept;
    void write_sequencer(u8 value) noexcept;
    void write_graphics(u8 value) noexcept;
    void write_crtc(u8 value) noexcept;
    void write_attribute(u8 value) noexcept;
    u8 read_dac() noexcept;
    void write_dac(u8 value) noexcept;
    u8 input_status() noexcept;
    u64 read_ports_3b(u64 at, unsigned size) noexcept;
    void write_ports_3b(u64 at, unsigned size, u64 value) noexcept;
    u64 read_ports_3c(u64 at, unsigned size) noexcept;
    void write_ports_3c(u64 at, unsigned size, u64 value) noexcept;
    // vga_vbe.cc
    u16 read_vbe(u16 index) const noexcept;
    void write_vbe(u16 index, u16 value) noexcept;
    void enable_vbe(u16 value) noexcept;
    u64 read_vbe_port(u64 at, unsigned size) noexcept;
    void write_vbe_port(u64 at, unsigned size, u64 value) noexcept;
    u64 read_mmio(u64 at, unsigned size) noexcept;
    void write_mmio(u64 at, unsigned size, u64 value) noexcept;
    // vga_memory.cc: A0000h to BFFFFh
    u64 read_legacy(u64 at, unsigned size) noexcept;
    void write_legacy(u64 at, unsigned size, u64 value) noexcept;
    bool in_window(u64 &at) const noexcept;
    u8 read_byte(u64 at) noexcept;
    void write_byte(u64 at, u8 value) noexcept;
    void write_planes(u64 offset, u8 planes, u8 value) noexcept;
    std::optional<u64> linear_at(u64 at) const noexcept;
    bool plain_chain_4() const noexcept;

    Clock &clock_;
    AddressMap &map_;
    std::shared_ptr<RamRegion> vram_;
    std::array<u8, 128> edid_;
    PciConfig config_;
    MethodTarget<&Vga::read_ports_3b, &Vga::write_ports_3b> ports_3b_;
    MethodTarget<&Vga::read_ports_3c, &Vga::write_ports_3c> ports_3c_;
    MethodTarget<&Vga::read_vbe_port, &Vga::write_vbe_port> vbe_ports_;
    MethodTarget<&Vga::read_legacy, &Vga::write_legacy> legacy_;
    MethodTarget<&Vga::read_mmio, &Vga::write_mmio> mmio_;
    Mapping direct_; // A0000h as RAM
    bool direct_shown_ = false;
    u64 changes_ = 0; // of anything but video memory that the picture depends on
    std::array<Window, 6> windows_;

    class Watch;
    std::unique_ptr<Watch> watch_; // from the first update() on
};

} // namespace rhea::hw
