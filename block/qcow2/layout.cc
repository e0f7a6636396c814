#include "block/qcow2/layout.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rhea::block::qcow2 {

namespace {

tl::unexpected<Error> malformed(const std::string &what) {
    return fail(EINVAL, "malformed qcow2 header: " + what);
}

Result<> check_features(const RawHeader &raw) {
    const u64 features = raw.incompatible_features;
    if (features & incompatible_data_file)
        return fail(ENOTSUP, "qcow2 with an external data file is not supported");
    constexpr u64 known = incompatible_dirty | incompatible_corrupt | incompatible_compression |
                          incompatible_extended_l2;
    if (features & ~known)
        return fail(ENOTSUP, "qcow2 needs features that are not known here (incompatible bits " +
                                 std::to_string(features & ~known) + ")");
    return {};
}

/// A table of `bytes` at a cluster's beginning, inside what offsets can say.
bool table_fits(u64 offset, u64 bytes, u64 cluster) {
    return is_aligned(offset, cluster) && offset <= offset_mask && bytes <= offset_mask - offset;
}

Result<> parse_extensions(std::span<const u8> start, Header &h, u64 end) {
    u64 at = h.length;
    while (at + 8 <= end) {
        const u32 type = load_be<u32>(&start[at]), length = load_be<u32>(&start[at + 4]);
        if (type == extension_end)
            return {};
        at += 8;
        if (length > end - at)
            return malformed("an extension is longer than the room for it");
        const char *const text = reinterpret_cast<const char *>(&start[at]);
        if (type == extension_backing_format) {
            if (length > 255)
                return malformed("the backing format's name is too long");
            h.backing_format.assign(text, length);
        } else if (type == extension_bitmaps && length >= 24) {
            h.bitmap_directory_size = load_be<u64>(&start[at + 8]);
            h.bitmap_directory_offset = load_be<u64>(&start[at + 16]);
        }
        at += align_up(length, 8);
    }
    return {};
}

} // namespace

Result<Header> parse_header(std::span<const u8> start, u64 file_length) {
    if (start.size() < header_length_2)
        return fail(EINVAL, "too short for a qcow2 image");
    RawHeader raw{};
    std::memcpy(&raw, start.data(), std::min(start.size(), sizeof raw));
    if (raw.magic != magic)
        return fail(EINVAL, "not a qcow2 image");
    Header h;
    h.version = raw.version;
    if (h.version != 2 && h.version != 3)
        return fail(ENOTSUP, "qcow2 version " + std::to_string(h.version) + " is not known");
    h.length = header_length_2;
    if (h.version == 3) {
        h.length = raw.header_length;
        if (h.length < header_length_3 || !is_aligned(h.length, 8) || h.length > 65536)
            return malformed("length " + std::to_string(h.length));
        if (start.size() < h.length)
            return malformed("the file ends in it");
        TRY(check_features(raw));
        h.incompatible = raw.incompatible_features;
        h.compatible = raw.compatible_features;
        h.autoclear = raw.autoclear_features;
        h.refcount_order = raw.refcount_order;
        if (h.incompatible & incompatible_compression) {
            if (h.length <= header_length_3 || raw.compression_type > 1)
                return fail(ENOTSUP, "qcow2 compression type is not known");
            h.compression = static_cast<Compression>(raw.compression_type);
        }
    }
    if (raw.crypt_method != 0u)
        return fail(ENOTSUP, "encrypted qcow2 images are not supported");
    h.cluster_bits = raw.cluster_bits;
    if (h.cluster_bits < 9 || h.cluster_bits > 21)
        return malformed("cluster_bits " + std::to_string(h.cluster_bits) + ", not 9 to 21");
    if (h.extended() && h.cluster_bits < 14)
        return malformed("clusters too small for extended L2 entries");
    if (h.refcount_order > 6)
        return malformed("refcount_order " + std::to_string(h.refcount_order) + ", more than 6");
    const u64 cluster = h.cluster_size();
    h.size = raw.size;
    h.l1_entries = raw.l1_size;
    h.l1_offset = raw.l1_table_offset;
    if (h.size > u64{1} << 60 || h.l1_entries * u64{8} > max_l1_bytes ||
        (h.size + h.l1_span() - 1) / h.l1_span() > h.l1_entries ||
        !table_fits(h.l1_offset, h.l1_entries * u64{8}, cluster))
        return malformed("the L1 table's size or place");
    if (h.l1_entries && h.l1_offset == 0)
        return malformed("the L1 table's place");
    h.refcount_offset = raw.refcount_table_offset;
    h.refcount_clusters = raw.refcount_table_clusters;
    if (h.refcount_clusters == 0 || h.refcount_clusters > max_refcount_table_bytes / cluster + 1 ||
        h.refcount_offset == 0 ||
        !table_fits(h.refcount_offset, h.refcount_clusters * cluster, cluster))
        return malformed("the refcount table's size or place");
    h.snapshots = raw.nb_snapshots;
    h.snapshots_offset = raw.snapshots_offset;
    if (h.snapshots > max_snapshots || (h.snapshots && (!is_aligned(h.snapshots_offset, cluster) ||
                                                        h.snapshots_offset >= file_length)))
        return malformed("the snapshot table's size or place");
    const u64 name_at = raw.backing_file_offset, name_length = raw.backing_file_size;
    const u64 first = std::min<u64>(cluster, start.size());
    if (name_at) {
        if (name_length > 1023 || name_length == 0 || name_at > first ||
            name_length > first - name_at || name_at < h.length)
            return malformed("the backing file's name");
        h.backing_file_offset = name_at;
        h.backing_file.assign(reinterpret_cast<const char *>(&start[name_at]), name_length);
    }
    TRY(parse_extensions(start, h, name_at ? name_at : first));
    return h;
}

