// Image: a qcow2 image, version 2 or 3, for reading and writing.
//
// Guest data goes to the file at once; tables are changed in memory and written by a flush, when
// too much is dirty, or by close(), always in this order, with the file flushed between:
//   1. data, and reference counts that went up;  2. L2 tables;  3. the L1 table;
//   4. only now are clusters that nothing refers to any more counted down and free to be reused.
// So whatever moment the power fails at, every reference on the disk leads to what it meant, and
// clusters may be leaked (check repairs that), never shared.
//
// Locks: `ranges_` over guest clusters (shared: reads and writes in place; exclusive: whatever
// changes a mapping), then `meta_` over the tables. Slices' pointers do not survive a co_await.
//
// Bad images: tables and offsets that make no sense fail the request with EIO and, on an image that
// is open for writing, set the corrupt bit, after which nothing is written.
#pragma once
#include <memory>
#include <vector>

#include "block/qcow2/layout.h"
#include "block/qcow2/refcounts.h"
#include "block/qcow2/table_cache.h"
#include "block/sync.h"

namespace rhea::block::qcow2 {

struct ImageOptions {
    bool read_only = false;
    u64 l2_cache_bytes = u64{16} << 20; // covers 128 GiB of 64 KiB clusters
    u64 refcount_cache_bytes = u64{1} << 20;
    bool unmap = true;  // give freed clusters back to the file system
    bool check = false; // opened to be checked: neither the dirty nor the corrupt bit is in the way
};

struct CreateOptions {
    u64 size = 0;
    u32 version = 3;
    u64 cluster_size = 65536;
    u32 refcount_bits = 16;
    bool lazy_refcounts = false;
    Compression compression = Compression::zlib;
    std::string backing_file, backing_format;
};

struct CheckResult {
    u64 corruptions = 0, leaks = 0, corruptions_fixed = 0, leaks_fixed = 0;
    u64 total_clusters = 0, allocated_clusters = 0, compressed_clusters = 0,
        fragmented_clusters = 0;
    u64 image_end = 0;
    std::vector<std::string> messages; // the first hundred
};
enum class Repair { nothing, leaks, all };

class Image final : public Node {
public:
    /// Takes the file's node. On success the caller attaches the backing node, if the header names
    /// one.
    static Task<std::unique_ptr<Node>> open(loop::Loop &loop, std::unique_ptr<Node> &file,
                                            const ImageOptions &options);
    /// Writes an empty image over what the file had.
    static Task<> create(loop::Loop &loop, std::unique_ptr<Node> &file,
                         const CreateOptions &options);
    ~Image() override;

    std::string_view format() const noexcept override { return "qcow2"; }
    Node *file() const noexcept override { return file_.get(); }
    Node *backing() const noexcept override { return backing_.get(); }
    void set_backing(std::unique_ptr<Node> backing) noexcept { backing_ = std::move(backing); }
    const Header &header() const noexcept { return header_; }
    Task<> close() override;

    /// One whole cluster at `at`, already compressed. EINVAL: not at a cluster's beginning.
    Task<> write_compressed(u64 at, std::span<const u8> compressed);

    const std::vector<Snapshot> &snapshots() const noexcept { return snapshots_; }
    Task<> snapshot_create(std::string_view name, u32 seconds, u32 nanoseconds);
    /// By id or name; ENOENT.
    Task<> snapshot_apply(std::string_view id_or_name);
    Task<> snapshot_delete(std::string_view id_or_name);

    /// Shows what the snapshot has from now on; the image was opened read-only.
    Task<> view_snapshot(std::string_view id_or_name);

    Task<CheckResult> check(Repair repair);
    /// Bytes of L2 slices and the L1 table in memory.
    u64 metadata_bytes() const noexcept { return l2_.bytes() + l1_.size() * 8; }

private:
    struct Mapping {
        enum class Kind { none, zero, data, compressed } kind = Kind::none;
        u64 offset = 0;        // data: of the byte asked for; compressed: the whole entry
        u64 length = 0;        // how far this goes on
        bool in_place = false; // data that may be overwritten
        bool zero_allocated = false;
    };
    struct Dead { // referred to no more
        u64 offset, clusters;
        bool punch;
    };

    Image(loop::Loop &loop, std::unique_ptr<Node> file, const Header &header,
          const ImageOptions &options);
    Task<> start();

