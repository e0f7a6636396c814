// Internal snapshots: a second L1 table, with every cluster below it counted once more.
//
// What refers to a cluster is on the disk only after the count is, and the header, which switches
// from one state to the next, is one write: a crash in between leaks clusters.
#include <algorithm>
#include <cerrno>

#include "block/qcow2/image.h"

namespace rhea::block::qcow2 {

Task<> Image::read_snapshots() {
    snapshots_.clear();
    snapshots_bytes_ = 0;
    if (!header_.snapshots)
        co_return;
    const u64 there =
        std::min(file_->length() - header_.snapshots_offset, max_snapshot_table_bytes);
    // The table does not say how long it is.
    for (u64 n = std::min<u64>(there, 4096 + header_.snapshots * u64{256});; n *= 2) {
        n = std::min(n, there);
        Buffer raw(n);
        co_await file_->read(header_.snapshots_offset, raw.span());
        auto parsed = parse_snapshots(raw.span(), header_.snapshots);
        if (!parsed && n < there)
            continue;
        if (!parsed)
            co_await corrupt(parsed.error().what);
        snapshots_ = std::move(*parsed);
        break;
    }
    snapshots_bytes_ = snapshot_table(snapshots_).size();
    for (const Snapshot &s : snapshots_)
        if (s.l1_entries * u64{8} > max_l1_bytes || s.l1_offset & (cluster() - 1) ||
            s.l1_offset > offset_mask)
            co_await corrupt("a snapshot's L1 table");
}

Task<std::vector<u64>> Image::read_l1(u64 offset, u32 entries) {
    std::vector<u64> l1(entries);
    Buffer raw(entries * u64{8});
    co_await read_padded(*file_, offset, raw.span());
    for (u32 i = 0; i < entries; ++i)
        l1[i] = load_be<u64>(raw.data() + i * 8);
    co_return l1;
}

/// Counts the L2 tables of an L1 table, and all that is below them, up or down by one.
Task<> Image::count_tree(const std::vector<u64> &l1, int delta) {
    for (const u64 l1_entry : l1) {
        const u64 table = l1_entry & offset_mask;
        if (!table)
            continue;
        if (table & (cluster() - 1))
            co_await corrupt("an L2 table is not at a cluster's beginning");
        for (u64 at = table; at < table + cluster(); at += 8) {
            if (!l2_.find(at))
                co_await l2_.load(at);
            const u64 entry = load_be<u64>(l2_.find(at));
            if (entry & flag_compressed) {
                const CompressedPlace p = compressed_place(entry, header_.cluster_bits);
                const u64 first = p.offset >> header_.cluster_bits;
                const u64 last = (p.offset + p.length - 1) >> header_.cluster_bits;
                co_await refcounts_.add(first, last - first + 1, delta);
            } else if (const u64 offset = entry & offset_mask) {
                co_await refcounts_.add(offset >> header_.cluster_bits, 1, delta);
            }
        }
        co_await refcounts_.add(table >> header_.cluster_bits, 1, delta);
    }
}

/// Sets the copied flags of the active tables as the counts say, or clears them all.
Task<> Image::refresh_copied(bool clear) {
    for (usize i = 0; i < l1_.size(); ++i) {
        const u64 table = l1_[i] & offset_mask;
        if (!table)
            continue;
        u64 count = 0;
        if (!clear)
            count = co_await refcounts_.get(table >> header_.cluster_bits);
        const u64 now = table | (count == 1 ? flag_copied : 0);
        if (now != l1_[i]) {
            l1_[i] = now;
            dirty_l1_.insert(i * 8 / sector_size);
        }
        for (u64 at = table; at < table + cluster(); at += 8) {
            if (!l2_.find(at))
                co_await l2_.load(at);
            const u64 entry = load_be<u64>(l2_.find(at));
            if (entry & flag_compressed || !(entry & offset_mask))
                continue;
            count = 0;
            if (!clear)
                count = co_await refcounts_.get((entry & offset_mask) >> header_.cluster_bits);
            const u64 wanted = (entry & ~flag_copied) | (count == 1 ? flag_copied : 0);
            if (wanted == entry)
                continue;
            store_be<u64>(l2_.find(at), wanted);
            l2_.mark_dirty(at);
        }
        if (l2_.wants_writing())
            co_await l2_.write_dirty(); // flags alone: in any order
    }
}

/// Writes a list and switches the header to it.
Task<> Image::write_snapshots(const std::vector<Snapshot> &snapshots) {
    const auto table = snapshot_table(snapshots);
    const u64 old = header_.snapshots_offset;
    const u64 old_clusters = (snapshots_bytes_ + cluster() - 1) >> header_.cluster_bits;
    u64 place = 0;
    if (!table.empty()) {
        const u64 clusters = (table.size() + cluster() - 1) >> header_.cluster_bits;
        place = co_await refcounts_.allocate_together(clusters);
        co_await write_back();
        co_await file_->write(place, std::span<const u8>(table));
        co_await file_->flush();
    }
    header_.snapshots_offset = place;
    header_.snapshots = static_cast<u32>(snapshots.size());
    co_await write_header();
    snapshots_ = snapshots;
    snapshots_bytes_ = table.size();
    if (old_clusters)
        dead_.push_back({old, old_clusters, false});
}

/// A new L1 table, counted and written; nothing refers to it yet.
Task<u64> Image::place_l1(const std::vector<u64> &l1) {
    const u64 bytes = align_up(std::max<u64>(l1.size() * 8, 1), cluster());
    const u64 place = co_await refcounts_.allocate_together(bytes >> header_.cluster_bits);
    co_await write_back();
    Buffer raw(bytes);
    std::memset(raw.data(), 0, raw.size());
    for (usize i = 0; i < l1.size(); ++i)
        store_be<u64>(raw.data() + i * 8, l1[i] & ~flag_copied);
    co_await file_->write(place, std::span<const u8>(raw.span()));
    co_await file_->flush();
    co_return place;
}

usize Image::find_snapshot(std::string_view id_or_name) const noexcept {
    for (usize i = 0; i < snapshots_.size(); ++i)
        if (snapshots_[i].id == id_or_name)
            return i;
    for (usize i = 0; i < snapshots_.size(); ++i)
        if (snapshots_[i].name == id_or_name)
            return i;
    return snapshots_.size();
}

Task<> Image::snapshot_create_inner(std::string_view snapshot, u32 seconds, u32 nanoseconds) {
    if (snapshot.empty() || snapshot.size() > 255)
        co_await loop::raise(EINVAL, "a snapshot's name has 1 to 255 bytes");
    if (snapshots_.size() >= max_snapshots)
        co_await loop::raise(EFBIG, "too many snapshots");
    u64 id = 0;
    for (const Snapshot &s : snapshots_)
        id = std::max<u64>(id, std::strtoull(s.id.c_str(), nullptr, 10));
    co_await write_back();
    co_await refresh_copied(true);
    co_await write_back();
    co_await count_tree(l1_, 1);
    Snapshot s;
    s.id = std::to_string(id + 1);
    s.name = snapshot;
    s.l1_entries = static_cast<u32>(l1_.size());
    s.seconds = seconds;
    s.nanoseconds = nanoseconds;
    s.disk_size = length();
    s.l1_offset = co_await place_l1(l1_);
    auto list = snapshots_;
    list.push_back(s);
    co_await write_snapshots(list);
    co_await write_back();
}

Task<> Image::snapshot_apply_inner(std::string_view id_or_name) {
    const usize i = find_snapshot(id_or_name);
    if (i == snapshots_.size())
        co_await loop::raise(ENOENT, "there is no such snapshot");
    const Snapshot s = snapshots_[i];
    const u64 size = s.disk_size ? s.disk_size : length();
    if (size > u64{1} << 60 || size > s.l1_entries * header_.l1_span())
        co_await corrupt("a snapshot's disk size");
    co_await write_back();
    const auto l1 = co_await read_l1(s.l1_offset, s.l1_entries);
    co_await count_tree(l1, 1);
    const u64 place = co_await place_l1(l1);
    const auto old = std::exchange(l1_, {});
    const u64 old_offset = header_.l1_offset;
    l1_ = l1;
    for (u64 &e : l1_)
        e &= ~flag_copied;
    header_.l1_offset = place;
    header_.l1_entries = s.l1_entries;
    header_.size = size;
    co_await write_header();
    set_length(align_up(size, sector_size));
    co_await count_tree(old, -1);
    const u64 old_clusters =
        (std::max<u64>(old.size() * 8, 1) + cluster() - 1) >> header_.cluster_bits;
    dead_.push_back({old_offset, old_clusters, false});
    co_await write_back();
    co_await refresh_copied(false);
    co_await write_back();
}

Task<> Image::snapshot_delete_inner(std::string_view id_or_name) {
    const usize i = find_snapshot(id_or_name);
    if (i == snapshots_.size())
        co_await loop::raise(ENOENT, "there is no such snapshot");
    const Snapshot s = snapshots_[i];
    auto list = snapshots_;
    list.erase(list.begin() + static_cast<i64>(i));
    const auto l1 = co_await read_l1(s.l1_offset, s.l1_entries);
    co_await write_snapshots(list);
    co_await count_tree(l1, -1);
    const u64 clusters = (std::max<u64>(l1.size() * 8, 1) + cluster() - 1) >> header_.cluster_bits;
    dead_.push_back({s.l1_offset, clusters, false});
    co_await write_back(); // the counts are on the disk before a flag says "one"
    co_await write_back();
    co_await refresh_copied(false);
    co_await write_back();
}

namespace {
constexpr u64 everything = u64{1} << 62;
}

Task<> Image::snapshot_create(std::string_view snapshot, u32 seconds, u32 nanoseconds) {
    co_await writable();
    if (read_only())
        co_await loop::raise(EROFS, name());
    auto inner = snapshot_create_inner(snapshot, seconds, nanoseconds);
    auto task = under_meta(inner);
    co_await in_range(0, everything, true, task);
}

Task<> Image::snapshot_apply(std::string_view id_or_name) {
    co_await writable();
    if (read_only())
        co_await loop::raise(EROFS, name());
    auto inner = snapshot_apply_inner(id_or_name);
    auto task = under_meta(inner);
    co_await in_range(0, everything, true, task);
    inflated_entry_ = 0;
}

Task<> Image::snapshot_delete(std::string_view id_or_name) {
    co_await writable();
    if (read_only())
        co_await loop::raise(EROFS, name());
    auto inner = snapshot_delete_inner(id_or_name);
    auto task = under_meta(inner);
    co_await in_range(0, everything, true, task);
    inflated_entry_ = 0;
}

Task<> Image::view_snapshot(std::string_view id_or_name) {
    const usize i = find_snapshot(id_or_name);
    if (i == snapshots_.size() || !read_only()) {
        const Error e{ENOENT, name() + ": has no snapshot '" + std::string(id_or_name) + "'"};
        co_await loop::raise(e);
    }
    const Snapshot &s = snapshots_[i];
    const u64 size = s.disk_size ? s.disk_size : length();
    if (size > s.l1_entries * header_.l1_span())
        co_await corrupt("a snapshot's disk size");
    l1_ = co_await read_l1(s.l1_offset, s.l1_entries);
    set_length(align_up(size, sector_size));
}

} // namespace rhea::block::qcow2
