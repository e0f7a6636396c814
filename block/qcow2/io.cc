// Reading and writing guest data.
#include <algorithm>
#include <cerrno>

#include "block/qcow2/compress.h"
#include "block/qcow2/image.h"

namespace rhea::block::qcow2 {

// --- reading

Task<> Image::do_read(u64 at, ConstVectors into) {
    const u64 begin = cluster_begin(at), end = cluster_end(at + total(into));
    auto task = read_inner(at, into);
    co_await in_range(begin, end - begin, false, task);
}

Task<> Image::read_inner(u64 at, ConstVectors into) {
    const u64 length = total(into);
    for (u64 done = 0; done < length;) {
        const auto cached = map_cached(at + done, length - done);
        Mapping m;
        if (cached)
            m = *cached;
        else
            m = co_await map(at + done, length - done);
        if (m.kind == Mapping::Kind::none) {
            co_await read_backing(at + done, into, done, m.length);
        } else if (m.kind == Mapping::Kind::zero) {
            fill_zero(into, done, m.length);
        } else if (m.kind == Mapping::Kind::compressed) {
            const u64 in_cluster = (at + done) & (cluster() - 1);
            co_await read_compressed(m.offset, in_cluster, into, done, m.length);
        } else {
            // A file that ends early reads as zeroes: the last cluster need not be complete.
            const u64 end = file_->length();
            const u64 there = m.offset < end ? std::min(m.length, end - m.offset) : 0;
            if (there == length) {
                co_await file_->read(m.offset, into);
            } else if (there) {
                const Slice piece(into, done, there);
                co_await file_->read(m.offset, piece.vectors());
            }
            fill_zero(into, done + there, m.length - there);
        }
        done += m.length;
    }
}

Task<> Image::read_backing(u64 at, ConstVectors into, u64 skip, u64 n) {
    const u64 end = backing_ ? backing_->length() : 0;
    const u64 there = at < end ? std::min(n, end - at) : 0;
    if (there) {
        const Slice piece(into, skip, there);
        co_await backing_->read(at, piece.vectors());
    }
    fill_zero(into, skip + there, n - there);
}

Task<> Image::read_compressed(u64 entry, u64 in_cluster, ConstVectors into, u64 skip, u64 n) {
    if (inflated_entry_ != entry) {
        const CompressedPlace p = compressed_place(entry, header_.cluster_bits);
        Buffer raw(p.length), out(cluster());
        co_await read_padded(*file_, p.offset, raw.span());
        const auto r = decompress(header_.compression, raw.span(), out.span());
        if (!r) {
            const Error e{EIO, name() + ": " + r.error().what};
            co_await loop::raise(e);
        }
        inflated_ = std::move(out);
        inflated_entry_ = entry;
    }
    copy_in(into, skip, inflated_.span().subspan(in_cluster, n));
}

Task<bool> Image::reads_as_zero(u64 at, u64 n) {
    while (n) {
        const Mapping m = co_await map(at, n);
        if (m.kind == Mapping::Kind::data || m.kind == Mapping::Kind::compressed)
            co_return false;
        if (m.kind == Mapping::Kind::none && backing_ && at < backing_->length()) {
            const Extent e = co_await backing_->block_status(at, m.length);
            if (!e.zero)
                co_return false;
            at += e.length;
            n -= e.length;
            continue;
        }
        at += m.length;
        n -= m.length;
    }
    co_return true;
}

// --- writing

Task<> Image::do_write(u64 at, ConstVectors from) {
    co_await writable();
    const u64 begin = cluster_begin(at), end = cluster_end(at + total(from));
    u64 done = 0;
    auto in_place = write_in_place(at, from, done);
    co_await in_range(begin, end - begin, false, in_place);
    if (done < total(from)) {
        const Slice rest(from, done, total(from) - done);
        auto task = write_inner(at + done, rest.vectors());
        co_await in_range(begin, end - begin, true, task);
    }
    if (l2_.wants_writing() || refcounts_.wants_writing() || dead_.size() > 65536)
        co_await do_flush();
}

/// As much from the beginning as is allocated to us alone.
Task<> Image::write_in_place(u64 at, ConstVectors from, u64 &done) {
    const u64 length = total(from);
    while (done < length) {
        const Mapping m = co_await map(at + done, length - done);
        if (m.kind != Mapping::Kind::data || !m.in_place)
            co_return;
        if (is_metadata(m.offset, m.length))
            co_await corrupt("guest data stands where the image's own tables are");
        const Slice piece(from, done, m.length);
        co_await file_->write(m.offset, piece.vectors());
        done += m.length;
    }
}

Task<> Image::write_inner(u64 at, ConstVectors from) {
    const u64 length = total(from);
    for (u64 done = 0; done < length;) {
        u64 in_place = 0;
        const Slice rest(from, done, length - done);
        co_await write_in_place(at + done, rest.vectors(), in_place);
        done += in_place;
        if (done == length)
            break;
        // How far it goes on being not ours.
        u64 n = 0;
        while (done + n < length) {
            const Mapping m = co_await map(at + done + n, length - done - n);
            if (m.kind == Mapping::Kind::data && m.in_place)
                break;
            n += m.length;
        }
        co_await write_new(at + done, from, done, n);
        done += n;
    }
}

Task<> Image::write_new(u64 at, ConstVectors from, u64 skip, u64 length) {
    while (length) {
        const u64 wanted = (cluster_end(at + length) - cluster_begin(at)) >> header_.cluster_bits;
        Refcounts::Run run;
        co_await allocate_clusters(wanted, run);
        const u64 end = cluster_begin(at) + (run.clusters << header_.cluster_bits);
        const u64 n = std::min(at + length, end) - at;
        auto task = write_new_run(at, from, skip, n, run);
        const auto r = co_await task.caught();
        if (!r) { // nothing refers to it
            dead_.push_back({run.offset, run.clusters, false});
            co_await loop::raise(r.error());
        }
        // If this fails midway, what was not linked is leaked, which is safe.
        auto link =
            set_entries(cluster_begin(at), run.clusters, run.offset | flag_copied, cluster());
        co_await under_meta(link);
        at += n;
        skip += n;
        length -= n;
    }
}

Task<> Image::write_new_run(u64 at, ConstVectors from, u64 skip, u64 length,
                            const Refcounts::Run &run) {
    const u64 begin = cluster_begin(at), end = begin + (run.clusters << header_.cluster_bits);
    const u64 head = at - begin;
    const u64 tail = end - (at + length);
    // What is behind the end of the file needs no zeroes written around it.
    const bool fresh = run.offset >= file_->length();
    const u64 image_end = std::min(end, this->length());
    Buffer before, after;
    std::vector<iovec> list;
    u64 place = run.offset;
    if (head) {
        const bool zero = co_await reads_as_zero(begin, head);
        if (zero && fresh) {
            place += head;
        } else {
            before = Buffer(head);
            const iovec v{before.data(), head};
            co_await read_inner(begin, ConstVectors(&v, 1));
            list.push_back(v);
        }
    }
    each_piece(from, skip, length, [&](u8 *p, usize n) { list.push_back({p, n}); });
    if (tail) {
        // Beyond the end of the disk there is nothing to keep.
        const u64 kept = image_end > at + length ? image_end - (at + length) : 0;
        bool zero = true;
        if (kept)
            zero = co_await reads_as_zero(at + length, kept);
        if (!(zero && fresh)) {
            after = Buffer(tail);
            std::memset(after.data(), 0, tail);
            const iovec v{after.data(), kept};
            if (kept)
                co_await read_inner(at + length, ConstVectors(&v, 1));
            list.push_back({after.data(), tail});
        }
    }
    co_await file_->write(place, ConstVectors(list));
}

// --- compressed

Task<> Image::write_compressed(u64 at, std::span<const u8> compressed) {
    if (at & (cluster() - 1) || at >= length() || compressed.empty() ||
        compressed.size() >= cluster())
        co_await loop::raise(EINVAL, "a compressed cluster's place or length");
    co_await writable();
    auto task = write_compressed_inner(at, compressed);
    co_await in_range(at, cluster(), true, task);
    if (l2_.wants_writing() || refcounts_.wants_writing())
        co_await do_flush();
}

/// Compressed clusters stand one behind the other; each counts once in every cluster that it
/// touches.
Task<> Image::write_compressed_inner(u64 at, std::span<const u8> compressed) {
    const u64 n = compressed.size();
    u64 offset = 0;
    const auto place = [&]() -> Task<> {
        const u64 room = compressed_next_ ? cluster_end(compressed_next_) - compressed_next_ : 0;
        if (room >= n) {
            const u64 c = compressed_next_ >> header_.cluster_bits;
            const u64 count = co_await refcounts_.get(c);
            if (count < header_.max_refcount()) {
                co_await refcounts_.add(c, 1, 1);
                offset = compressed_next_;
                compressed_next_ = room == n ? 0 : offset + n;
                co_return;
            }
        }
        const Refcounts::Run run = co_await refcounts_.allocate(1);
        if (room && room < n && run.offset == cluster_end(compressed_next_)) {
            const u64 c = compressed_next_ >> header_.cluster_bits;
            const u64 count = co_await refcounts_.get(c);
            if (count < header_.max_refcount()) { // across the border
                co_await refcounts_.add(c, 1, 1);
                offset = compressed_next_;
                compressed_next_ = offset + n;
                co_return;
            }
        }
        offset = run.offset;
        compressed_next_ = offset + n;
    };
    auto placing = place();
    co_await under_meta(placing);
    co_await file_->write(offset, compressed);
    // Readers read whole sectors.
    if (const u64 end = align_up(offset + n, sector_size); end > file_->length())
        co_await file_->truncate(end);
    inflated_entry_ = 0;
    const u64 entry = compressed_entry(offset, n, header_.cluster_bits);
    auto task = set_entries(at, 1, entry, 0);
    co_await under_meta(task);
}

// --- zeroes

Task<> Image::do_write_zeroes(u64 at, u64 n, bool) {
    co_await writable();
    const u64 begin = cluster_begin(at), end = cluster_end(at + n);
    auto task = zero_inner(at, n);
    co_await in_range(begin, end - begin, true, task);
    if (l2_.wants_writing() || dead_.size() > 65536)
        co_await do_flush();
}

/// Less than a cluster.
Task<> Image::zero_partly(u64 at, u64 n) {
    const bool zero = co_await reads_as_zero(at, n);
    if (zero)
        co_return;
    Buffer nothing(n);
    std::memset(nothing.data(), 0, n);
    const iovec v{nothing.data(), n};
    co_await write_inner(at, ConstVectors(&v, 1));
}

Task<> Image::zero_inner(u64 at, u64 n) {
    const u64 end = at + n;
    const u64 begin = cluster_end(at);
    // The last cluster counts as whole if the disk ends in it.
    const u64 last = end == length() ? cluster_end(end) : cluster_begin(end);
    if (begin > last) { // inside of one cluster
        co_await zero_partly(at, n);
        co_return;
    }
    if (at < begin)
        co_await zero_partly(at, std::min(begin, end) - at);
    if (begin < last) {
        if (header_.version >= 3) {
            co_await unmap_inner(begin, last - begin, flag_zero);
        } else if (!backing_) {
            co_await unmap_inner(begin, last - begin, 0);
        } else {
            for (u64 p = begin; p < std::min(last, end); p += cluster())
                co_await zero_partly(p, std::min(cluster(), end - p));
        }
    }
    if (last < end)
        co_await zero_partly(last, end - last);
}

/// Whole clusters: what they had is free, their entries become `entry`.
Task<> Image::unmap_inner(u64 at, u64 n, u64 entry) {
    const auto body = [](Image &self, u64 from, u64 bytes, u64 value) -> Task<> {
        const u64 end = from + bytes;
        while (from < end) {
            const u64 span = self.header_.l1_span();
            const u64 step = std::min(end, align_down(from, span) + span) - from;
            // Where there is no table there is nothing: without a backing image it is zero already.
            if (self.entry_place(from) || (value && self.backing_))
                co_await self.set_entries(from, step >> self.header_.cluster_bits, value, 0);
            from += step;
        }
    };
    auto task = body(*this, at, n, entry);
    co_await under_meta(task);
}

Task<> Image::do_discard(u64 at, u64 n) {
    co_await writable();
    // Only whole clusters: the rest keeps its value.
    const u64 begin = cluster_end(at);
    const u64 end = at + n == length() ? cluster_end(at + n) : cluster_begin(at + n);
    if (begin >= end || (header_.version < 3 && backing_))
        co_return;
    auto task = unmap_inner(begin, end - begin, backing_ ? flag_zero : 0);
    co_await in_range(begin, end - begin, true, task);
    if (l2_.wants_writing() || dead_.size() > 65536)
        co_await do_flush();
}

Task<Extent> Image::do_block_status(u64 at, u64 n) {
    const Mapping m = co_await map(at, n);
    Extent e{.length = m.length};
    e.allocated = m.kind != Mapping::Kind::none;
    e.zero = m.kind == Mapping::Kind::zero ||
             (m.kind == Mapping::Kind::none && (!backing_ || at >= backing_->length()));
    if (m.kind == Mapping::Kind::none && backing_ && at < backing_->length())
        e.length = std::min(e.length, backing_->length() - at);
    e.compressed = m.kind == Mapping::Kind::compressed;
    e.has_offset = m.kind == Mapping::Kind::data;
    e.offset = e.has_offset ? m.offset : 0;
    co_return e;
}

} // namespace rhea::block::qcow2