    Task<> do_read(u64 at, ConstVectors into) override;
    Task<> do_write(u64 at, ConstVectors from) override;
    Task<> do_write_zeroes(u64 at, u64 length, bool may_unmap) override;
    Task<> do_discard(u64 at, u64 length) override;
    Task<> do_flush() override;
    Task<Extent> do_block_status(u64 at, u64 length) override;
    Task<> do_truncate(u64 length) override;

    u64 cluster() const noexcept { return header_.cluster_size(); }
    u64 cluster_begin(u64 at) const noexcept { return at & ~(cluster() - 1); }
    u64 cluster_end(u64 at) const noexcept { return align_up(at, cluster()); }

    /// Runs a task that has not started with the tables, or a range of guest bytes, locked.
    Task<> under_meta(Task<> &task);
    Task<> in_range(u64 at, u64 length, bool exclusive, Task<> &task);

    // mapping.cc
    u64 entry_place(u64 at) const noexcept; // in the file; 0: there is no L2 table
    Task<Mapping> map(u64 at, u64 length);
    Result<Mapping> map_cached(u64 at, u64 length);
    Task<> load_l2(u64 at);
    Task<> make_l2_writable(u64 at);
    /// Sets `clusters` entries from guest offset `at` on: the first to `entry`, the following to
    /// that plus `step` each. Under meta_.
    Task<> set_entries(u64 at, u64 clusters, u64 entry, u64 step);
    void kill(u64 entry, bool punch);
    Task<> allocate_clusters(u64 wanted, Refcounts::Run &run);
    bool is_metadata(u64 offset, u64 length) const noexcept;

    // io.cc
    Task<> read_inner(u64 at, ConstVectors into);
    Task<> read_backing(u64 at, ConstVectors into, u64 skip, u64 length);
    Task<> read_compressed(u64 entry, u64 in_cluster, ConstVectors into, u64 skip, u64 length);
    Task<> write_inner(u64 at, ConstVectors from);
    Task<> write_in_place(u64 at, ConstVectors from, u64 &done);
    Task<> write_new(u64 at, ConstVectors from, u64 skip, u64 length);
    Task<> write_new_run(u64 at, ConstVectors from, u64 skip, u64 length,
                         const Refcounts::Run &run);
    Task<> write_compressed_inner(u64 at, std::span<const u8> compressed);
    Task<> zero_inner(u64 at, u64 length);
    Task<> zero_partly(u64 at, u64 length);
    Task<> unmap_inner(u64 at, u64 length, u64 entry);
    Task<bool> reads_as_zero(u64 at, u64 length);

    // image.cc
    Task<> writable();
    Task<> corrupt(std::string_view what);
    Task<> write_back();
    Task<> bury();
    Task<> write_header();
    Task<> grow_l1(u64 entries);
    Task<> truncate_inner(u64 length);
    bool tables_dirty() const noexcept {
        return l2_.dirty() || !dirty_l1_.empty() || refcounts_.dirty() || !dead_.empty();
    }

    // snapshot.cc
    Task<std::vector<u64>> read_l1(u64 offset, u32 entries);
    Task<> count_tree(const std::vector<u64> &l1, int delta);
    Task<> refresh_copied(bool clear);
    Task<> write_snapshots(const std::vector<Snapshot> &snapshots);
    Task<> snapshot_create_inner(std::string_view name, u32 seconds, u32 nanoseconds);
    Task<> snapshot_apply_inner(std::string_view id_or_name);
    Task<> snapshot_delete_inner(std::string_view id_or_name);
    usize find_snapshot(std::string_view id_or_name) const noexcept;

    Task<u64> place_l1(const std::vector<u64> &l1);
    Task<> read_snapshots();

    // check.cc
    class Checker;

    loop::Loop &loop_;
    std::unique_ptr<Node> file_;
    std::unique_ptr<Node> backing_;
    Node::Use file_use_;
    ImageOptions options_;
    Header header_;
    std::vector<u64> l1_;
    std::set<u64> dirty_l1_; // sectors of the table
    TableCache l2_;
    Refcounts refcounts_;
    std::vector<Snapshot> snapshots_;
    u64 snapshots_bytes_ = 0;
    Lock meta_;
    RangeLock ranges_;
    std::vector<Dead> dead_;
    u64 compressed_next_ = 0; // where the next compressed cluster goes, inside a started cluster
    Buffer inflated_;         // the compressed cluster that was read last
    u64 inflated_entry_ = 0;
    bool broken_ = false; // corrupt, or a repair is wanted: nothing is written
};

} // namespace rhea::block::qcow2