std::vector<u8> header_bytes(const Header &h) {
    RawHeader raw{};
    raw.magic = magic;
    raw.version = h.version;
    raw.backing_file_offset = h.backing_file_offset;
    raw.backing_file_size = static_cast<u32>(h.backing_file.size());
    raw.cluster_bits = h.cluster_bits;
    raw.size = h.size;
    raw.l1_size = h.l1_entries;
    raw.l1_table_offset = h.l1_offset;
    raw.refcount_table_offset = h.refcount_offset;
    raw.refcount_table_clusters = h.refcount_clusters;
    raw.nb_snapshots = h.snapshots;
    raw.snapshots_offset = h.snapshots_offset;
    raw.incompatible_features = h.incompatible;
    raw.compatible_features = h.compatible;
    raw.autoclear_features = h.autoclear;
    raw.refcount_order = h.refcount_order;
    raw.header_length = h.length;
    raw.compression_type = static_cast<u8>(h.compression);
    const u8 *const p = reinterpret_cast<const u8 *>(&raw);
    return {p, p + std::min<usize>(h.length, sizeof raw)};
}

Result<std::vector<u8>> header_cluster(const Header &given) {
    Header h = given;
    std::vector<u8> extensions;
    const auto put = [&](u32 type, std::string_view data) {
        u8 head[8];
        store_be<u32>(head, type);
        store_be<u32>(head + 4, static_cast<u32>(data.size()));
        extensions.insert(extensions.end(), head, head + 8);
        extensions.insert(extensions.end(), data.begin(), data.end());
        extensions.resize(align_up(extensions.size(), 8));
    };
    if (!h.backing_format.empty())
        put(extension_backing_format, h.backing_format);
    put(extension_end, {});
    h.backing_file_offset = h.backing_file.empty() ? 0 : h.length + extensions.size();
    if (h.length + extensions.size() + h.backing_file.size() > h.cluster_size())
        return fail(EINVAL, "the backing file's name does not fit into the first cluster");
    std::vector<u8> out = header_bytes(h);
    out.resize(h.length);
    out.insert(out.end(), extensions.begin(), extensions.end());
    out.insert(out.end(), h.backing_file.begin(), h.backing_file.end());
    out.resize(h.cluster_size());
    return out;
}

u64 load_refcount(const u8 *table, u64 index, u32 order) noexcept {
    switch (order) {
    case 3: return table[index];
    case 4: return load_be<u16>(table + index * 2);
    case 5: return load_be<u32>(table + index * 4);
    case 6: return load_be<u64>(table + index * 8);
    default: {
        const unsigned width = 1u << order, each = 8u >> order;
        return table[index / each] >> (index % each * width) & low_bits(width);
    }
    }
}

