// Exact conversion between nanoseconds and the ticks of a clock of a given frequency.
//
// Always from a fixed origin (the time when a counter was loaded), never by adding rounded steps,
// so nothing drifts.
#pragma once
#include "dm/core/types.h"

namespace rhea {

// a * b / c without overflow in between; c is not 0. What does not fit saturates.
constexpr u64 mul_div(u64 a, u64 b, u64 c) noexcept {
    const unsigned __int128 q = static_cast<unsigned __int128>(a) * b / c;
    return q > ~u64{0} ? ~u64{0} : static_cast<u64>(q);
}
constexpr u64 mul_div_up(u64 a, u64 b, u64 c) noexcept {
    const unsigned __int128 q = (static_cast<unsigned __int128>(a) * b + (c - 1)) / c;
    return q > ~u64{0} ? ~u64{0} : static_cast<u64>(q);
}

struct Frequency {
    u64 hz = 1; // not 0

    static constexpr u64 ns_per_second = 1'000'000'000;

    // Whole ticks that have passed after `ns` nanoseconds; 0 before the origin.
    constexpr u64 ticks(i64 ns) const noexcept {
        return ns <= 0 ? 0 : mul_div(static_cast<u64>(ns), hz, ns_per_second);
    }
    // The first nanosecond at which ticks() says at least `t`; saturates to the largest time.
    constexpr i64 ns(u64 t) const noexcept {
        const u64 n = mul_div_up(t, ns_per_second, hz);
        return n > static_cast<u64>(INT64_MAX) ? INT64_MAX : static_cast<i64>(n);
    }
};

} // namespace rhea
