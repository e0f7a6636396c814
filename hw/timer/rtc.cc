#include "hw/timer/rtc.h"

#include <algorithm>
#include <ctime>

namespace rhea::hw {

namespace {

enum : u8 {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    A,
    B,
    C,
    D,
    CENTURY = 0x32,
};
constexpr u8 A_UIP = 0x80;
constexpr u8 B_SET = 0x80, B_PIE = 0x40, B_AIE = 0x20, B_UIE = 0x10, B_SQWE = 0x08;
constexpr u8 B_BINARY = 0x04, B_24H = 0x02;
constexpr u8 C_IRQF = 0x80, C_PF = 0x40, C_AF = 0x20, C_UF = 0x10;
constexpr u8 D_VALID = 0x80;

constexpr i64 second = 1'000'000'000;
// "Update in progress" goes up 244 µs before the update, which takes 1984 µs at 32768 Hz.
constexpr i64 update_time = 244'000 + 1'984'000;
constexpr i64 seconds_a_day = 86'400;

i64 floor_div(i64 a, i64 b) noexcept {
    return a / b - (a % b < 0);
}
i64 floor_mod(i64 a, i64 b) noexcept {
    return a - floor_div(a, b) * b;
}

bool is_time(u8 index) noexcept {
    return (index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM &&
            index != HOURS_ALARM) ||
           index == CENTURY;
}

} // namespace

Rtc::Rtc(std::string name, Clock &clock, IrqLine irq8, i64 calendar_ns) noexcept
    : PlainDevice(std::move(name), {.max_size = 1}), clock_(clock), irq_(irq8),
      timer_(clock, *this, Callback::to<&Rtc::expired>(this)), windows_{Window{"ports", Space::port,
                                                                               0x70, 2, this}} {
    s.ram[A] = 0x26; // 32768 Hz, 1024 Hz periodic rate: as every PC's firmware sets it
    s.ram[B] = B_24H;
    s.ram[D] = D_VALID;
    s.offset = calendar_ns;
    s.seen = clock.now();
    show(calendar_ns);
}

void Rtc::set_byte(u8 index, u8 value) noexcept {
    enter([&] { s.ram[index & 0x7f] = value; });
}

// RESET clears the interrupt enables and flags, and touches nothing else.
Rtc::State Rtc::reset_state() const noexcept {
    State fresh = s;
    fresh.index = 0;
    fresh.ram[B] &= static_cast<u8>(~(B_PIE | B_AIE | B_UIE | B_SQWE));
    fresh.ram[C] = 0;
    return fresh;
}

// The divider is held in reset, or the guest is setting the time.
bool Rtc::stopped() const noexcept {
    return (s.ram[B] & B_SET) || (s.ram[A] >> 4 & 7) > 2;
}

i64 Rtc::calendar() const noexcept {
    return clock_.now() + s.offset;
}

u8 Rtc::encode(i64 n) const noexcept {
    n = floor_mod(n, 100);
    return static_cast<u8>(s.ram[B] & B_BINARY ? n : n / 10 << 4 | n % 10);
}
i64 Rtc::decode(u8 byte) const noexcept {
    return s.ram[B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15);
}

// Calendar time into the registers.
void Rtc::show(i64 calendar_ns) noexcept {
    const std::time_t at = static_cast<std::time_t>(floor_div(calendar_ns, second));
    std::tm t{};
    if (!gmtime_r(&at, &t))
        return;
    s.ram[SECONDS] = encode(t.tm_sec);
    s.ram[MINUTES] = encode(t.tm_min);
    if (s.ram[B] & B_24H) {
        s.ram[HOURS] = encode(t.tm_hour);
    } else {
        const int hour = t.tm_hour % 12 ? t.tm_hour % 12 : 12;
        s.ram[HOURS] = static_cast<u8>(encode(hour) | (t.tm_hour >= 12 ? 0x80 : 0));
    }
    s.ram[WEEKDAY] = encode(t.tm_wday + 1);
    s.ram[DAY] = encode(t.tm_mday);
    s.ram[MONTH] = encode(t.tm_mon + 1);
    s.ram[YEAR] = encode(t.tm_year % 100);
    s.ram[CENTURY] = encode((t.tm_year + 1900) / 100);
}

// And back; what is no date is taken as far as it goes (32 January is 1 February).
i64 Rtc::shown() const noexcept {
    std::tm t{};
    t.tm_sec = static_cast<int>(decode(s.ram[SECONDS]));
    t.tm_min = static_cast<int>(decode(s.ram[MINUTES]));
    if (s.ram[B] & B_24H)
        t.tm_hour = static_cast<int>(decode(s.ram[HOURS]));
    else
        t.tm_hour =
            static_cast<int>(decode(s.ram[HOURS] & 0x7f) % 12) + (s.ram[HOURS] & 0x80 ? 12 : 0);
    t.tm_mday = static_cast<int>(decode(s.ram[DAY]));
    t.tm_mon = static_cast<int>(decode(s.ram[MONTH])) - 1;
    // Bounded so that nanoseconds fit into 64 bits: years 1770 to 2199.
    const i64 year = decode(s.ram[CENTURY]) * 100 + decode(s.ram[YEAR]);
    t.tm_year = static_cast<int>(std::clamp<i64>(year, 1770, 2199)) - 1900;
    return static_cast<i64>(timegm(&t)) * second;
}

bool Rtc::alarm_at(i64 at) const noexcept {
    const std::time_t time = static_cast<std::time_t>(at);
    std::tm t{};
    if (!gmtime_r(&time, &t))
        return false;
    u8 hour = encode(t.tm_hour);
    if (!(s.ram[B] & B_24H))
        hour = static_cast<u8>(encode(t.tm_hour % 12 ? t.tm_hour % 12 : 12) |
                               (t.tm_hour >= 12 ? 0x80 : 0));
    const auto match = [](u8 alarm, u8 value) { return alarm >= 0xc0 || alarm == value; };
    return match(s.ram[SECONDS_ALARM], encode(t.tm_sec)) &&
           match(s.ram[MINUTES_ALARM], encode(t.tm_min)) && match(s.ram[HOURS_ALARM], hour);
}

// The periodic rate, MC146818 table 5 at 32768 Hz; 0: off.
Time Rtc::period() const noexcept {
    const unsigned rate = s.ram[A] & 15;
    if (!rate || (s.ram[A] >> 4 & 7) > 2)
        return 0;
    const unsigned shift = rate <= 2 ? rate + 6 : rate - 1;
    return (second << shift) / 32768;
}

// Brings register C up to the present.
void Rtc::update_flags() noexcept {
    const Time now = clock_.now();
    if (const Time p = period(); p && now / p > s.seen / p)
        s.ram[C] |= C_PF;
    if (!stopped()) {
        const i64 from = floor_div(s.seen + s.offset, second);
        const i64 to = floor_div(now + s.offset, second);
        if (to > from)
            s.ram[C] |= C_UF;
        // Every alarm comes at least once a day.
        for (i64 at = std::max(from + 1, to - seconds_a_day); at <= to && !(s.ram[C] & C_AF); ++at)
            if (alarm_at(at))
                s.ram[C] |= C_AF;
    }
    s.seen = std::max(s.seen, now);
}

Time Rtc::next_event() const noexcept {
    const Time now = clock_.now();
    Time next = never;
    if (const Time p = period(); p && (s.ram[B] & B_PIE))
        next = (now / p + 1) * p;
    if (!stopped() && (s.ram[B] & (B_UIE | B_AIE)))
        next = std::min(next, now + second - floor_mod(calendar(), second));
    return next;
}

void Rtc::settle() noexcept {
    update_flags();
    const bool irq = s.ram[C] & s.ram[B] & (C_PF | C_AF | C_UF);
    s.ram[C] = static_cast<u8>((s.ram[C] & ~C_IRQF) | (irq ? C_IRQF : 0));
    irq_.set(irq);
    // While the line is up nothing new can be told before the guest reads register C.
    timer_.arm(irq ? never : next_event());
}

u8 Rtc::read_register(u8 index) noexcept {
    if (is_time(index) && !stopped())
        show(calendar());
    switch (index) {
    case A: {
        const bool updating = !stopped() && floor_mod(calendar(), second) >= second - update_time;
        return static_cast<u8>((s.ram[A] & ~A_UIP) | (updating ? A_UIP : 0));
    }
    case C: {
        settle();
        const u8 flags = s.ram[C];
        s.ram[C] = 0;
        return flags;
    }
    default: return s.ram[index];
    }
}

void Rtc::write_control(u8 index, u8 value) noexcept {
    update_flags();
    const bool was_stopped = stopped();
    const i64 fraction = floor_mod(calendar(), second);
    if (!was_stopped)
        show(calendar());
    // Flags that were set while the calendar was wrong are not the new time's.
    const bool held = (s.ram[A] >> 4 & 7) > 2;
    s.ram[index] = index == A ? value & 0x7f : value;
    if (was_stopped && !stopped()) // the first update comes half a second after the divider starts
        s.offset = shown() + (held ? second / 2 : fraction) - clock_.now();
}

void Rtc::write_register(u8 index, u8 value) noexcept {
    if (index == A || index == B) {
        write_control(index, value);
        return;
    }
    if (index == C || index == D)
        return;
    if (!is_time(index) || stopped()) {
        s.ram[index] = value;
        return;
    }
    // The time is changed while it runs.
    update_flags();
    const i64 fraction = floor_mod(calendar(), second);
    show(calendar());
    s.ram[index] = value;
    s.offset = shown() + fraction - clock_.now();
}

u64 Rtc::read(u64 at, unsigned) noexcept {
    return at == 0 ? 0xff : read_register(s.index & 0x7f); // port 70h cannot be read
}

void Rtc::write(u64 at, unsigned, u64 value) noexcept {
    if (at == 0)
        s.index = static_cast<u8>(value); // bit 7 masks NMI, of which there is no source
    else
        write_register(s.index & 0x7f, static_cast<u8>(value));
}

} // namespace rhea::hw
