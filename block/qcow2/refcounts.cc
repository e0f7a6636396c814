#include "block/qcow2/refcounts.h"

#include <algorithm>
#include <cerrno>

#include "dm/core/bits.h"

namespace rhea::block::qcow2 {

namespace {
constexpr u64 entries_per_sector = sector_size / 8;
}

Refcounts::Refcounts(Node &file, Header &header, u64 cache_bytes)
    : file_(file), header_(header),
      cache_(file, std::min<u64>(header.cluster_size(), 4096), cache_bytes),
      per_slice_((cache_.slice_bytes() * 8) >> header.refcount_order) {}

Task<> Refcounts::read_table() {
    Buffer raw(header_.refcount_clusters * header_.cluster_size());
    co_await read_padded(file_, header_.refcount_offset, raw.span());
    table_.resize(raw.size() / 8);
    for (u64 i = 0; i < table_.size(); ++i)
        table_[i] = load_be<u64>(raw.data() + i * 8);
}

u64 Refcounts::place(u64 cluster) const noexcept {
    const u64 in_block = cluster & (per_block() - 1);
    return block_offset(cluster / per_block()) + in_block / per_slice_ * cache_.slice_bytes();
}

u8 *Refcounts::slice(u64 cluster) noexcept {
    return cache_.find(place(cluster));
}

Task<u64> Refcounts::get(u64 cluster) {
    const u64 block = block_offset(cluster / per_block());
    if (!block)
        co_return 0;
    if (!is_aligned(block, header_.cluster_size()))
        co_await loop::raise(EIO, "qcow2: a refcount block is not at a cluster's beginning");
    if (!slice(cluster)) {
        const u64 at = place(cluster);
        co_await cache_.load(at);
    }
    co_return load_refcount(slice(cluster), index_in_slice(cluster), header_.refcount_order);
}

Task<> Refcounts::set(u64 cluster, u64 value) {
    if (!block_offset(cluster / per_block()))
        co_await make_block(cluster / per_block());
    co_await get(cluster); // its slice is there now
    store_refcount(slice(cluster), index_in_slice(cluster), header_.refcount_order, value);
    const u64 at = place(cluster);
    cache_.mark_dirty(at);
    if (!value)
        hint_ = std::min(hint_, cluster);
}

Task<> Refcounts::add(u64 first, u64 clusters, int delta) {
    for (u64 c = first; c < first + clusters; ++c) {
        const u64 now = co_await get(c);
        if (delta < 0 ? now == 0 : now == header_.max_refcount())
            co_await loop::raise(EINVAL, delta < 0
                                             ? "qcow2: a cluster in use has the refcount 0"
                                             : "qcow2: a refcount does not fit into its width");
        co_await set(c, delta < 0 ? now - 1 : now + 1);
    }
}

/// All clusters that a missing block would count are free: the first of them becomes the block.
Task<> Refcounts::make_block(u64 index) {
    if (index >= table_.size()) {
        // So large that the file's end, where the new table goes, is counted by it too.
        const u64 end = (file_.length() >> header_.cluster_bits) + 64;
        const u64 need = std::max(index, end / per_block()) + 2;
        if (need * 8 > max_refcount_table_bytes)
            co_await loop::raise(EFBIG, "qcow2: the image file would be too large");
        grow_table(need);
    }
    const u64 first = index * per_block();
    if (!first) // cluster 0 is the header
        co_await loop::raise(EIO, "qcow2: the first refcount block is missing");
    const u64 offset = first << header_.cluster_bits;
    if (offset > offset_mask)
        co_await loop::raise(EFBIG, "qcow2: the image file would be too large");
    Buffer block(header_.cluster_size());
    std::memset(block.data(), 0, block.size());
    store_refcount(block.data(), 0, header_.refcount_order, 1);
    co_await file_.write(offset, std::span<const u8>(block.span()));
    cache_.drop(offset, block.size());
    table_[index] = offset;
    dirty_entries_.insert(index / entries_per_sector);
    if (moved_ && !placing_)
        co_await place_table();
}

/// The grown table gets a place of its own, which is counted by blocks that it has now. That may
/// make blocks, and in the end the table larger than its place: then once more.
Task<> Refcounts::place_table() {
    while (new_table_.clusters != table_.size() * 8 >> header_.cluster_bits) {
        const u64 clusters = table_.size() * 8 >> header_.cluster_bits;
        placing_ = true;
        auto task = allocate_together(clusters);
        const auto place = co_await task.caught();
        placing_ = false;
        if (!place)
            co_await loop::raise(place.error());
        const Run unused = std::exchange(new_table_, Run{*place, clusters});
        const u64 first = unused.offset >> header_.cluster_bits;
        for (u64 c = first; c < first + unused.clusters; ++c)
            co_await set(c, 0);
    }
}

void Refcounts::grow_table(u64 blocks) {
    const u64 entries = header_.cluster_size() / 8;
    // Half as much again, so that growing stays rare.
    table_.resize(align_up(std::max(blocks + 1, table_.size() * 3 / 2), entries));
    moved_ = true;
}

Task<Refcounts::Run> Refcounts::allocate(u64 wanted) {
    Run run;
    for (u64 c = hint_;; ++c) {
        if (!block_offset(c / per_block())) {
            if (run.clusters)
                break;
            co_await make_block(c / per_block());
        }
        const u64 count = co_await get(c);
        if (count == 0) {
            if (!run.clusters)
                run.offset = c << header_.cluster_bits;
            if (run.offset > offset_mask)
                co_await loop::raise(EFBIG, "qcow2: the image file would be too large");
            ++run.clusters;
            co_await set(c, 1);
            hint_ = c + 1;
            if (run.clusters == wanted)
                break;
        } else if (run.clusters) {
            break;
        }
    }
    co_return run;
}

Task<u64> Refcounts::allocate_together(u64 clusters) {
    // Behind the file's end nothing is in use, but for what was allocated and not yet written.
    u64 first =
        std::max(align_up(file_.length(), header_.cluster_size()) >> header_.cluster_bits, u64{1});
    for (u64 free = 0; free < clusters;) {
        const u64 c = first + free;
        if (!block_offset(c / per_block()))
            co_await make_block(c / per_block());
        const u64 count = co_await get(c);
        if (count == 0) {
            ++free;
        } else {
            first = c + 1;
            free = 0;
        }
    }
    for (u64 c = first; c < first + clusters; ++c)
        co_await set(c, 1);
    co_return first << header_.cluster_bits;
}

Task<> Refcounts::write_back() {
    if (moved_)
        co_await place_table();
    co_await cache_.write_dirty();
    if (dirty_entries_.empty() && !moved_)
        co_return;
    co_await file_.flush();
    Buffer raw(table_.size() * 8);
    for (u64 i = 0; i < table_.size(); ++i)
        store_be<u64>(raw.data() + i * 8, table_[i]);
    if (moved_) {
        co_await file_.write(new_table_.offset, std::span<const u8>(raw.span()));
        co_await file_.flush();
        // Only now may any writing of the header lead to it.
        if (header_.refcount_offset != new_table_.offset)
            old_table_ = {header_.refcount_offset, header_.refcount_clusters};
        header_.refcount_offset = new_table_.offset;
        header_.refcount_clusters = static_cast<u32>(new_table_.clusters);
        const auto head = header_bytes(header_);
        co_await file_.write(0, std::span<const u8>(head));
        new_table_ = {};
    } else {
        for (const u64 sector : dirty_entries_) {
            const auto piece = raw.span().subspan(sector * sector_size, sector_size);
            co_await file_.write(header_.refcount_offset + sector * sector_size,
                                 std::span<const u8>(piece));
        }
    }
    dirty_entries_.clear();
    moved_ = false;
}

} // namespace rhea::block::qcow2
