#include "hw/timer/pit.h"

#include <algorithm>

namespace rhea::hw {

namespace {

constexpr Target::Traits byte_wide{.max_size = 1};
// Edges closer than this are not told one by one: the guest's choice of a count must not keep the
// host busy.
constexpr i64 shortest_wait = 12; // ticks, 10 µs
constexpr Time refresh_half = 15'085;

unsigned mode_of(const PitChannelState &c) noexcept {
    const unsigned mode = c.control >> 1 & 7;
    return mode > 5 ? mode & 3 : mode; // the data sheet: M2 is a don't-care in modes 2 and 3
}
bool is_bcd(const PitChannelState &c) noexcept {
    return c.control & 1;
}
unsigned access_of(const PitChannelState &c) noexcept {
    return c.control >> 4 & 3;
}
bool is_periodic(const PitChannelState &c) noexcept {
    return mode_of(c) == 2 || mode_of(c) == 3;
}

// What the counting element counts from: 0 stands for the largest.
i64 ticks_of(const PitChannelState &c, u16 count) noexcept {
    if (!is_bcd(c))
        return count ? count : 0x10000;
    const i64 n =
        (count >> 12) * 1000 + (count >> 8 & 15) * 100 + (count >> 4 & 15) * 10 + (count & 15);
    return n ? n : 10000;
}
u16 to_guest(const PitChannelState &c, i64 n) noexcept {
    if (!is_bcd(c))
        return static_cast<u16>(n);
    n = ((n % 10000) + 10000) % 10000;
    return static_cast<u16>(n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10);
}

} // namespace

Pit::Pit(std::string name, Clock &clock, IrqLine irq0) noexcept
    : StateDevice(std::move(name)), clock_(clock), irq_(irq0),
      timer_(clock, *this, Callback::to<&Pit::expired>(this)), counters_(*this, "i8254", byte_wide),
      port_b_(*this, "port 61h", byte_wide), windows_{
                                                 Window{"counters", Space::port, 0x40, 4,
                                                        &counters_},
                                                 Window{"port b", Space::port, 0x61, 1, &port_b_}} {
    s = Pit::reset_state();
}

// The 8254 has no reset pin and its power-on state is undefined: not counting, outputs low, the
// gate of channel 2 as port 61h has it.
Pit::State Pit::reset_state() const noexcept {
    State fresh;
    fresh.channel[2].gate = false;
    fresh.seen = tick();
    return fresh;
}

// A count that waited for the end of a cycle takes over.
void Pit::catch_up(Channel &c, i64 now) noexcept {
    if (!c.has_next || !is_periodic(c) || !c.counting || !c.gate || now < c.switch_at)
        return;
    const i64 old = ticks_of(c, c.count);
    const bool after_high = mode_of(c) == 3 && (c.switch_at - c.start) % old == (old + 1) / 2;
    c.count = c.next_count;
    c.has_next = false;
    c.start = after_high ? c.switch_at - (ticks_of(c, c.count) + 1) / 2 : c.switch_at;
}

bool Pit::out(const Channel &c, i64 now) const noexcept {
    const unsigned mode = mode_of(c);
    if (!c.counting)
        return mode != 0;
    const i64 n = ticks_of(c, c.count);
    const bool stopped = !c.gate && (mode == 0 || mode == 4);
    const i64 t = stopped ? c.held : std::max<i64>(now - c.start, 0);
    switch (mode) {
    case 0:
    case 1: return t >= n;
    case 2: return !c.gate || t % n != n - 1;
    case 3: return !c.gate || t % n < (n + 1) / 2;
    default: return t != n;
    }
}

u16 Pit::value(const Channel &c, i64 now) const noexcept {
    const unsigned mode = mode_of(c);
    const i64 n = ticks_of(c, c.count);
    if (!c.counting)
        return to_guest(c, n);
    if (!c.gate && mode != 1 && mode != 5)
        return to_guest(c, is_periodic(c) ? n : n - c.held);
    const i64 t = std::max<i64>(now - c.start, 0);
    if (mode == 2)
        return to_guest(c, n - t % n);
    if (mode != 3)
        return to_guest(c, n - t);
    const i64 high = (n + 1) / 2, phase = t % n; // counts by two, from an even number, twice
    return to_guest(c, (n & ~i64{1}) - 2 * (phase < high ? phase : phase - high));
}

// How many times OUT has gone up between the load and `now`.
i64 Pit::rises_until(const Channel &c, i64 now) const noexcept {
    const unsigned mode = mode_of(c);
    if (!c.counting || (!c.gate && mode != 1 && mode != 5) || now < c.start)
        return 0;
    const i64 n = ticks_of(c, c.count), t = now - c.start;
    if (is_periodic(c))
        return t / n;
    return t >= (mode >= 4 ? n + 1 : n);
}

// The tick of OUT's next rising edge after `now`, or -1.
i64 Pit::next_rise(const Channel &c, i64 now) const noexcept {
    const unsigned mode = mode_of(c);
    if (!c.counting || (!c.gate && mode != 1 && mode != 5))
        return -1;
    const i64 n = ticks_of(c, c.count);
    if (is_periodic(c)) {
        if (c.has_next) // look again then, with the new count
            return std::max(c.switch_at, now + 1);
        return now < c.start ? c.start + n : c.start + ((now - c.start) / n + 1) * n;
    }
    const i64 at = c.start + (mode >= 4 ? n + 1 : n);
    return at > now ? at : -1;
}

void Pit::settle() noexcept {
    const i64 now = tick();
    Channel &c = s.channel[0];
    const i64 before = rises_until(c, std::min(s.seen, now));
    const i64 last_of_old = c.has_next ? std::min(now, c.switch_at) : now;
    bool rose = rises_until(c, last_of_old) > before;
    for (Channel &each : s.channel)
        catch_up(each, now);
    rose |= rises_until(c, now) > rises_until(c, std::min(last_of_old, now));
    if (rose) {
        irq_.lower();
        irq_.raise();
    }
    irq_.set(out(c, now));
    s.seen = now;
    const i64 next = next_rise(c, now);
    timer_.arm(next < 0 ? never
                        : frequency.ns(static_cast<u64>(std::max(next, now + shortest_wait))));
}

// A whole count has been written.
void Pit::load_count(Channel &c, u16 count, i64 now) noexcept {
    const unsigned mode = mode_of(c);
    if (mode == 1 || mode == 5 || (is_periodic(c) && c.counting && c.gate)) {
        c.next_count = count;
        c.has_next = true;
        if (!is_periodic(c))
            return; // until the gate's trigger
        const i64 n = ticks_of(c, c.count), t = std::max<i64>(now - c.start, 0), phase = t % n;
        const i64 half = (n + 1) / 2;
        const i64 end = mode == 3 && phase < half ? half : n;
        c.switch_at = std::max(now, c.start) + end - phase;
        return;
    }
    c.count = count;
    c.has_next = false;
    c.counting = true;
    c.start = now + 1; // loaded by the next clock
    c.held = 0;
}

void Pit::set_gate(Channel &c, bool gate, i64 now) noexcept {
    if (c.gate == gate)
        return;
    catch_up(c, now);
    const unsigned mode = mode_of(c);
    if (!gate && (mode == 0 || mode == 4))
        c.held = std::max<i64>(now - c.start, 0);
    c.gate = gate;
    if (!gate)
        return;
    if (mode == 0 || mode == 4) {
        c.start = now - c.held;
        return;
    }
    if (c.has_next) {
        c.count = c.next_count;
        c.has_next = false;
        c.counting = true;
    }
    c.start = now + 1; // a trigger loads the count again
}

void Pit::latch_count(Channel &c, i64 now) noexcept {
    if (c.latched_bytes) // "the first one counts, until it has been read"
        return;
    c.latch = value(c, now);
    c.latched_bytes = access_of(c) == 3 ? 2 : 1;
}

void Pit::write_control(u8 word) noexcept {
    const i64 now = tick();
    const unsigned select = word >> 6;
    if (select == 3) { // read-back
        for (unsigned n = 0; n < 3; ++n) {
            Channel &c = s.channel[n];
            if (!(word & 2u << n))
                continue;
            catch_up(c, now);
            if (!(word & 0x20))
                latch_count(c, now);
            if (!(word & 0x10) && !c.status_latched) {
                const bool null_count = !c.counting || c.has_next || now < c.start;
                c.status = static_cast<u8>(out(c, now) << 7 | null_count << 6 | (c.control & 0x3f));
                c.status_latched = true;
            }
        }
        return;
    }
    Channel &c = s.channel[select];
    catch_up(c, now);
    if (!(word & 0x30)) {
        latch_count(c, now);
        return;
    }
    const Channel old = c;
    c = {};
    c.control = word & 0x3f;
    c.gate = old.gate;
    c.count = old.count;
    s.seen = now;
}

u64 Pit::read(u64 at, unsigned) noexcept {
    if (at == 3)
        return 0xff; // the control word cannot be read
    Channel &c = s.channel[at];
    const i64 now = tick();
    catch_up(c, now);
    if (c.status_latched) {
        c.status_latched = false;
        return c.status;
    }
    const u16 count = c.latched_bytes ? c.latch : value(c, now);
    bool high = access_of(c) == 2;
    if (access_of(c) == 3) {
        high = c.high_next_read;
        c.high_next_read = !high;
    }
    if (c.latched_bytes)
        --c.latched_bytes;
    return high ? count >> 8 : count & 0xff;
}

void Pit::write(u64 at, unsigned, u64 value) noexcept {
    const u8 byte = static_cast<u8>(value);
    if (at == 3) {
        write_control(byte);
        return;
    }
    Channel &c = s.channel[at];
    const i64 now = tick();
    catch_up(c, now);
    switch (access_of(c)) {
    case 1: load_count(c, byte, now); break;
    case 2: load_count(c, static_cast<u16>(byte << 8), now); break;
    case 3:
        if (!c.high_next_write) {
            c.low_byte = byte;
            if (mode_of(c) == 0) // the first byte stops the counting
                c.counting = false;
        } else {
            load_count(c, static_cast<u16>(byte << 8 | c.low_byte), now);
        }
        c.high_next_write = !c.high_next_write;
        break;
    default: break;
    }
}

u64 Pit::read_port_b(u64, unsigned) noexcept {
    const i64 now = tick();
    catch_up(s.channel[2], now);
    const bool refresh = clock_.now() / refresh_half & 1;
    return u64{s.port_b} | u64{refresh} << 4 | u64{out(s.channel[2], now)} << 5;
}

void Pit::write_port_b(u64, unsigned, u64 value) noexcept {
    s.port_b = value & 0xf;
    set_gate(s.channel[2], value & 1, tick());
}

} // namespace rhea::hw
