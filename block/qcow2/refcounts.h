// Refcounts: how often each cluster of an image's file is referred to, and which are free.
//
// On the image's loop, under the image's lock. Changes are in memory until write_back(). A count
// that is raised reaches the disk before what refers to the cluster, which the image sees to; a
// count that is lowered may come late: then a crash leaks a cluster and nothing else.
#pragma once
#include <set>
#include <vector>

#include "block/qcow2/layout.h"
#include "block/qcow2/table_cache.h"

namespace rhea::block::qcow2 {

class Refcounts {
public:
    /// `header` is the image's; its place of the refcount table is changed here when that moves.
    Refcounts(Node &file, Header &header, u64 cache_bytes);

    Task<> read_table();
    /// Everything in memory is void: the header leads to other tables now.
    void forget() noexcept {
        cache_.drop_all();
        dirty_entries_.clear();
        moved_ = false;
        new_table_ = old_table_ = {};
        hint_ = 0;
    }
    Task<u64> get(u64 cluster);
    /// Adds +1 or -1 to each; EINVAL if one would leave its range (a corrupt image).
    Task<> add(u64 first, u64 clusters, int delta);
    /// Sets one, whatever it was (repair).
    Task<> set(u64 cluster, u64 value);

    struct Run {
        u64 offset = 0, clusters = 0;
    };
    /// Up to `wanted` free clusters that follow each other, counted once now.
    Task<Run> allocate(u64 wanted);
    /// Exactly that many, at the end of what is used.
    Task<u64> allocate_together(u64 clusters);

    /// Blocks, then the table, then (if the table moved) the header, with flushes between; without
    /// a flush at the end.
    Task<> write_back();
    bool dirty() const noexcept { return cache_.dirty() || !dirty_entries_.empty() || moved_; }
    bool wants_writing() const noexcept { return cache_.wants_writing(); }
    /// A moved table's old place, to be freed when write_back() and a flush have ended.
    Run take_old_table() noexcept { return std::exchange(old_table_, Run{}); }

    u64 block_offset(u64 index) const noexcept {
        return index < table_.size() ? table_[index] & refcount_offset_mask : 0;
    }
    u64 blocks() const noexcept { return table_.size(); }

private:
    u64 per_block() const noexcept { return header_.refcounts_per_block(); }
    /// The byte offset of the slice that has this cluster's count.
    u64 place(u64 cluster) const noexcept;
    Task<> make_block(u64 index);
    void grow_table(u64 blocks);
    Task<> place_table();
    u8 *slice(u64 cluster) noexcept;
    u64 index_in_slice(u64 cluster) const noexcept { return cluster & (per_slice_ - 1); }

    Node &file_;
    Header &header_;
    TableCache cache_;
    u64 per_slice_;
    std::vector<u64> table_;
    std::set<u64> dirty_entries_; // sectors of the table
    bool moved_ = false;
    Run old_table_;
    Run new_table_;        // where the table moves to
    bool placing_ = false; // that is being found
    u64 hint_ = 0;         // no free cluster is below
};

} // namespace rhea::block::qcow2