void store_refcount(u8 *table, u64 index, u32 order, u64 value) noexcept {
    switch (order) {
    case 3: table[index] = static_cast<u8>(value); break;
    case 4: store_be<u16>(table + index * 2, static_cast<u16>(value)); break;
    case 5: store_be<u32>(table + index * 4, static_cast<u32>(value)); break;
    case 6: store_be<u64>(table + index * 8, value); break;
    default: {
        const unsigned width = 1u << order, each = 8u >> order;
        const unsigned shift = static_cast<unsigned>(index % each) * width;
        u8 &byte = table[index / each];
        byte = static_cast<u8>((byte & ~(low_bits(width) << shift)) | value << shift);
    }
    }
}

// --- snapshots

namespace {
struct RawSnapshot {
    Be<u64> l1_table_offset;
    Be<u32> l1_size;
    Be<u16> id_size, name_size;
    Be<u32> date_sec, date_nsec;
    Be<u64> vm_clock_nsec;
    Be<u32> vm_state_size, extra_size;
};
static_assert(sizeof(RawSnapshot) == 40);
} // namespace

Result<std::vector<Snapshot>> parse_snapshots(std::span<const u8> table, u32 count) {
    std::vector<Snapshot> out;
    u64 at = 0;
    for (u32 i = 0; i < count; ++i) {
        RawSnapshot raw;
        if (at > table.size() || table.size() - at < sizeof raw)
            return fail(EINVAL, "malformed qcow2 snapshot table: it ends early");
        std::memcpy(&raw, &table[at], sizeof raw);
        at += sizeof raw;
        const u64 extra = raw.extra_size, id = raw.id_size, name = raw.name_size;
        if (extra > 1024 || table.size() - at < extra + id + name)
            return fail(EINVAL, "malformed qcow2 snapshot table: record " + std::to_string(i));
        Snapshot s;
        s.l1_offset = raw.l1_table_offset;
        s.l1_entries = raw.l1_size;
        s.seconds = raw.date_sec;
        s.nanoseconds = raw.date_nsec;
        s.vm_clock_ns = raw.vm_clock_nsec;
        s.vm_state_size = extra >= 8 ? load_be<u64>(&table[at]) : u64{raw.vm_state_size};
        s.disk_size = extra >= 16 ? load_be<u64>(&table[at + 8]) : 0;
        if (extra > 16)
            s.extra.assign(&table[at] + 16, &table[at] + extra);
        at += extra;
        s.id.assign(reinterpret_cast<const char *>(table.data()) + at, id);
        at += id;
        s.name.assign(reinterpret_cast<const char *>(table.data()) + at, name);
        at = align_up(at + name, 8);
        out.push_back(std::move(s));
    }
    return out;
}

std::vector<u8> snapshot_table(const std::vector<Snapshot> &snapshots) {
    std::vector<u8> out;
    for (const Snapshot &s : snapshots) {
        RawSnapshot raw{};
        raw.l1_table_offset = s.l1_offset;
        raw.l1_size = s.l1_entries;
        raw.id_size = static_cast<u16>(s.id.size());
        raw.name_size = static_cast<u16>(s.name.size());
        raw.date_sec = s.seconds;
        raw.date_nsec = s.nanoseconds;
        raw.vm_clock_nsec = s.vm_clock_ns;
        raw.vm_state_size = static_cast<u32>(std::min<u64>(s.vm_state_size, 0xffff'ffff));
        raw.extra_size = static_cast<u32>(16 + s.extra.size());
        const u8 *const p = reinterpret_cast<const u8 *>(&raw);
        out.insert(out.end(), p, p + sizeof raw);
        u8 extra[16];
        store_be<u64>(extra, s.vm_state_size);
        store_be<u64>(extra + 8, s.disk_size);
        out.insert(out.end(), extra, extra + 16);
        out.insert(out.end(), s.extra.begin(), s.extra.end());
        out.insert(out.end(), s.id.begin(), s.id.end());
        out.insert(out.end(), s.name.begin(), s.name.end());
        out.resize(align_up(out.size(), 8));
    }
    return out;
}

} // namespace rhea::block::qcow2
