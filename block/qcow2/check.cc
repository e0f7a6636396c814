// check: counts every reference in the image and compares with the counts that it holds.
#include <algorithm>
#include <cerrno>

#include "block/qcow2/image.h"

namespace rhea::block::qcow2 {

/// One run over one image. What is wrong is counted and told, never followed.
class Image::Checker {
public:
    Checker(Image &image, CheckResult &result) : i_(image), r_(result) {}

    Task<> run(Repair repair);

private:
    void complain(u64 &counter, std::string text) {
        ++counter;
        if (r_.messages.size() < 100)
            r_.messages.push_back(std::move(text));
    }
    void corruption(std::string text) { complain(r_.corruptions, "ERROR " + std::move(text)); }
    void mark(u64 offset, u64 bytes, const char *what);
    Task<> walk_l1(u64 offset, u64 entries, bool active);
    Task<> walk_l2(u64 table, bool active);
    Task<> walk_all();
    Task<> compare(Repair repair);
    Task<> rebuild();

    Image &i_;
    CheckResult &r_;
    std::vector<u32> counts_;
    u64 next_data_ = 0; // where the next cluster would be without fragmentation
    u64 refcount_corruptions_ = 0, wrong_copied_ = 0;
};

void Image::Checker::mark(u64 offset, u64 bytes, const char *what) {
    const u32 bits = i_.header_.cluster_bits;
    const u64 first = offset >> bits, last = (offset + bytes - 1) >> bits;
    for (u64 c = first; c <= last; ++c) {
        if (c >= counts_.size())
            return corruption(std::string(what) + " at " + std::to_string(offset) +
                              " is beyond the end of the file");
        ++counts_[c];
        r_.image_end = std::max(r_.image_end, (c + 1) << bits);
    }
}

Task<> Image::Checker::walk_l2(u64 table, bool active) {
    const Header &h = i_.header_;
    Buffer raw(h.cluster_size());
    co_await read_padded(*i_.file_, table, raw.span());
    for (u64 n = 0; n < h.l2_entries(); ++n) {
        const u64 entry = load_be<u64>(raw.data() + n * h.entry_size());
        const u64 offset = entry & offset_mask;
        if (entry & flag_compressed) {
            const CompressedPlace p = compressed_place(entry, h.cluster_bits);
            mark(p.offset, p.length, "compressed data");
            r_.allocated_clusters += active;
            r_.compressed_clusters += active;
            r_.fragmented_clusters += active;
            continue;
        }
        if (!offset)
            continue;
        if (offset & (h.cluster_size() - 1)) {
            corruption("data offset " + std::to_string(offset) +
                       " is not a multiple of the cluster size");
            continue;
        }
        mark(offset, h.cluster_size(), "data");
        if (!active)
            continue;
        ++r_.allocated_clusters;
        r_.fragmented_clusters += next_data_ && offset != next_data_;
        next_data_ = offset + h.cluster_size();
        const u64 count = co_await i_.refcounts_.get(offset >> h.cluster_bits);
        wrong_copied_ += bool(entry & flag_copied) != (count == 1);
        if ((entry & flag_copied) && count > 1)
            corruption("the cluster at " + std::to_string(offset) +
                       " has the copied flag and the refcount " + std::to_string(count));
    }
}

Task<> Image::Checker::walk_l1(u64 offset, u64 entries, bool active) {
    if (!entries)
        co_return;
    mark(offset, entries * 8, "an L1 table");
    const auto l1 = co_await i_.read_l1(offset, static_cast<u32>(entries));
    for (const u64 entry : l1) {
        const u64 table = entry & offset_mask;
        if (!table)
            continue;
        if (table & (i_.cluster() - 1)) {
            corruption("L2 table offset " + std::to_string(table) +
                       " is not a multiple of the cluster size");
            continue;
        }
        mark(table, i_.cluster(), "an L2 table");
        if (table >= i_.file_->length())
            continue;
        if (active) {
            const u64 count = co_await i_.refcounts_.get(table >> i_.header_.cluster_bits);
            wrong_copied_ += bool(entry & flag_copied) != (count == 1);
            if ((entry & flag_copied) && count > 1)
                corruption("the L2 table at " + std::to_string(table) +
                           " has the copied flag and the refcount " + std::to_string(count));
        }
        co_await walk_l2(table, active);
    }
}

Task<> Image::Checker::walk_all() {
    const Header &h = i_.header_;
    const u64 cluster = h.cluster_size();
    mark(0, cluster, "the header");
    co_await walk_l1(h.l1_offset, h.l1_entries, true);
    if (!h.l1_entries && h.l1_offset)
        mark(h.l1_offset, 1, "an L1 table");
    for (const Snapshot &s : i_.snapshots_)
        co_await walk_l1(s.l1_offset, s.l1_entries, false);
    if (i_.snapshots_bytes_)
        mark(h.snapshots_offset, i_.snapshots_bytes_, "the snapshot table");
}

Task<> Image::Checker::compare(Repair repair) {
    const Header &h = i_.header_;
    mark(h.refcount_offset, h.refcount_clusters * h.cluster_size(), "the refcount table");
    for (u64 b = 0; b < i_.refcounts_.blocks(); ++b) {
        const u64 offset = i_.refcounts_.block_offset(b);
        if (!offset)
            continue;
        if (offset & (h.cluster_size() - 1)) {
            corruption("refcount block offset " + std::to_string(offset) +
                       " is not a multiple of the cluster size");
            ++refcount_corruptions_;
            continue;
        }
        mark(offset, h.cluster_size(), "a refcount block");
    }
    if (refcount_corruptions_)
        co_return; // nothing to compare with
    // Bitmaps and what else other programs keep in the file cannot be counted here: it looks
    // leaked and must not be freed.
    const bool foreign = h.autoclear != 0;
    for (u64 c = 0; c < counts_.size(); ++c) {
        const u64 stored = co_await i_.refcounts_.get(c);
        if (stored == counts_[c])
            continue;
        const std::string text = "cluster " + std::to_string(c) +
                                 " refcount=" + std::to_string(stored) +
                                 " reference=" + std::to_string(counts_[c]);
        if (stored < counts_[c]) {
            ++refcount_corruptions_;
            corruption(text);
        } else if (!foreign) {
            complain(r_.leaks, "Leaked " + text);
            if (repair != Repair::nothing) {
                co_await i_.refcounts_.set(c, counts_[c]);
                ++r_.leaks_fixed;
            }
        }
    }
}

/// A new refcount table with new blocks behind everything that is used.
Task<> Image::Checker::rebuild() {
    Header &h = i_.header_;
    const u64 per_block = h.refcounts_per_block(), cluster = h.cluster_size();
    const u64 used = std::max<u64>(counts_.size(), 1);
    u64 blocks = 1, table = 1;
    for (;;) {
        const u64 need = (used + blocks + table + per_block - 1) / per_block;
        const u64 need_table = (need * 8 + cluster - 1) / cluster;
        if (need == blocks && need_table == table)
            break;
        blocks = need;
        table = need_table;
    }
    counts_.resize(used + blocks + table, 1);
    const u64 table_offset = (used + blocks) << h.cluster_bits;
    Buffer raw_table(table * cluster);
    std::memset(raw_table.data(), 0, raw_table.size());
    for (u64 b = 0; b < blocks; ++b) {
        Buffer block(cluster);
        std::memset(block.data(), 0, block.size());
        for (u64 n = 0; n < per_block && b * per_block + n < counts_.size(); ++n) {
            const u64 count = counts_[b * per_block + n];
            if (count > h.max_refcount())
                co_await loop::raise(EFBIG, "qcow2: more references than a refcount can say");
            store_refcount(block.data(), n, h.refcount_order, count);
        }
        store_be<u64>(raw_table.data() + b * 8, (used + b) << h.cluster_bits);
        co_await i_.file_->write((used + b) << h.cluster_bits, std::span<const u8>(block.span()));
    }
    co_await i_.file_->write(table_offset, std::span<const u8>(raw_table.span()));
    co_await i_.file_->flush();
    h.refcount_offset = table_offset;
    h.refcount_clusters = static_cast<u32>(table);
    co_await i_.write_header();
    i_.refcounts_.forget();
    co_await i_.refcounts_.read_table();
}

Task<> Image::Checker::run(Repair repair) {
    Header &h = i_.header_;
    const u64 clusters = (i_.file_->length() + i_.cluster() - 1) >> h.cluster_bits;
    if (clusters > u64{1} << 27)
        co_await loop::raise(EFBIG, "the image's file is too large to be checked");
    counts_.resize(clusters);
    r_.total_clusters = (h.size + i_.cluster() - 1) >> h.cluster_bits;
    co_await walk_all();
    const auto without_refcounts = counts_;
    const u64 lost = r_.corruptions;
    co_await compare(repair);
    if (repair == Repair::all && refcount_corruptions_) {
        const u64 wrong = r_.corruptions - lost;
        counts_ = without_refcounts;
        co_await rebuild();
        r_.corruptions_fixed += wrong;
    }
    if (repair == Repair::nothing)
        co_return;
    co_await i_.write_back();
    if (repair == Repair::all && lost == 0 && wrong_copied_ + refcount_corruptions_) {
        co_await i_.refresh_copied(false);
        co_await i_.write_back();
    }
    // Its copied flags were wrong and no more than that: right again.
    if (repair == Repair::all && lost && !refcount_corruptions_ && lost <= wrong_copied_) {
        co_await i_.refresh_copied(false);
        co_await i_.write_back();
        r_.corruptions_fixed += lost;
    }
    const bool good = r_.corruptions == r_.corruptions_fixed;
    const u64 marks = incompatible_dirty | incompatible_corrupt;
    if (repair == Repair::all && good && (h.incompatible & marks)) {
        h.incompatible &= ~marks;
        co_await i_.write_header();
    }
}

Task<CheckResult> Image::check(Repair repair) {
    CheckResult result;
    if (repair != Repair::nothing && read_only())
        co_await loop::raise(EROFS, name());
    if (!read_only())
        co_await do_flush();
    Checker checker(*this, result);
    auto inner = checker.run(repair);
    auto task = under_meta(inner);
    co_await in_range(0, u64{1} << 62, true, task);
    result.corruptions -= result.corruptions_fixed;
    result.leaks -= result.leaks_fixed;
    co_return result;
}

} // namespace rhea::block::qcow2
