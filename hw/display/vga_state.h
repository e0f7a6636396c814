// The registers of a VGA with the Bochs extensions, as the device keeps and saves them, and the few
// questions that device and renderer both ask of them.
//
// Facts: IBM PS/2 hardware interface technical reference, video subsystem (the registers' and
// bits' names are from there); the description of the VBE DISPI interface that comes with the LGPL
// VGA BIOS. Plain values, no thread of their own.
#pragma once
#include "dm/core/describe.h"
#include "hw/pci/config.h"

#include <array>
#include <optional>

namespace rhea::hw {

namespace vga {
enum : u8 { SR_RESET = 0, SR_CLOCKING, SR_MAP_MASK, SR_CHARACTER_MAP, SR_MEMORY_MODE };
enum : u8 {
    GR_SET_RESET = 0,
    GR_ENABLE_SET_RESET,
    GR_COLOR_COMPARE,
    GR_DATA_ROTATE,
    GR_READ_MAP,
    GR_MODE,
    GR_MISC,
    GR_COLOR_DONT_CARE,
    GR_BIT_MASK
};
enum : u8 {
    CR_HORIZONTAL_TOTAL = 0x00,
    CR_HORIZONTAL_END = 0x01,
    CR_VERTICAL_TOTAL = 0x06,
    CR_OVERFLOW = 0x07,
    CR_PRESET_ROW = 0x08,
    CR_MAX_SCAN = 0x09,
    CR_CURSOR_START = 0x0a,
    CR_CURSOR_END = 0x0b,
    CR_START_HIGH = 0x0c,
    CR_START_LOW = 0x0d,
    CR_CURSOR_HIGH = 0x0e,
    CR_CURSOR_LOW = 0x0f,
    CR_RETRACE_START = 0x10,
    CR_RETRACE_END = 0x11,
    CR_VERTICAL_END = 0x12,
    CR_OFFSET = 0x13,
    CR_UNDERLINE = 0x14,
    CR_MODE = 0x17,
    CR_LINE_COMPARE = 0x18
};
enum : u8 { AR_MODE = 0x10, AR_OVERSCAN, AR_PLANE_ENABLE, AR_PANNING, AR_COLOR_SELECT };
// MISC output register
constexpr u8 MISC_COLOR = 0x01, MISC_RAM = 0x02;
// bits of the above
constexpr u8 SR1_EIGHT_DOTS = 0x01, SR1_HALF_CLOCK = 0x08, SR1_SCREEN_OFF = 0x20;
constexpr u8 SR4_NOT_ODD_EVEN = 0x04, SR4_CHAIN_4 = 0x08;
constexpr u8 GR5_HOST_ODD_EVEN = 0x10, GR5_CGA_SHIFT = 0x20, GR5_SHIFT_256 = 0x40;
constexpr u8 GR6_GRAPHICS = 0x01;
constexpr u8 AR_INDEX_DISPLAY = 0x20; // in the index: the palette belongs to the display

enum : u8 {
    VBE_ID = 0,
    VBE_XRES,
    VBE_YRES,
    VBE_BPP,
    VBE_ENABLE,
    VBE_BANK,
    VBE_VIRTUAL_WIDTH,
    VBE_VIRTUAL_HEIGHT,
    VBE_X_OFFSET,
    VBE_Y_OFFSET,
    VBE_MEMORY_64K,
    vbe_registers
};
constexpr u16 VBE_ENABLED = 0x01, VBE_GET_LIMITS = 0x02, VBE_8BIT_DAC = 0x20, VBE_LFB = 0x40,
              VBE_KEEP_MEMORY = 0x80;
constexpr u16 vbe_id_first = 0xb0c0, vbe_id_last = 0xb0c5;
constexpr u16 vbe_most_x = 4096, vbe_most_y = 4096;
} // namespace vga

struct VgaState {
    PciConfigState config{};
    u8 misc = 0, feature = 0, enable = 1;
    u8 sequencer_index = 0, crtc_index = 0, graphics_index = 0, attribute_index = 0;
    bool attribute_data = false; // the next write to 3C0h is data
    std::array<u8, 8> sequencer{};
    std::array<u8, 32> crtc{};
    std::array<u8, 16> graphics{};
    std::array<u8, 32> attribute{};
    u8 dac_mask = 0xff, dac_read = 0, dac_write = 0, dac_part = 0;
    bool dac_reading = false;
    std::array<u8, 2> dac_latch{};
    std::array<u8, 768> palette{};
    u32 latch = 0;
    u16 vbe_index = 0;
    std::array<u16, vga::vbe_registers> vbe{vga::vbe_id_last};

    static constexpr auto fields() {
        using S = VgaState;
        return describe<S>(Field<&S::config>{}, Field<&S::misc>{}, Field<&S::feature>{},
                           Field<&S::enable>{}, Field<&S::sequencer_index>{},
                           Field<&S::crtc_index>{}, Field<&S::graphics_index>{},
                           Field<&S::attribute_index>{.max = 0x3f}, Field<&S::attribute_data>{},
                           Field<&S::sequencer>{}, Field<&S::crtc>{}, Field<&S::graphics>{},
                           Field<&S::attribute>{}, Field<&S::dac_mask>{}, Field<&S::dac_read>{},
                           Field<&S::dac_write>{}, Field<&S::dac_part>{.max = 2},
                           Field<&S::dac_reading>{}, Field<&S::dac_latch>{}, Field<&S::palette>{},
                           Field<&S::latch>{}, Field<&S::vbe_index>{}, Field<&S::vbe>{});
    }

    bool graphics_mode() const noexcept { return graphics[vga::GR_MISC] & vga::GR6_GRAPHICS; }
    bool chain_4() const noexcept { return sequencer[vga::SR_MEMORY_MODE] & vga::SR4_CHAIN_4; }
    bool dac_is_8_bit() const noexcept { return vbe[vga::VBE_ENABLE] & vga::VBE_8BIT_DAC; }
};

// A VBE mode in force. Nothing in it reaches beyond `memory`, but for single rows that panning
// moves there: those are black.
struct VbeMode {
    u32 width = 0, height = 0; // pixels, neither 0
    unsigned bits = 0;         // 4 (planar), 8, 15, 16, 24 or 32
    u64 pitch = 0, start = 0;  // bytes (4 bits: in each plane)
    bool operator==(const VbeMode &) const = default;
};
// `memory`: bytes of video memory. Empty: plain VGA.
std::optional<VbeMode> vbe_mode(const VgaState &state, u64 memory) noexcept;

} // namespace rhea::hw
