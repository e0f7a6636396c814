// Dma: how a device reaches guest memory as a bus master.
//
// Owned by its device and used under the device's lock (one thread at a time); pinned spans may be
// used and released on any thread. DMA reaches RAM only: a transfer that touches anything else is
// refused as a whole from there on, and counted; that is what keeps devices from calling each
// other. Every write is logged (dirty, translated code).
#pragma once
#include "dm/core/endian.h"
#include "dm/core/types.h"
#include "dm/mem/address_space.h"
#include <atomic>
#include <memory>
#include <span>
#include <type_traits>

namespace rhea {

// Host-virtual bytes of guest RAM, usable until destroyed, whatever happens to the mapping. The
// guest may change the bytes at any time: copy, check, use.
class [[nodiscard]] PinnedSpan {
public:
    PinnedSpan() = default;
    PinnedSpan(PinnedSpan &&other) noexcept { *this = std::move(other); }
    PinnedSpan &operator=(PinnedSpan &&other) noexcept;
    ~PinnedSpan() { release(); }

    std::span<u8> bytes() const noexcept { return bytes_; }
    u8 *data() const noexcept { return bytes_.data(); }
    u64 size() const noexcept { return bytes_.size(); }
    explicit operator bool() const noexcept { return !bytes_.empty(); }
    // Logs the bytes as written, if pinned for writing, and lets go.
    void release() noexcept;

private:
    friend class Dma;
    std::shared_ptr<const View> keep_;
    RamRegion *ram_ = nullptr; // null when pinned for reading
    u64 offset_ = 0;
    std::span<u8> bytes_;
};

class Dma {
public:
    enum class For : u8 {
        reading,
        writing
    }; // as the device sees it: reading from RAM, writing to RAM

    explicit Dma(AddressMap &map) noexcept : map_(&map) {}
    Dma(const Dma &other) noexcept : map_(other.map_) {} // a fresh master on the same map
    Dma &operator=(const Dma &) = delete;

    // Guest-physical address, bytes. False: not all of it is RAM (writing: writable RAM); what was
    // not read is zero in `to`, and what comes after the first bad address was not written.
    bool read(u64 address, std::span<u8> to) noexcept;
    bool write(u64 address, std::span<const u8> from) noexcept;
    bool fill(u64 address, u64 size, u8 value) noexcept;

    // A guest-visible structure of Le<>/Be<> fields or bytes, read once into a local.
    template <class T>
    requires std::is_trivially_copyable_v<T>
    bool read(u64 address, T &to) noexcept {
        return read(address, std::span(reinterpret_cast<u8 *>(&to), sizeof to));
    }
    template <class T>
    requires std::is_trivially_copyable_v<T>
    bool write(u64 address, const T &from) noexcept {
        return write(address, std::span(reinterpret_cast<const u8 *>(&from), sizeof from));
    }

    // The longest stretch from `address` that is contiguous in host memory, at most `size` bytes;
    // call again for the rest. Empty: refused.
    PinnedSpan pin(u64 address, u64 size, For use) noexcept;

    // Transfers that were refused because they did not reach RAM.
    u64 refused() const noexcept { return refused_.load(std::memory_order_relaxed); }

    AddressMap &map() const noexcept { return *map_; }

private:
    const Range *find(u64 address) noexcept;
    void refuse(u64 address, For use) noexcept;
    template <class Fn> bool walk(u64 address, u64 size, For use, Fn &&fn) noexcept;

    AddressMap *map_;
    ViewPtr view_;
    const Range *last_ = nullptr;
    std::atomic<u64> refused_{0};
};

} // namespace rhea
