// Scatter lists: their length, pieces of them, copies from and to them, zeroes in them; and
// Buffer, memory aligned for direct I/O. Plain functions on the caller's memory, any thread.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <sys/uio.h>
#include <vector>

#include "dm/core/result.h"
#include "dm/core/types.h"

namespace rhea::block {

inline u64 total(std::span<const iovec> v) noexcept {
    u64 n = 0;
    for (const iovec &i : v)
        n += i.iov_len;
    return n;
}

/// The bytes [skip, skip + length) of a list, as a list.
class Slice {
public:
    Slice(std::span<const iovec> from, u64 skip, u64 length) {
        if (from.size() == 1) { // the usual case allocates nothing
            one_ = {static_cast<u8 *>(from[0].iov_base) + skip, length};
            return;
        }
        for (const iovec &i : from) {
            if (!length)
                break;
            if (skip >= i.iov_len) {
                skip -= i.iov_len;
                continue;
            }
            const usize n = std::min<u64>(i.iov_len - skip, length);
            many_.push_back({static_cast<u8 *>(i.iov_base) + skip, n});
            length -= n;
            skip = 0;
        }
    }
    std::span<const iovec> vectors() const noexcept {
        return many_.empty() ? std::span<const iovec>(&one_, 1) : std::span<const iovec>(many_);
    }

private:
    iovec one_{};
    std::vector<iovec> many_;
};

/// fn(u8 *, length) for each piece of the bytes [skip, skip + length).
template <class Fn> void each_piece(std::span<const iovec> v, u64 skip, u64 length, Fn &&fn) {
    for (const iovec &i : v) {
        if (!length)
            return;
        if (skip >= i.iov_len) {
            skip -= i.iov_len;
            continue;
        }
        const usize n = std::min<u64>(i.iov_len - skip, length);
        fn(static_cast<u8 *>(i.iov_base) + skip, n);
        length -= n;
        skip = 0;
    }
}

inline void copy_out(std::span<const iovec> from, u64 skip, std::span<u8> to) noexcept {
    u8 *p = to.data();
    each_piece(from, skip, to.size(), [&](const u8 *piece, usize n) {
        std::memcpy(p, piece, n);
        p += n;
    });
}
inline void copy_in(std::span<const iovec> to, u64 skip, std::span<const u8> from) noexcept {
    const u8 *p = from.data();
    each_piece(to, skip, from.size(), [&](u8 *piece, usize n) {
        std::memcpy(piece, p, n);
        p += n;
    });
}
inline void fill_zero(std::span<const iovec> v, u64 skip, u64 length) noexcept {
    each_piece(v, skip, length, [](u8 *piece, usize n) { std::memset(piece, 0, n); });
}

/// Looks at 8 bytes first, then compares the memory with itself, shifted.
inline bool is_zero(std::span<const u8> s) noexcept {
    const usize n = std::min<usize>(s.size(), 16);
    for (usize i = 0; i < n; ++i)
        if (s[i])
            return false;
    return s.size() <= 16 || std::memcmp(s.data(), s.data() + 16, s.size() - 16) == 0;
}

/// Memory for I/O, aligned to 4096, not initialised.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(usize size) : size_(size) {
        data_.reset(static_cast<u8 *>(std::aligned_alloc(4096, (size + 4095) & ~usize{4095})));
        VERIFY(data_ || !size);
    }
    u8 *data() noexcept { return data_.get(); }
    const u8 *data() const noexcept { return data_.get(); }
    usize size() const noexcept { return size_; }
    std::span<u8> span() noexcept { return {data_.get(), size_}; }
    std::span<const u8> span() const noexcept { return {data_.get(), size_}; }

private:
    struct Free {
        void operator()(u8 *p) const noexcept { std::free(p); }
    };
    std::unique_ptr<u8, Free> data_;
    usize size_ = 0;
};

} // namespace rhea::block
