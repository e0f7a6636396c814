// The qcow2 format's numbers: header, table entries, snapshot records. Plain values, no I/O.
//
// Source: "QCOW2 Image Format", the interoperability document of the QEMU project, whose names are
// used. All fields are big-endian.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "dm/core/bits.h"
#include "dm/core/endian.h"
#include "dm/core/result.h"

namespace rhea::block::qcow2 {

constexpr u32 magic = 0x514649fb; // "QFI\xfb"

struct RawHeader {
    Be<u32> magic, version;
    Be<u64> backing_file_offset;
    Be<u32> backing_file_size, cluster_bits;
    Be<u64> size;
    Be<u32> crypt_method, l1_size;
    Be<u64> l1_table_offset, refcount_table_offset;
    Be<u32> refcount_table_clusters, nb_snapshots;
    Be<u64> snapshots_offset;
    // version 3
    Be<u64> incompatible_features, compatible_features, autoclear_features;
    Be<u32> refcount_order, header_length;
    u8 compression_type;
    u8 padding[7];
};
static_assert(sizeof(RawHeader) == 112);
constexpr u32 header_length_2 = 72, header_length_3 = 104;

enum Incompatible : u64 {
    incompatible_dirty = 1,
    incompatible_corrupt = 2,
    incompatible_data_file = 4,
    incompatible_compression = 8,
    incompatible_extended_l2 = 16
};
constexpr u64 compatible_lazy_refcounts = 1;
constexpr u64 autoclear_bitmaps = 1;

enum class Compression : u8 { zlib = 0, zstd = 1 };

// header extensions
constexpr u32 extension_end = 0;
constexpr u32 extension_backing_format = 0xe2792aca;
constexpr u32 extension_features = 0x6803f857;
constexpr u32 extension_bitmaps = 0x23852875;
constexpr u32 extension_data_file = 0x44415441;

// L1 and L2 entries
constexpr u64 flag_copied = u64{1} << 63; // the reference count is exactly one
constexpr u64 flag_compressed = u64{1} << 62;
constexpr u64 flag_zero = 1;
constexpr u64 offset_mask = 0x00ff'ffff'ffff'fe00;
constexpr u64 refcount_offset_mask = ~u64{0x1ff};

constexpr u64 max_l1_bytes = u64{32} << 20;
constexpr u64 max_refcount_table_bytes = u64{8} << 20;
constexpr u64 max_snapshots = 65536;
constexpr u64 max_snapshot_table_bytes = u64{64} << 20;

/// The header as values, checked.
struct Header {
    u32 version = 3;
    u32 cluster_bits = 16;
    u64 size = 0;
    u32 l1_entries = 0;
    u64 l1_offset = 0;
    u64 refcount_offset = 0;
    u32 refcount_clusters = 0;
    u32 snapshots = 0;
    u64 snapshots_offset = 0;
    u64 incompatible = 0, compatible = 0, autoclear = 0;
    u32 refcount_order = 4;
    u32 length = sizeof(RawHeader);
    Compression compression = Compression::zlib;
    std::string backing_file;
    std::string backing_format;
    u64 backing_file_offset = 0;
    u64 bitmap_directory_offset = 0, bitmap_directory_size = 0; // of the bitmaps extension

    u64 cluster_size() const noexcept { return u64{1} << cluster_bits; }
    bool extended() const noexcept { return incompatible & incompatible_extended_l2; }
    u32 entry_size() const noexcept { return extended() ? 16 : 8; }
    /// Entries of an L2 table.
    u64 l2_entries() const noexcept { return cluster_size() / entry_size(); }
    /// Guest bytes that one L1 entry stands for.
    u64 l1_span() const noexcept { return l2_entries() << cluster_bits; }
    u64 refcounts_per_block() const noexcept { return (cluster_size() * 8) >> refcount_order; }
    u64 max_refcount() const noexcept { return low_bits(1u << refcount_order); }
};

struct Snapshot {
    std::string id, name;
    u64 l1_offset = 0;
    u32 l1_entries = 0;
    u32 seconds = 0, nanoseconds = 0;
    u64 vm_clock_ns = 0;
    u64 vm_state_size = 0;
    u64 disk_size = 0;
    std::vector<u8> extra; // as it was read, from its 17th byte on
};

/// Where a compressed cluster's bytes are.
struct CompressedPlace {
    u64 offset, length;
};
inline CompressedPlace compressed_place(u64 entry, u32 cluster_bits) noexcept {
    const unsigned x = 62 - (cluster_bits - 8);
    const u64 offset = entry & low_bits(x);
    const u64 sectors = (entry >> x & low_bits(cluster_bits - 8)) + 1;
    return {offset, sectors * 512 - (offset & 511)};
}
inline u64 compressed_entry(u64 offset, u64 length, u32 cluster_bits) noexcept {
    const unsigned x = 62 - (cluster_bits - 8);
    const u64 sectors = ((offset + length - 1) >> 9) - (offset >> 9);
    return flag_compressed | sectors << x | offset;
}

/// `start` is the file's beginning: all of its first cluster, or as much of it as there is. Errors
/// name the field that is wrong; ENOTSUP: a feature that is not served.
Result<Header> parse_header(std::span<const u8> start, u64 file_length);
/// The whole first cluster: header, extensions, backing file name. EINVAL: it does not fit.
Result<std::vector<u8>> header_cluster(const Header &header);
/// The header proper, for an update in place.
std::vector<u8> header_bytes(const Header &header);

u64 load_refcount(const u8 *table, u64 index, u32 order) noexcept;
void store_refcount(u8 *table, u64 index, u32 order, u64 value) noexcept;

/// `table` begins at the first record. EINVAL: malformed.
Result<std::vector<Snapshot>> parse_snapshots(std::span<const u8> table, u32 count);
std::vector<u8> snapshot_table(const std::vector<Snapshot> &snapshots);

} // namespace rhea::block::qcow2
