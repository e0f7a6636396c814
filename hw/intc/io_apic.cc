#include "hw/intc/io_apic.h"

#include "dm/core/bits.h"

namespace rhea::hw {

namespace {

// Redirection table, 3.2.4.
constexpr u64 MASK = 1u << 16, TRIGGER_LEVEL = 1u << 15, REMOTE_IRR = 1u << 14;
constexpr u64 writable = 0xff00'0000'0001'afff;

enum : u8 { IOAPICID = 0, IOAPICVER = 1, IOAPICARB = 2, IOREDTBL = 0x10 };
constexpr u32 version = 0x11 | (IoApic::inputs - 1) << 16;

} // namespace

IoApic::IoApic(std::string name, ApicBus &bus) noexcept
    : PlainDevice(std::move(name)),
      bus_(bus), windows_{Window{"registers", Space::memory, default_base, 0x1000, this}} {
    s = IoApic::reset_state();
    bus.attach(*this);
}

// Power-on: everything masked. The inputs' levels are their sources' to say.
IoApic::State IoApic::reset_state() const noexcept {
    State fresh;
    fresh.redirection.fill(MASK);
    fresh.lines = s.lines;
    return fresh;
}

void IoApic::post(unsigned input) noexcept {
    u64 &entry = s.redirection[input];
    const bool level = entry & TRIGGER_LEVEL;
    const auto mode = static_cast<DeliveryMode>(bits(entry, 10, 8));
    // Only these two modes go on until an EOI (3.2.4); the others are edges whatever the bit says.
    const bool waits =
        level && (mode == DeliveryMode::fixed || mode == DeliveryMode::lowest_priority);
    if (waits)
        entry |= REMOTE_IRR;
    bus_.deliver({.vector = static_cast<u8>(entry),
                  .mode = mode,
                  .destination = static_cast<u8>(entry >> 56),
                  .logical = bit(entry, 11),
                  .level = waits});
}

void IoApic::settle() noexcept {
    for (unsigned n = 0; n < inputs; ++n) {
        const u64 entry = s.redirection[n];
        if ((s.lines >> n & 1) && (entry & TRIGGER_LEVEL) && !(entry & (MASK | REMOTE_IRR)) &&
            bits(entry, 10, 8) <= 1)
            post(n);
    }
}

void IoApic::set_line(u32 number, bool level) noexcept {
    if (number >= inputs)
        return;
    enter([&] {
        const u32 mask = u32{1} << number;
        const bool rises = level && !(s.lines & mask);
        s.lines = level ? s.lines | mask : s.lines & ~mask;
        const u64 entry = s.redirection[number];
        // An edge on a masked input is lost; a level goes by settle().
        const bool by_level = (entry & TRIGGER_LEVEL) && bits(entry, 10, 8) <= 1;
        if (rises && !by_level && !(entry & MASK))
            post(number);
    });
}

void IoApic::end_of_interrupt(u8 vector) noexcept {
    enter([&] {
        for (u64 &entry : s.redirection)
            if ((entry & TRIGGER_LEVEL) && static_cast<u8>(entry) == vector)
                entry &= ~REMOTE_IRR;
    });
}

u32 IoApic::read_selected() const noexcept {
    switch (s.select) {
    case IOAPICID:
    case IOAPICARB: return u32{s.id} << 24;
    case IOAPICVER: return version;
    default: break;
    }
    const unsigned index = s.select - IOREDTBL;
    if (s.select < IOREDTBL || index >= 2 * inputs)
        return 0;
    return static_cast<u32>(s.redirection[index / 2] >> (index & 1) * 32);
}

void IoApic::write_selected(u32 value) noexcept {
    if (s.select == IOAPICID) {
        s.id = static_cast<u8>(bits(value, 27, 24));
        return;
    }
    const unsigned index = s.select - IOREDTBL;
    if (s.select < IOREDTBL || index >= 2 * inputs)
        return;
    u64 &entry = s.redirection[index / 2];
    const unsigned shift = (index & 1) * 32;
    const u64 mask = writable & (u64{0xffff'ffff} << shift);
    entry = (entry & ~mask) | ((u64{value} << shift) & mask);
    if (!(entry & TRIGGER_LEVEL)) // remote IRR has no meaning for an edge, and must not outlive it
        entry &= ~REMOTE_IRR;
}

// IOREGSEL at 0 and IOWIN at 10h are accessed as 32 bits; anything else is not decoded.
u64 IoApic::read(u64 at, unsigned) noexcept {
    switch (at & ~u64{3}) {
    case 0x00: return u64{s.select} >> 8 * (at & 3);
    case 0x10: return u64{read_selected()} >> 8 * (at & 3);
    default: return 0;
    }
}

void IoApic::write(u64 at, unsigned size, u64 value) noexcept {
    if (at == 0)
        s.select = static_cast<u8>(value);
    else if (at == 0x10 && size == 4)
        write_selected(static_cast<u32>(value));
}

} // namespace rhea::hw
