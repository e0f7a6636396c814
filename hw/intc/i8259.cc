#include "hw/intc/i8259.h"

#include <bit>

namespace rhea::hw {

namespace {

constexpr u8 ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_SELECT = 0x10;
constexpr u8 ICW4_AEOI = 0x02, ICW4_SFNM = 0x10;
constexpr u8 OCW3_SELECT = 0x08, OCW3_RIS = 0x01, OCW3_RR = 0x02, OCW3_POLL = 0x04;
constexpr u8 OCW3_SMM = 0x20, OCW3_ESMM = 0x40;
// IR0, IR1, IR2 (cascade), IR8 and IR13 cannot be made level sensitive (82371SB, 2.5.4).
constexpr std::array<u8, 2> elcr_writable{0xf8, 0xde};

constexpr u8 bit_of(unsigned level) noexcept {
    return static_cast<u8>(1u << (level & 7));
}

// The level of the highest priority among the set bits, or 8.
unsigned first_by_priority(const accel::I8259State &c, u8 set) noexcept {
    if (!set)
        return 8;
    const unsigned highest = (c.lowest + 1u) & 7;
    const unsigned rotated = std::rotr(set, static_cast<int>(highest));
    return (static_cast<unsigned>(std::countr_zero(rotated)) + highest) & 7;
}
unsigned rank(const accel::I8259State &c, unsigned level) noexcept {
    return (level - c.lowest - 1u) & 7;
}

} // namespace

constexpr Target::Traits byte_wide{.max_size = 1};

I8259Pair::I8259Pair(std::string name, IrqLine output) noexcept
    : StateDevice(std::move(name)), output_(output), master_(*this, "i8259 master", byte_wide),
      slave_(*this, "i8259 slave", byte_wide),
      elcr_(*this, "elcr", byte_wide), windows_{Window{"master", Space::port, 0x20, 2, &master_},
                                                Window{"slave", Space::port, 0xa0, 2, &slave_},
                                                Window{"elcr", Space::port, 0x4d0, 2, &elcr_}} {}

// The levels of the inputs are their sources' to say; a reset does not change them.
I8259Pair::State I8259Pair::reset_state() const noexcept {
    State fresh;
    for (unsigned n = 0; n < 2; ++n)
        fresh.chip[n].lines = s.chip[n].lines;
    return fresh;
}

// The level that this chip asks to be served, or 8.
unsigned I8259Pair::requested(unsigned chip) const noexcept {
    const Chip &c = s.chip[chip];
    const unsigned level = first_by_priority(c, c.irr & static_cast<u8>(~c.imr));
    if (level == 8 || c.next_icw)
        return 8;
    u8 blocking = c.isr;
    if (c.special_mask)
        blocking &= static_cast<u8>(~c.imr);
    // Special fully nested: further requests of the slave pass while one of its own is served.
    if (chip == 0 && (c.icw4 & ICW4_SFNM) && level == cascade)
        blocking &= static_cast<u8>(~bit_of(cascade));
    const unsigned served = first_by_priority(c, blocking);
    return served == 8 || rank(c, level) < rank(c, served) ? level : 8;
}

void I8259Pair::set_input(unsigned chip, unsigned level, bool high) noexcept {
    Chip &c = s.chip[chip];
    const u8 mask = bit_of(level);
    const bool rises = high && !(c.lines & mask);
    c.lines = static_cast<u8>(high ? c.lines | mask : c.lines & ~mask);
    // The slave's INT is a level as the master sees it: it falls when there is nothing left.
    if ((c.elcr & mask) || (chip == 0 && level == cascade))
        c.irr = static_cast<u8>(high ? c.irr | mask : c.irr & ~mask);
    else if (rises)
        c.irr |= mask;
}

void I8259Pair::set_line(u32 number, bool level) noexcept {
    if (number >= 16 || number == cascade)
        return;
    enter([&] { set_input(number >> 3, number & 7, level); });
}

// INTA: what is served moves from the request to the in-service register.
unsigned I8259Pair::serve(unsigned chip) noexcept {
    Chip &c = s.chip[chip];
    const unsigned level = requested(chip);
    if (level == 8)
        return 8;
    if (c.icw4 & ICW4_AEOI) {
        if (c.rotate_on_aeoi)
            c.lowest = static_cast<u8>(level);
    } else {
        c.isr |= bit_of(level);
    }
    if (!(c.elcr & bit_of(level)) && !(chip == 0 && level == cascade))
        c.irr &= static_cast<u8>(~bit_of(level));
    return level;
}

u8 I8259Pair::acknowledge() noexcept {
    u8 vector = 0;
    enter([&] {
        const unsigned first = serve(0);
        if (first == cascade) {
            const unsigned second = serve(1);
            vector = static_cast<u8>(s.chip[1].vector_base | (second == 8 ? 7 : second));
        } else {
            vector = static_cast<u8>(s.chip[0].vector_base | (first == 8 ? 7 : first));
        }
    });
    return vector;
}

void I8259Pair::end_of_interrupt(unsigned chip, u8 command) noexcept {
    Chip &c = s.chip[chip];
    const bool rotate = command & 0x80, specific = command & 0x40, eoi = command & 0x20;
    unsigned level = command & 7;
    if (!eoi) {
        if (specific && rotate)
            c.lowest = static_cast<u8>(level); // set priority
        else if (!specific)
            c.rotate_on_aeoi = rotate;
        return; // 010: no operation
    }
    if (!specific) {
        u8 served = c.isr;
        if (c.special_mask) // what is masked is not looked at by a non-specific EOI
            served &= static_cast<u8>(~c.imr);
        level = first_by_priority(c, served);
    }
    if (level == 8)
        return;
    c.isr &= static_cast<u8>(~bit_of(level));
    if (rotate)
        c.lowest = static_cast<u8>(level);
}

void I8259Pair::initialise(unsigned chip, u8 icw1) noexcept {
    Chip &c = s.chip[chip];
    const Chip old = c;
    c = {};
    c.lines = old.lines;
    c.elcr = old.elcr;
    c.icw1 = icw1;
    c.vector_base = old.vector_base;
    c.icw3 = old.icw3;
    c.icw4 = icw1 & ICW1_IC4 ? old.icw4 : u8{0};
    c.next_icw = 2;
    // Edge latches are cleared; level inputs go on asking.
    const u8 levels = static_cast<u8>(c.elcr | (chip == 0 ? bit_of(cascade) : 0));
    c.irr = c.lines & levels;
}

u64 I8259Pair::read_chip(unsigned chip, u64 at) noexcept {
    Chip &c = s.chip[chip];
    if (c.poll) { // the read is the acknowledge cycle, at either address
        c.poll = false;
        const unsigned level = serve(chip);
        return level == 8 ? 0x07 : 0x80 | level;
    }
    if (at == 1)
        return c.imr;
    return c.read_isr ? c.isr : c.irr;
}

void I8259Pair::write_chip(unsigned chip, u64 at, u8 value) noexcept {
    Chip &c = s.chip[chip];
    if (at == 0) {
        if (value & ICW1_SELECT) {
            initialise(chip, value);
        } else if (value & OCW3_SELECT) {
            if (value & OCW3_POLL)
                c.poll = true;
            if (value & OCW3_RR)
                c.read_isr = value & OCW3_RIS;
            if (value & OCW3_ESMM)
                c.special_mask = value & OCW3_SMM;
        } else {
            end_of_interrupt(chip, value);
        }
        return;
    }
    switch (c.next_icw) {
    case 2:
        c.vector_base = value & 0xf8;
        c.next_icw = !(c.icw1 & ICW1_SNGL) ? 3 : (c.icw1 & ICW1_IC4) ? 4 : 0;
        break;
    case 3:
        c.icw3 = value;
        c.next_icw = c.icw1 & ICW1_IC4 ? 4 : 0;
        break;
    case 4:
        c.icw4 = value;
        c.next_icw = 0;
        break;
    default: c.imr = value; break;
    }
}

void I8259Pair::write_elcr(u64 at, unsigned, u64 value) noexcept {
    Chip &c = s.chip[at & 1];
    const u8 before = c.elcr;
    c.elcr = static_cast<u8>(value & elcr_writable[at & 1]);
    // An input that becomes level sensitive asks as its line does.
    const u8 changed = before ^ c.elcr;
    c.irr = static_cast<u8>((c.irr & ~changed) | (c.lines & c.elcr & changed));
}

void I8259Pair::settle() noexcept {
    set_input(0, cascade, requested(1) != 8);
    output_.set(requested(0) != 8);
}

} // namespace rhea::hw
