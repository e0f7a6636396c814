// The CPU's way to the planes: A0000h to BFFFFh, write modes 0 to 3, read modes 0 and 1, odd/even
// and chain-4, and the banks of VBE modes.
#include "dm/core/endian.h"
#include "hw/display/vga.h"

namespace rhea::hw {

using namespace vga;

namespace {

// Bit n of the low four fills byte n.
constexpr u32 expand(u32 nibble) noexcept {
    u32 out = 0;
    for (unsigned n = 0; n < 4; ++n)
        if (nibble >> n & 1)
            out |= 0xffu << 8 * n;
    return out;
}
constexpr u32 in_each(u8 byte) noexcept {
    return byte * 0x0101'0101u;
}
constexpr u64 bank_size = 64 << 10;

} // namespace

// GR6, bits 3:2: where in the 128 KiB the memory is. `at` becomes the offset in it.
bool Vga::in_window(u64 &at) const noexcept {
    if (!(s.misc & MISC_RAM))
        return false;
    switch (s.graphics[GR_MISC] >> 2 & 3) {
    case 0: return true;
    case 1: return at < 0x1'0000;
    case 2: at -= 0x1'0000; return at < 0x8000;
    default: at -= 0x1'8000; return at < 0x8000;
    }
}

// VBE modes with whole pixels: the window is a bank of linear memory.
std::optional<u64> Vga::linear_at(u64 at) const noexcept {
    if (!(s.vbe[VBE_ENABLE] & VBE_ENABLED) || s.vbe[VBE_BPP] < 8)
        return {};
    return (s.vbe[VBE_BANK] * bank_size + at) & (vram_->size() - 1);
}

// Every byte goes where it is addressed, as it is.
bool Vga::plain_chain_4() const noexcept {
    return s.chain_4() && (s.misc & MISC_RAM) && (s.sequencer[SR_MAP_MASK] & 15) == 15 &&
           (s.graphics[GR_MISC] >> 2 & 3) == 1 && !(s.graphics[GR_MODE] & 0x0b) &&
           !(s.graphics[GR_ENABLE_SET_RESET] & 15) && !(s.graphics[GR_DATA_ROTATE] & 0x1f) &&
           s.graphics[GR_BIT_MASK] == 0xff && !(s.vbe[VBE_ENABLE] & VBE_ENABLED);
}

u8 Vga::read_byte(u64 at) noexcept {
    if (!in_window(at))
        return 0xff;
    u8 *const memory = vram_->host();
    if (const auto linear = linear_at(at))
        return memory[*linear];
    const u8 mode = s.graphics[GR_MODE];
    unsigned plane = s.graphics[GR_READ_MAP] & 3;
    u64 offset = at;
    if (s.chain_4()) {
        plane = at & 3;
        offset = at >> 2;
    } else if (mode & GR5_HOST_ODD_EVEN) {
        plane = (plane & 2) | (at & 1);
        offset = (at & 0xfffe) | at >> 16;
    }
    offset += s.vbe[VBE_ENABLE] & VBE_ENABLED ? s.vbe[VBE_BANK] * bank_size : 0;
    const u64 byte = (offset * 4) & (vram_->size() - 1);
    s.latch = load_le<u32>(&memory[byte]);
    if (!(mode & 0x08))
        return static_cast<u8>(s.latch >> 8 * plane);
    // Read mode 1: the pixels whose colour is the one compared with, in the planes that count.
    const u32 differ =
        (s.latch ^ expand(s.graphics[GR_COLOR_COMPARE])) & expand(s.graphics[GR_COLOR_DONT_CARE]);
    return static_cast<u8>(~(differ | differ >> 8 | differ >> 16 | differ >> 24));
}

void Vga::write_byte(u64 at, u8 value) noexcept {
    if (!in_window(at))
        return;
    if (const auto linear = linear_at(at)) {
        vram_->host()[*linear] = value;
        vram_->written(*linear, 1);
        return;
    }
    u8 planes = s.sequencer[SR_MAP_MASK] & 15;
    u64 offset = at;
    if (s.chain_4()) {
        planes &= static_cast<u8>(1u << (at & 3));
        offset = at >> 2;
    } else if (!(s.sequencer[SR_MEMORY_MODE] & SR4_NOT_ODD_EVEN)) {
        planes &= at & 1 ? 0b1010 : 0b0101;
        offset = (at & 0xfffe) | at >> 16;
    }
    offset += s.vbe[VBE_ENABLE] & VBE_ENABLED ? s.vbe[VBE_BANK] * bank_size : 0;
    write_planes(offset, planes, value);
}

void Vga::write_planes(u64 offset, u8 planes, u8 value) noexcept {
    const unsigned rotation = s.graphics[GR_DATA_ROTATE] & 7;
    const u8 rotated = static_cast<u8>(value >> rotation | value << (8 - rotation));
    const u32 set_reset = expand(s.graphics[GR_SET_RESET]);
    u32 mask = in_each(s.graphics[GR_BIT_MASK]);
    u32 data = s.latch;
    const unsigned mode = s.graphics[GR_MODE] & 3;
    switch (mode) {
    case 0: {
        const u32 enabled = expand(s.graphics[GR_ENABLE_SET_RESET]);
        data = (in_each(rotated) & ~enabled) | (set_reset & enabled);
        break;
    }
    case 1: break; // the latches as they are
    case 2: data = expand(value); break;
    default:
        mask &= in_each(rotated);
        data = set_reset;
        break;
    }
    if (mode != 1) {
        switch (s.graphics[GR_DATA_ROTATE] >> 3 & 3) {
        case 1: data &= s.latch; break;
        case 2: data |= s.latch; break;
        case 3: data ^= s.latch; break;
        default: break;
        }
        data = (data & mask) | (s.latch & ~mask);
    }
    const u64 byte = (offset * 4) & (vram_->size() - 1);
    const u32 selected = expand(planes);
    u8 *const at = vram_->host() + byte;
    store_le<u32>(at, (load_le<u32>(at) & ~selected) | (data & selected));
    vram_->written(byte, 4);
}

u64 Vga::read_legacy(u64 at, unsigned size) noexcept {
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i)
        value |= u64{read_byte((at + i) & 0x1'ffff)} << 8 * i;
    return value;
}

void Vga::write_legacy(u64 at, unsigned size, u64 value) noexcept {
    for (unsigned i = 0; i < size; ++i)
        write_byte((at + i) & 0x1'ffff, static_cast<u8>(value >> 8 * i));
}

} // namespace rhea::hw
