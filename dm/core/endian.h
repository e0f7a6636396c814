// Little- and big-endian fields for guest-visible and on-disk layouts, and loads and stores from
// raw bytes.
//
// Le<T> and Be<T> have alignment 1, so a struct of them has exactly the layout that it spells;
// check it with static_assert(sizeof). Copy a struct out of guest memory first, then check, then
// use.
#pragma once
#include "dm/core/types.h"
#include <bit>
#include <concepts>
#include <cstring>
#include <type_traits>

namespace rhea {

template <std::integral T> constexpr T byte_swap(T v) noexcept {
    if constexpr (sizeof(T) == 1)
        return v;
    else if constexpr (sizeof(T) == 2)
        return static_cast<T>(__builtin_bswap16(static_cast<u16>(v)));
    else if constexpr (sizeof(T) == 4)
        return static_cast<T>(__builtin_bswap32(static_cast<u32>(v)));
    else
        return static_cast<T>(__builtin_bswap64(static_cast<u64>(v)));
}

template <std::integral T, std::endian E> class Ordered {
public:
    constexpr Ordered() = default;
    constexpr Ordered(T v) noexcept { set(v); } // a field is meant to be assigned from its value
    constexpr operator T() const noexcept { return get(); }
    constexpr Ordered &operator=(T v) noexcept {
        set(v);
        return *this;
    }
    constexpr T get() const noexcept {
        const T v = std::bit_cast<T>(raw_);
        return E == std::endian::native ? v : byte_swap(v);
    }
    constexpr void set(T v) noexcept {
        raw_ = std::bit_cast<Raw>(E == std::endian::native ? v : byte_swap(v));
    }

private:
    struct Raw {
        u8 byte[sizeof(T)];
    };
    Raw raw_{};
};

template <class T> using Le = Ordered<T, std::endian::little>;
template <class T> using Be = Ordered<T, std::endian::big>;
static_assert(sizeof(Le<u64>) == 8 && alignof(Le<u64>) == 1);

template <std::integral T> T load_le(const void *from) noexcept {
    T v;
    std::memcpy(&v, from, sizeof v);
    return std::endian::native == std::endian::little ? v : byte_swap(v);
}
template <std::integral T> void store_le(void *to, std::type_identity_t<T> v) noexcept {
    if constexpr (std::endian::native != std::endian::little)
        v = byte_swap(v);
    std::memcpy(to, &v, sizeof v);
}
template <std::integral T> T load_be(const void *from) noexcept {
    return byte_swap(load_le<T>(from));
}
template <std::integral T> void store_be(void *to, std::type_identity_t<T> v) noexcept {
    store_le<T>(to, byte_swap(v));
}

// `size` is 1 to 8 bytes.
inline u64 load_le(const void *from, unsigned size) noexcept {
    u64 v = 0;
    for (unsigned i = 0; i < size && i < 8; ++i)
        v |= u64{static_cast<const u8 *>(from)[i]} << 8 * i;
    return v;
}
inline void store_le(void *to, unsigned size, u64 v) noexcept {
    for (unsigned i = 0; i < size && i < 8; ++i)
        static_cast<u8 *>(to)[i] = static_cast<u8>(v >> 8 * i);
}

} // namespace rhea
