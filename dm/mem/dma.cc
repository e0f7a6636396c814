#include "dm/mem/dma.h"
#include "dm/core/trace.h"
#include <algorithm>
#include <cstring>

namespace rhea {

PinnedSpan &PinnedSpan::operator=(PinnedSpan &&other) noexcept {
    if (this != &other) {
        release();
        keep_ = std::move(other.keep_);
        ram_ = std::exchange(other.ram_, nullptr);
        offset_ = other.offset_;
        bytes_ = std::exchange(other.bytes_, {});
    }
    return *this;
}

void PinnedSpan::release() noexcept {
    if (ram_)
        ram_->written(offset_, bytes_.size());
    ram_ = nullptr;
    bytes_ = {};
    keep_.reset();
}

const Range *Dma::find(u64 address) noexcept {
    if (!view_ || map_->generation() != view_->generation) [[unlikely]] {
        view_ = map_->view();
        last_ = nullptr;
    }
    if (!last_ || !last_->contains(address))
        last_ = view_->find(Space::memory, address);
    return last_;
}

void Dma::refuse(u64 address, For use) noexcept {
    refused_.fetch_add(1, std::memory_order_relaxed);
    guest_error("DMA %s of 0x%lx: not RAM", use == For::writing ? "write" : "read", address);
}

// fn(ram, offset in it, bytes) for each stretch; false at the first that is not RAM.
template <class Fn> bool Dma::walk(u64 address, u64 size, For use, Fn &&fn) noexcept {
    while (size) {
        const Range *range = find(address);
        if (!range || !range->ram || (use == For::writing && !range->writable)) {
            refuse(address, use);
            return false;
        }
        const u64 n = std::min(size - 1, range->last - address) + 1;
        fn(*range->ram, range->offset + (address - range->first), n);
        address += n;
        size -= n;
    }
    return true;
}

bool Dma::read(u64 address, std::span<u8> to) noexcept {
    u64 done = 0;
    const bool ok = walk(address, to.size(), For::reading, [&](RamRegion &ram, u64 at, u64 n) {
        std::memcpy(to.data() + done, ram.host() + at, n);
        done += n;
    });
    if (!ok)
        std::fill(to.begin() + static_cast<std::ptrdiff_t>(done), to.end(), u8{0});
    return ok;
}

bool Dma::write(u64 address, std::span<const u8> from) noexcept {
    u64 done = 0;
    return walk(address, from.size(), For::writing, [&](RamRegion &ram, u64 at, u64 n) {
        std::memcpy(ram.host() + at, from.data() + done, n);
        ram.written(at, n);
        done += n;
    });
}

bool Dma::fill(u64 address, u64 size, u8 value) noexcept {
    return walk(address, size, For::writing, [&](RamRegion &ram, u64 at, u64 n) {
        std::memset(ram.host() + at, value, n);
        ram.written(at, n);
    });
}

PinnedSpan Dma::pin(u64 address, u64 size, For use) noexcept {
    PinnedSpan pin;
    if (!size)
        return pin;
    const Range *range = find(address);
    if (!range || !range->ram || (use == For::writing && !range->writable)) {
        refuse(address, use);
        return pin;
    }
    const u64 n = std::min(size - 1, range->last - address) + 1;
    pin.offset_ = range->offset + (address - range->first);
    pin.bytes_ = {range->ram->host() + pin.offset_, n};
    pin.keep_ = view_;
    if (use == For::writing)
        pin.ram_ = range->ram;
    return pin;
}

} // namespace rhea
