// Small arithmetic on bit fields, alignments and access sizes. Everything is constexpr and total.
#pragma once
#include "dm/core/types.h"

namespace rhea {

// The lowest n bits set; n may be 0 to 64.
constexpr u64 low_bits(unsigned n) noexcept {
    return n >= 64 ? ~u64{0} : (u64{1} << n) - 1;
}
// The value mask of an access of `bytes` bytes (0 to 8).
constexpr u64 size_mask(unsigned bytes) noexcept {
    return low_bits(8 * bytes);
}

// Field [high:low] as data sheets write it.
constexpr u64 bits(u64 value, unsigned high, unsigned low) noexcept {
    return (value >> low) & low_bits(high - low + 1);
}
constexpr bool bit(u64 value, unsigned n) noexcept {
    return (value >> n) & 1;
}
constexpr u64 with_bits(u64 value, unsigned high, unsigned low, u64 field) noexcept {
    const u64 mask = low_bits(high - low + 1) << low;
    return (value & ~mask) | ((field << low) & mask);
}

constexpr i64 sign_extend(u64 value, unsigned width) noexcept {
    const unsigned shift = 64 - width;
    return static_cast<i64>(value << shift) >> shift;
}

// `alignment` is a power of two.
constexpr u64 align_down(u64 value, u64 alignment) noexcept {
    return value & ~(alignment - 1);
}
constexpr u64 align_up(u64 value, u64 alignment) noexcept {
    return align_down(value + alignment - 1, alignment);
}
constexpr bool is_aligned(u64 value, u64 alignment) noexcept {
    return (value & (alignment - 1)) == 0;
}
constexpr bool is_power_of_two(u64 value) noexcept {
    return value && !(value & (value - 1));
}

} // namespace rhea
