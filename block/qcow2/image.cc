// Life of an image: opening, creating, the order of writing tables back, closing, length.
#include "block/qcow2/image.h"

#include <algorithm>
#include <cerrno>

#include "dm/core/log.h"

namespace rhea::block::qcow2 {

Image::Image(loop::Loop &loop, std::unique_ptr<Node> file, const Header &header,
             const ImageOptions &options)
    : Node(file->name()), loop_(loop), file_(std::move(file)), options_(options), header_(header),
      l2_(*file_, std::min<u64>(header.cluster_size(), 4096), options.l2_cache_bytes),
      refcounts_(*file_, header_, options.refcount_cache_bytes), meta_(loop), ranges_(loop) {
    // Extended L2 entries are read, not written.
    set_read_only(options.read_only || file_->read_only() || header.extended());
    set_length(align_up(header.size, sector_size));
}

Image::~Image() = default;

Task<std::unique_ptr<Node>> Image::open(loop::Loop &loop, std::unique_ptr<Node> &file,
                                        const ImageOptions &options) {
    Buffer start(std::min<u64>(file->length(), u64{2} << 20));
    co_await file->read(0, start.span());
    const auto header = parse_header(start.span(), file->length());
    if (!header) {
        const Error e{header.error().code, file->name() + ": " + header.error().what};
        co_await loop::raise(e);
    }
    const bool writing = !options.read_only && !file->read_only();
    if (writing && (header->incompatible & incompatible_corrupt) && !options.check) {
        const Error e{EIO, file->name() + ": is marked corrupt: open it read-only, or repair it "
                                          "(rhea-img check -r all)"};
        co_await loop::raise(e);
    }
    if (writing && header->extended() && !options.check) {
        const Error e{ENOTSUP,
                      file->name() + ": extended L2 entries are only read here: open it read-only"};
        co_await loop::raise(e);
    }
    std::unique_ptr<Image> image(new Image(loop, std::move(file), *header, options));
    co_await image->start();
    std::unique_ptr<Node> node = std::move(image);
    co_return node;
}

Task<> Image::start() {
    if (auto use = file_->use("a qcow2 image", {.write = !read_only(), .resize = !read_only()}))
        file_use_ = std::move(*use);
    else
        co_await loop::raise(use.error());
    l1_ = co_await read_l1(header_.l1_offset, header_.l1_entries);
    co_await refcounts_.read_table();
    co_await read_snapshots();
    if (read_only() || options_.check)
        co_return;
    if (header_.incompatible & incompatible_dirty) { // lazy refcounts, and then a crash
        RHEA_LOG(warning, "%s: was not closed: its reference counts are made anew", name().c_str());
        co_await check(Repair::all);
    }
    if (header_.autoclear) { // bitmaps and the like, which our writes make stale
        header_.autoclear = 0;
        co_await write_header();
    }
}

Task<> Image::create(loop::Loop &loop, std::unique_ptr<Node> &file, const CreateOptions &o) {
    const std::string name = file->name();
    Header h;
    h.version = o.version;
    h.cluster_bits = static_cast<u32>(std::countr_zero(o.cluster_size));
    h.refcount_order = static_cast<u32>(std::countr_zero(o.refcount_bits));
    h.length = h.version == 2 ? header_length_2 : sizeof(RawHeader);
    const char *wrong = nullptr;
    if (!is_power_of_two(o.cluster_size) || h.cluster_bits < 9 || h.cluster_bits > 21)
        wrong = "cluster_size is a power of two from 512 to 2M";
    else if (!is_power_of_two(o.refcount_bits) || h.refcount_order > 6)
        wrong = "refcount_bits is a power of two from 1 to 64";
    else if (h.version == 2 &&
             (h.refcount_order != 4 || o.lazy_refcounts || o.compression != Compression::zlib))
        wrong = "compat=0.10 has refcount_bits=16, no lazy_refcounts and no zstd";
    else if (o.size > u64{1} << 60 ||
             (o.size >> h.cluster_bits) / h.l2_entries() * 8 > max_l1_bytes - 8)
        wrong = "the disk is too large for this cluster size";
    if (wrong) {
        const Error e{EINVAL, name + ": " + wrong};
        co_await loop::raise(e);
    }
    if (o.lazy_refcounts)
        h.compatible |= compatible_lazy_refcounts;
    if (o.compression != Compression::zlib) {
        h.incompatible |= incompatible_compression;
        h.compression = o.compression;
    }
    h.backing_file = o.backing_file;
    h.backing_format = o.backing_format;
    // An empty disk: header, refcount table, its first block. Its length then grows like any.
    const u64 cluster = h.cluster_size();
    h.refcount_offset = cluster;
    h.refcount_clusters = 1;
    h.l1_offset = 3 * cluster;
    const auto head = header_cluster(h);
    if (!head) {
        const Error e{EINVAL, name + ": " + head.error().what};
        co_await loop::raise(e);
    }
    Buffer start(4 * cluster);
    std::memset(start.data(), 0, start.size());
    std::ranges::copy(*head, start.data());
    store_be<u64>(start.data() + cluster, 2 * cluster);
    for (u64 i = 0; i < 4; ++i)
        store_refcount(start.data() + 2 * cluster, i, h.refcount_order, 1);
    co_await file->write(0, std::span<const u8>(start.span()));
    const ImageOptions options;
    auto image = co_await open(loop, file, options);
    co_await image->truncate(o.size);
    co_await image->close();
    file = std::move(static_cast<Image &>(*image).file_);
    static_cast<Image &>(*image).file_use_ = {};
}

Task<> Image::close() {
    // More than once: what one flush counts down is written by the next.
    for (int i = 0; i < 4 && !read_only() && !broken_ && (i == 0 || tables_dirty()); ++i)
        co_await do_flush();
    co_await file_->close();
    if (backing_)
        co_await backing_->close();
}

// --- locks, failures

Task<> Image::under_meta(Task<> &task) {
    co_await meta_.acquire();
    const auto r = co_await task.caught();
    meta_.release();
    if (!r)
        co_await loop::raise(r.error());
}

Task<> Image::in_range(u64 at, u64 n, bool exclusive, Task<> &task) {
    const auto held = co_await ranges_.acquire(at, n, exclusive);
    const auto r = co_await task.caught();
    ranges_.release(held);
    if (!r)
        co_await loop::raise(r.error());
}

Task<> Image::writable() {
    if (!broken_)
        co_return;
    const Error e{EIO, name() + ": is corrupt: nothing is written to it"};
    co_await loop::raise(e);
}

Task<> Image::corrupt(std::string_view what) {
    const Error e{EIO, name() + ": corrupt qcow2 image: " + std::string(what)};
    if (!read_only() && !broken_ && !options_.check) {
        broken_ = true;
        RHEA_LOG(error, "%s", e.what.c_str());
        if (header_.version >= 3) {
            header_.incompatible |= incompatible_corrupt;
            auto task = write_header();
            const auto r = co_await task.caught();
            if (!r)
                RHEA_LOG(error, "%s", to_string(r.error()).c_str());
        }
    }
    co_await loop::raise(e);
}

// --- writing back

Task<> Image::do_flush() {
    if (!tables_dirty() && !meta_.held()) {
        co_await file_->flush();
        co_return;
    }
    co_await writable();
    auto task = write_back();
    co_await under_meta(task);
}

/// Under meta_, so that nothing is linked meanwhile whose data the flushes below do not cover.
Task<> Image::write_back() {
    co_await refcounts_.write_back();
    co_await file_->flush();
    if (const auto old = refcounts_.take_old_table(); old.clusters)
        dead_.push_back({old.offset, old.clusters, false});
    if (l2_.dirty() || !dirty_l1_.empty()) {
        co_await l2_.write_dirty();
        co_await file_->flush();
    }
    if (!dirty_l1_.empty()) {
        const auto sectors = std::exchange(dirty_l1_, {});
        Buffer raw(align_up(l1_.size() * 8, sector_size));
        std::memset(raw.data(), 0, raw.size());
        for (usize i = 0; i < l1_.size(); ++i)
            store_be<u64>(raw.data() + i * 8, l1_[i]);
        for (const u64 s : sectors) {
            const auto piece = raw.span().subspan(s * sector_size, sector_size);
            auto task =
                file_->write(header_.l1_offset + s * sector_size, std::span<const u8>(piece));
            const auto r = co_await task.caught();
            if (!r) {
                dirty_l1_.insert(sectors.begin(), sectors.end());
                co_await loop::raise(r.error());
            }
        }
        co_await file_->flush();
    }
    co_await bury();
}

/// Counts down what the disk refers to no more.
Task<> Image::bury() {
    if (dead_.empty())
        co_return;
    compressed_next_ = 0; // its cluster may be among them
    const auto dead = std::exchange(dead_, {});
    for (const Dead &d : dead) {
        const u64 first = d.offset >> header_.cluster_bits;
        for (u64 c = first; c < first + d.clusters; ++c) {
            const u64 count = co_await refcounts_.get(c);
            if (!count)
                co_await corrupt("a cluster in use has the refcount 0");
            co_await refcounts_.set(c, count - 1);
        }
        if (d.punch && options_.unmap) {
            u64 free = 0; // a run of those that nobody has now
            for (u64 c = first; c <= first + d.clusters; ++c) {
                u64 count = 1;
                if (c < first + d.clusters)
                    count = co_await refcounts_.get(c);
                const u64 at = (c - free) << header_.cluster_bits;
                if (!count) {
                    ++free;
                } else if (free && at < file_->length()) {
                    const u64 n = std::min(free << header_.cluster_bits, file_->length() - at);
                    co_await file_->discard(at, n);
                    free = 0;
                }
            }
        }
    }
}

Task<> Image::write_header() {
    const auto head = header_bytes(header_);
    co_await file_->write(0, std::span<const u8>(head));
    co_await file_->flush();
}

// --- length

/// Under meta_.
Task<> Image::grow_l1(u64 entries) {
    if (entries <= l1_.size())
        co_return;
    if (entries * 8 > max_l1_bytes)
        co_await loop::raise(EFBIG, "the disk is too large for this cluster size");
    const u64 clusters = (entries * 8 + cluster() - 1) >> header_.cluster_bits;
    const u64 place = co_await refcounts_.allocate_together(clusters);
    co_await write_back(); // the new place is counted, and the old table is as it is in memory
    Buffer raw(clusters << header_.cluster_bits);
    std::memset(raw.data(), 0, raw.size());
    for (usize i = 0; i < l1_.size(); ++i)
        store_be<u64>(raw.data() + i * 8, l1_[i]);
    co_await file_->write(place, std::span<const u8>(raw.span()));
    co_await file_->flush();
    const u64 old = header_.l1_offset;
    const u64 old_clusters =
        std::max<u64>((l1_.size() * 8 + cluster() - 1) >> header_.cluster_bits, l1_.empty());
    header_.l1_offset = place;
    header_.l1_entries = static_cast<u32>(entries);
    l1_.resize(entries);
    co_await write_header();
    dead_.push_back({old, old_clusters, false});
}

Task<> Image::truncate_inner(u64 want) {
    const u64 old = length();
    if (want > old) {
        const u64 entries = (want + header_.l1_span() - 1) / header_.l1_span();
        auto task = grow_l1(entries);
        co_await under_meta(task);
    } else if (want < old) {
        // What is cut off must not come back if the disk grows again.
        co_await zero_inner(want, std::min(cluster_end(want), old) - want);
        if (cluster_end(want) < cluster_end(old))
            co_await unmap_inner(cluster_end(want), cluster_end(old) - cluster_end(want), 0);
        co_await do_flush();
    }
    header_.size = want;
    set_length(want);
    co_await write_header();
    if (want > old && backing_ && backing_->length() > old) {
        co_await zero_inner(old, std::min(backing_->length(), want) - old);
        co_await do_flush();
    }
}

Task<> Image::do_truncate(u64 length_given) {
    const u64 want = align_up(length_given, sector_size);
    co_await writable();
    if (want < length() && !snapshots_.empty())
        co_await loop::raise(ENOTSUP, "an image with snapshots cannot be made smaller");
    if (want == length())
        co_return;
    auto task = truncate_inner(want);
    co_await in_range(0, u64{1} << 62, true, task);
}

} // namespace rhea::block::qcow2
