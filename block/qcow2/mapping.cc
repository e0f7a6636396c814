// From guest offsets to places in the file: L1 and L2 tables.
#include <algorithm>
#include <cerrno>

#include "block/qcow2/image.h"

namespace rhea::block::qcow2 {

u64 Image::entry_place(u64 at) const noexcept {
    const u64 i = at / header_.l1_span();
    const u64 table = i < l1_.size() ? l1_[i] & offset_mask : 0;
    if (!table)
        return 0;
    return table + (at % header_.l1_span() >> header_.cluster_bits) * header_.entry_size();
}

Task<> Image::load_l2(u64 at) {
    auto task = l2_.load(entry_place(at));
    co_await under_meta(task);
}

/// Error EAGAIN: the slice is not here. Error EIO: the tables make no sense.
Result<Image::Mapping> Image::map_cached(u64 at, u64 length) {
    const u64 in_cluster = at & (cluster() - 1);
    const u64 left_in_table = header_.l1_span() - at % header_.l1_span();
    const u64 place = entry_place(at);
    Mapping m;
    if (!place) {
        m.length = std::min(length, left_in_table);
        return m;
    }
    if (l1_[at / header_.l1_span()] & offset_mask & (cluster() - 1))
        return fail(EIO, "an L2 table is not at a cluster's beginning");
    const u8 *const p = l2_.find(place);
    if (!p)
        return fail(EAGAIN, "");
    const u32 size = header_.entry_size();
    const u64 entry = load_be<u64>(p);
    const u64 offset = entry & offset_mask;
    const u64 in_slice = (l2_.begin_of(place) + l2_.slice_bytes() - place) / size;

    if (entry & flag_compressed) {
        m.kind = Mapping::Kind::compressed;
        m.offset = entry & ~flag_copied;
        m.length = std::min(length, cluster() - in_cluster);
        return m;
    }
    if (offset & (cluster() - 1))
        return fail(EIO, "a cluster's offset is not a multiple of the cluster size");
    if (header_.extended()) {
        const u64 bitmap = load_be<u64>(p + 8);
        const u64 sub = cluster() / 32;
        const auto kind = [&](u64 i) {
            return bit(bitmap, static_cast<unsigned>(32 + i)) ? Mapping::Kind::zero
                   : bit(bitmap, static_cast<unsigned>(i))    ? Mapping::Kind::data
                                                              : Mapping::Kind::none;
        };
        u64 i = in_cluster / sub;
        m.kind = kind(i);
        while (i < 32 && kind(i) == m.kind)
            ++i;
        m.length = std::min(length, i * sub - in_cluster);
        if (m.kind == Mapping::Kind::data && !offset)
            return fail(EIO, "data without a place");
        m.offset = offset + in_cluster;
        return m;
    }
    const bool zero = header_.version >= 3 && (entry & flag_zero);
    m.kind = zero ? Mapping::Kind::zero : offset ? Mapping::Kind::data : Mapping::Kind::none;
    m.offset = offset + in_cluster;
    m.in_place = !zero && (entry & flag_copied);
    m.zero_allocated = zero && offset;
    // The following clusters that continue this one.
    const u64 want =
        std::min((in_cluster + length + cluster() - 1) >> header_.cluster_bits, in_slice);
    u64 n = 1;
    for (; n < want; ++n) {
        const u64 next = load_be<u64>(p + n * size);
        if (next & flag_compressed)
            break;
        const bool next_zero = header_.version >= 3 && (next & flag_zero);
        if (m.kind == Mapping::Kind::data
                ? next_zero || (next & offset_mask) != offset + (n << header_.cluster_bits) ||
                      ((next ^ entry) & flag_copied)
            : m.kind == Mapping::Kind::zero ? !next_zero
                                            : next_zero || (next & offset_mask))
            break;
    }
    m.length = std::min(length, (n << header_.cluster_bits) - in_cluster);
    return m;
}

Task<Image::Mapping> Image::map(u64 at, u64 length) {
    auto m = map_cached(at, length);
    while (!m && m.error().code == EAGAIN) {
        co_await load_l2(at);
        m = map_cached(at, length);
    }
    if (!m)
        co_await corrupt(m.error().what);
    co_return *m;
}

bool Image::is_metadata(u64 offset, u64 length) const noexcept {
    const auto meets = [&](u64 begin, u64 bytes) {
        return bytes && offset < begin + bytes && begin < offset + length;
    };
    return meets(0, cluster()) || meets(header_.l1_offset, align_up(l1_.size() * 8, cluster())) ||
           meets(header_.refcount_offset, header_.refcount_clusters * cluster()) ||
           meets(header_.snapshots_offset, snapshots_bytes_);
}

Task<> Image::allocate_clusters(u64 wanted, Refcounts::Run &run) {
    const auto body = [&]() -> Task<> { run = co_await refcounts_.allocate(wanted); };
    auto task = body();
    co_await under_meta(task);
    if (is_metadata(run.offset, run.clusters << header_.cluster_bits))
        co_await corrupt("a cluster of the image's own tables has the refcount 0");
}

/// Under meta_. A table of our own for this offset: new, or a copy of one that a snapshot shares.
Task<> Image::make_l2_writable(u64 at) {
    const u64 index = at / header_.l1_span();
    const u64 old = l1_[index];
    if (old & flag_copied)
        co_return;
    const Refcounts::Run run = co_await refcounts_.allocate(1);
    if (is_metadata(run.offset, cluster()))
        co_await corrupt("a cluster of the image's own tables has the refcount 0");
    Buffer table(cluster());
    if (old & offset_mask) {
        co_await read_padded(*file_, old & offset_mask, table.span());
        for (u64 i = 0; i < table.size(); i += l2_.slice_bytes())
            if (const u8 *const newer = l2_.find((old & offset_mask) + i))
                std::memcpy(table.data() + i, newer, l2_.slice_bytes());
    } else {
        std::memset(table.data(), 0, table.size());
    }
    l2_.drop(run.offset, cluster());
    co_await file_->write(run.offset, std::span<const u8>(table.span()));
    l1_[index] = run.offset | flag_copied;
    dirty_l1_.insert(index * 8 / sector_size);
    if (old & offset_mask)
        dead_.push_back({old & offset_mask, 1, false});
}

void Image::kill(u64 entry, bool punch) {
    if (entry & flag_compressed) {
        const CompressedPlace p = compressed_place(entry, header_.cluster_bits);
        const u64 first = p.offset >> header_.cluster_bits;
        const u64 last = (p.offset + p.length - 1) >> header_.cluster_bits;
        dead_.push_back({first << header_.cluster_bits, last - first + 1, false});
    } else if (const u64 offset = entry & offset_mask) {
        if (!dead_.empty() && dead_.back().punch == punch &&
            dead_.back().offset + (dead_.back().clusters << header_.cluster_bits) == offset)
            ++dead_.back().clusters;
        else
            dead_.push_back({offset, 1, punch});
    }
}

Task<> Image::set_entries(u64 at, u64 clusters, u64 entry, u64 step) {
    for (u64 done = 0; done < clusters;) {
        const u64 here = at + (done << header_.cluster_bits);
        co_await make_l2_writable(here);
        const u64 place = entry_place(here);
        co_await l2_.load(place);
        u8 *const p = l2_.find(place);
        const u64 in_slice = (l2_.begin_of(place) + l2_.slice_bytes() - place) / 8;
        const u64 n = std::min(clusters - done, in_slice);
        bool changed = false;
        for (u64 i = 0; i < n; ++i) {
            const u64 old = load_be<u64>(p + i * 8);
            const u64 now = entry + (done + i) * step;
            if (old == now)
                continue;
            changed = true;
            const bool same_place =
                !((old | now) & flag_compressed) && (old & offset_mask) == (now & offset_mask);
            if (!same_place)
                kill(old, !(now & offset_mask));
            store_be<u64>(p + i * 8, now);
        }
        if (changed)
            l2_.mark_dirty(place);
        done += n;
    }
}

} // namespace rhea::block::qcow2
