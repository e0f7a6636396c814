// TableCache: slices of on-disk tables (L2 tables, refcount blocks) in memory, the least recently
// used going first.
//
// On the image's loop. A slice is a power of two of bytes at a multiple of its size in the file.
// Pointers are good until the next co_await. What is dirty stays until write_dirty(), whose time
// the image chooses (the order of writes is its business): the bound is kept by the image calling
// it when dirty() gets large, and by load() dropping clean slices.
#pragma once
#include <list>
#include <memory>
#include <unordered_map>

#include "block/node.h"
#include "block/vectors.h"

namespace rhea::block::qcow2 {

class TableCache {
public:
    TableCache(Node &file, u64 slice_bytes, u64 max_bytes)
        : file_(file), slice_bytes_(slice_bytes), max_(std::max<u64>(max_bytes / slice_bytes, 8)) {}

    u64 slice_bytes() const noexcept { return slice_bytes_; }
    u64 begin_of(u64 offset) const noexcept { return offset & ~(slice_bytes_ - 1); }

    /// The byte at `offset` of the file in its slice, or null if that is not here.
    u8 *find(u64 offset) noexcept;
    /// Brings the slice in. One at a time: the caller holds the image's lock.
    Task<> load(u64 offset);
    void mark_dirty(u64 offset) noexcept;
    u64 dirty() const noexcept { return dirty_; }
    bool wants_writing() const noexcept { return dirty_ > max_ / 2; }
    /// Writes every dirty slice, in the order of the file.
    Task<> write_dirty();
    /// Forgets the slices in this range: the table is gone.
    void drop(u64 offset, u64 length) noexcept;
    void drop_all() noexcept;
    u64 bytes() const noexcept { return slices_.size() * slice_bytes_; }

private:
    struct Slice {
        u64 offset;
        Buffer data;
        bool dirty = false;
    };
    using Order = std::list<Slice>; // the most recently used first
    void evict() noexcept;

    Node &file_;
    u64 slice_bytes_, max_;
    Order order_;
    std::unordered_map<u64, Order::iterator> slices_;
    u64 dirty_ = 0;
    u64 last_offset_ = ~u64{0}; // the slice that find() found last
    Order::iterator last_{};
};

/// Reads a file that may end before: what is beyond reads as zeroes.
Task<> read_padded(Node &file, u64 at, std::span<u8> into);

} // namespace rhea::block::qcow2
