// The Bochs extensions: index and data registers, at ports 1CEh and 1CFh and in the memory BAR.
#include "dm/core/bits.h"
#include "dm/core/endian.h"
#include "hw/display/vga.h"

#include <algorithm>
#include <cstring>

namespace rhea::hw {

using namespace vga;

namespace {

u64 bytes_per_row(u64 pixels, unsigned bits) noexcept {
    return bits == 4 ? pixels / 8 : pixels * ((bits + 7) / 8);
}
// What one plane of four has, where there are planes.
u64 memory_of(u64 memory, unsigned bits) noexcept {
    return bits == 4 ? memory / 4 : memory;
}
bool depth_exists(unsigned bits) noexcept {
    return bits == 4 || bits == 8 || bits == 15 || bits == 16 || bits == 24 || bits == 32;
}

} // namespace

std::optional<VbeMode> vbe_mode(const VgaState &s, u64 memory) noexcept {
    const unsigned bits = s.vbe[VBE_BPP];
    if (!(s.vbe[VBE_ENABLE] & VBE_ENABLED) || !depth_exists(bits))
        return {};
    VbeMode mode{.width = std::min(s.vbe[VBE_XRES], vbe_most_x),
                 .height = std::min(s.vbe[VBE_YRES], vbe_most_y),
                 .bits = bits};
    const u64 row = bytes_per_row(mode.width, bits);
    if (!row)
        return {};
    mode.height = static_cast<u32>(std::min<u64>(mode.height, memory_of(memory, bits) / row));
    if (!mode.height)
        return {};
    mode.pitch = bytes_per_row(std::max<u32>(mode.width, s.vbe[VBE_VIRTUAL_WIDTH]), bits);
    mode.start = s.vbe[VBE_Y_OFFSET] * mode.pitch + bytes_per_row(s.vbe[VBE_X_OFFSET], bits);
    return mode;
}

u16 Vga::read_vbe(u16 index) const noexcept {
    if (index >= vbe_registers)
        return index < 0x10 ? 0 : 0xffff;
    if (s.vbe[VBE_ENABLE] & VBE_GET_LIMITS) {
        if (index == VBE_XRES)
            return vbe_most_x;
        if (index == VBE_YRES)
            return vbe_most_y;
        if (index == VBE_BPP)
            return 32;
    }
    if (index == VBE_MEMORY_64K)
        return static_cast<u16>(std::min<u64>(vram_->size() >> 16, 0xffff));
    if (index == VBE_VIRTUAL_HEIGHT) {
        const auto mode = vbe_mode(s, vram_->size());
        return mode ? static_cast<u16>(
                          std::min<u64>(memory_of(vram_->size(), mode->bits) / mode->pitch, 0xffff))
                    : u16{0};
    }
    return s.vbe[index];
}

void Vga::write_vbe(u16 index, u16 value) noexcept {
    switch (index) {
    case VBE_ID:
        if (value >= vbe_id_first && value <= vbe_id_last)
            s.vbe[VBE_ID] = value;
        break;
    case VBE_XRES:
        if (value <= vbe_most_x && value % 8 == 0)
            s.vbe[VBE_XRES] = value;
        break;
    case VBE_YRES:
        if (value <= vbe_most_y)
            s.vbe[VBE_YRES] = value;
        break;
    case VBE_BPP:
        if (value == 0 || depth_exists(value))
            s.vbe[VBE_BPP] = value ? value : u16{8};
        break;
    case VBE_ENABLE: enable_vbe(value); break;
    case VBE_BANK:
    case VBE_VIRTUAL_WIDTH:
    case VBE_X_OFFSET:
    case VBE_Y_OFFSET: s.vbe[index] = value; break;
    default: break; // the others follow from these
    }
    ++changes_;
}

void Vga::enable_vbe(u16 value) noexcept {
    const bool was_on = s.vbe[VBE_ENABLE] & VBE_ENABLED;
    s.vbe[VBE_ENABLE] =
        value & (VBE_ENABLED | VBE_GET_LIMITS | VBE_8BIT_DAC | VBE_LFB | VBE_KEEP_MEMORY);
    s.vbe[VBE_BANK] = 0;
    if (!(value & VBE_ENABLED) || was_on)
        return;
    s.vbe[VBE_VIRTUAL_WIDTH] = s.vbe[VBE_XRES];
    s.vbe[VBE_X_OFFSET] = s.vbe[VBE_Y_OFFSET] = 0;
    const auto mode = vbe_mode(s, vram_->size());
    if (!mode || (value & VBE_KEEP_MEMORY))
        return;
    const u64 size = mode->pitch * mode->height * (mode->bits == 4 ? 4 : 1);
    std::memset(vram_->host(), 0, size);
    vram_->written(0, size);
}

// --------------------------------------------------------------------------------------- ports

u64 Vga::read_vbe_port(u64 at, unsigned size) noexcept {
    if (at == 0)
        return s.vbe_index & size_mask(size);
    return read_vbe(s.vbe_index) & size_mask(size);
}

// The data register answers at 1CFh, and at 1D0h, where an aligned 16-bit access finds it.
void Vga::write_vbe_port(u64 at, unsigned, u64 value) noexcept {
    if (at == 0)
        s.vbe_index = static_cast<u16>(value);
    else
        write_vbe(s.vbe_index, static_cast<u16>(value));
}

// -------------------------------------------------------------------------------- the memory BAR

namespace {
constexpr u64 mmio_vga = 0x400, mmio_vga_end = 0x420; // ports 3C0h to 3DFh
constexpr u64 mmio_vbe = 0x500, mmio_vbe_end = mmio_vbe + 2 * vbe_registers;
constexpr u64 mmio_extended = 0x600; // size of this block, and the byte order of the frame buffer
constexpr u32 little_endian_code = 0x1e1e'1e1e, extended_size = 8;
} // namespace

u64 Vga::read_mmio(u64 at, unsigned size) noexcept {
    u64 value = 0;
    if (at >= mmio_vga && at < mmio_vga_end) {
        for (unsigned i = 0; i < size; ++i)
            value |= u64{read_register(static_cast<u16>(0x3c0 + at - mmio_vga + i))} << 8 * i;
    } else if (at >= mmio_vbe && at < mmio_vbe_end) {
        for (unsigned i = 0; i < size; ++i)
            value |= u64{read_vbe(static_cast<u16>((at + i - mmio_vbe) / 2)) >> 8 * ((at + i) & 1) &
                         0xffu}
                     << 8 * i;
    } else if (at >= mmio_extended && at + size <= mmio_extended + extended_size) {
        const u64 block = extended_size | u64{little_endian_code} << 32;
        value = block >> 8 * (at - mmio_extended) & size_mask(size);
    } else if (at + size <= edid_.size()) {
        value = load_le(&edid_[at], size);
    }
    return value;
}

void Vga::write_mmio(u64 at, unsigned size, u64 value) noexcept {
    if (at >= mmio_vga && at < mmio_vga_end) {
        for (unsigned i = 0; i < size; ++i)
            write_register(static_cast<u16>(0x3c0 + at - mmio_vga + i),
                           static_cast<u8>(value >> 8 * i));
    } else if (at >= mmio_vbe && at < mmio_vbe_end) {
        if (size == 1) // half of a register: the other half stays
            return write_vbe(static_cast<u16>((at - mmio_vbe) / 2),
                             static_cast<u16>(with_bits(s.vbe[(at - mmio_vbe) / 2], at & 1 ? 15 : 7,
                                                        at & 1 ? 8 : 0, value)));
        for (unsigned i = 0; i < size; i += 2)
            write_vbe(static_cast<u16>((at - mmio_vbe + i) / 2), static_cast<u16>(value >> 8 * i));
    }
}

} // namespace rhea::hw
