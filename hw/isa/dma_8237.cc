#include "hw/isa/dma_8237.h"

#include "dm/core/trace.h"

namespace rhea::hw {

TRACE_POINT(post_code, "firmware writes its progress to port 80h");

namespace {

// Registers 8 to 15, write side and read side.
enum : unsigned {
    COMMAND = 8,
    REQUEST,
    SINGLE_MASK,
    MODE,
    CLEAR_FLIP_FLOP,
    MASTER_CLEAR,
    CLEAR_MASK,
    ALL_MASK
};
enum : unsigned { STATUS = 8, TEMPORARY = 13, MASKS = 15 };
constexpr Target::Traits byte_wide{.max_size = 1};

u8 byte_of(u16 word, bool high) noexcept {
    return static_cast<u8>(high ? word >> 8 : word);
}
u16 with_byte(u16 word, bool high, u8 byte) noexcept {
    return static_cast<u16>(high ? (word & 0x00ff) | byte << 8 : (word & 0xff00) | byte);
}
u8 with_bit(u8 set, unsigned n, bool on) noexcept {
    return static_cast<u8>(on ? set | 1u << n : set & ~(1u << n));
}

} // namespace

DmaPair::DmaPair(std::string name) noexcept
    : StateDevice(std::move(name)), low_(*this, "i8237 low", byte_wide),
      high_(*this, "i8237 high", byte_wide),
      page_(*this, "dma pages", byte_wide), windows_{
                                                Window{"low", Space::port, 0x00, 16, &low_},
                                                Window{"high", Space::port, 0xc0, 32, &high_},
                                                Window{"pages", Space::port, 0x80, 16, &page_}} {}

// The controllers' reset clears what "master clear" does; addresses, counts and pages stay.
DmaPairState DmaPair::reset_state() const noexcept {
    DmaPairState fresh = s;
    for (DmaControllerState &c : fresh.controller) {
        c.command = c.status = c.request = c.temporary = 0;
        c.mask = 0x0f;
        c.high_byte = false;
    }
    return fresh;
}

u8 DmaPair::read_controller(DmaControllerState &c, unsigned reg) noexcept {
    if (reg < 8) {
        const DmaChannelState &channel = c.channel[reg / 2];
        const bool high = std::exchange(c.high_byte, !c.high_byte);
        return byte_of(reg & 1 ? channel.count : channel.address, high);
    }
    switch (reg) {
    case STATUS: {
        const u8 status = c.status;
        c.status &= 0xf0; // terminal counts are cleared by the read
        return status;
    }
    case TEMPORARY: return c.temporary;
    case MASKS: return c.mask | 0xf0;
    default: return 0xff;
    }
}

void DmaPair::write_controller(DmaControllerState &c, unsigned reg, u8 value) noexcept {
    if (reg < 8) {
        DmaChannelState &channel = c.channel[reg / 2];
        const bool high = std::exchange(c.high_byte, !c.high_byte);
        u16 &base = reg & 1 ? channel.base_count : channel.base_address;
        base = with_byte(base, high, value);
        (reg & 1 ? channel.count : channel.address) = base;
        return;
    }
    switch (reg) {
    case COMMAND: c.command = value; break;
    case REQUEST: c.request = with_bit(c.request, value & 3, value & 4); break;
    case SINGLE_MASK: c.mask = with_bit(c.mask, value & 3, value & 4); break;
    case MODE: c.channel[value & 3].mode = value & 0xfc; break;
    case CLEAR_FLIP_FLOP: c.high_byte = false; break;
    case MASTER_CLEAR:
        c.command = c.status = c.request = c.temporary = 0;
        c.mask = 0x0f;
        c.high_byte = false;
        break;
    case CLEAR_MASK: c.mask = 0; break;
    case ALL_MASK: c.mask = value & 0x0f; break;
    default: break;
    }
}

u64 DmaPair::read_low(u64 at, unsigned) noexcept {
    return read_controller(s.controller[0], static_cast<unsigned>(at));
}
void DmaPair::write_low(u64 at, unsigned, u64 value) noexcept {
    write_controller(s.controller[0], static_cast<unsigned>(at), static_cast<u8>(value));
}
u64 DmaPair::read_high(u64 at, unsigned) noexcept { // bit 0 of the address is not decoded
    return read_controller(s.controller[1], static_cast<unsigned>(at / 2));
}
void DmaPair::write_high(u64 at, unsigned, u64 value) noexcept {
    write_controller(s.controller[1], static_cast<unsigned>(at / 2), static_cast<u8>(value));
}
u64 DmaPair::read_page(u64 at, unsigned) noexcept {
    return s.page[at];
}
void DmaPair::write_page(u64 at, unsigned, u64 value) noexcept {
    s.page[at] = static_cast<u8>(value);
    if (at == 0)
        TRACE(post_code, "%02x", s.page[0]);
}

} // namespace rhea::hw
