// info, map, compare: what only reads images.
#include <cstdio>
#include <cstring>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "block/tool/tool.h"
#include "block/vectors.h"
#include "dm/config/key_value.h"

namespace rhea::tool {

using block::Extent;
using block::Node;
using block::qcow2::Image;
using Json = nlohmann::ordered_json;

namespace {

u64 disk_usage(const std::string &path) {
    struct stat s {};
    return stat(path.c_str(), &s) == 0 ? static_cast<u64>(s.st_blocks) * 512 : 0;
}

Json describe_json(Node &node, const std::string &path) {
    Json j;
    j["virtual-size"] = node.length();
    j["filename"] = path;
    j["format"] = node.format() == "file" || node.format() == "host_device" ? "raw" : node.format();
    j["actual-size"] = disk_usage(path);
    j["dirty-flag"] = false;
    const Image *const image = as_qcow2(node);
    if (!image)
        return j;
    const auto &h = image->header();
    j["cluster-size"] = h.cluster_size();
    j["dirty-flag"] = bool(h.incompatible & block::qcow2::incompatible_dirty);
    if (!h.backing_file.empty()) {
        j["backing-filename"] = h.backing_file;
        j["full-backing-filename"] = block::backing_path(path, h.backing_file);
        if (!h.backing_format.empty())
            j["backing-filename-format"] = h.backing_format;
    }
    for (const auto &s : image->snapshots())
        j["snapshots"].push_back({{"id", s.id},
                                  {"name", s.name},
                                  {"vm-state-size", s.vm_state_size},
                                  {"date-sec", s.seconds},
                                  {"date-nsec", s.nanoseconds},
                                  {"vm-clock-sec", s.vm_clock_ns / 1'000'000'000},
                                  {"vm-clock-nsec", s.vm_clock_ns % 1'000'000'000}});
    Json data;
    data["compat"] = h.version == 3 ? "1.1" : "0.10";
    data["compression-type"] = h.compression == block::qcow2::Compression::zstd ? "zstd" : "zlib";
    if (h.version == 3)
        data["lazy-refcounts"] = bool(h.compatible & block::qcow2::compatible_lazy_refcounts);
    data["refcount-bits"] = 1u << h.refcount_order;
    if (h.version == 3) {
        data["corrupt"] = bool(h.incompatible & block::qcow2::incompatible_corrupt);
        data["extended-l2"] = h.extended();
    }
    j["format-specific"] = {{"type", "qcow2"}, {"data", data}};
    return j;
}

void print_human(const Json &j) {
    const u64 size = j["virtual-size"];
    std::printf("image: %s\nfile format: %s\nvirtual size: %s (%llu bytes)\ndisk size: %s\n",
                j["filename"].get<std::string>().c_str(), j["format"].get<std::string>().c_str(),
                human_size(size).c_str(), static_cast<unsigned long long>(size),
                human_size(j["actual-size"]).c_str());
    if (j.contains("cluster-size"))
        std::printf("cluster_size: %llu\n", j["cluster-size"].get<unsigned long long>());
    if (j.contains("backing-filename")) {
        const std::string name = j["backing-filename"], full = j["full-backing-filename"];
        std::printf("backing file: %s%s\n", name.c_str(),
                    name == full ? "" : (" (actual path: " + full + ")").c_str());
        if (j.contains("backing-filename-format"))
            std::printf("backing file format: %s\n",
                        j["backing-filename-format"].get<std::string>().c_str());
    }
    if (j.contains("snapshots")) {
        std::printf("Snapshot list:\n%-8s  %-16s %10s\n", "ID", "TAG", "VM SIZE");
        for (const auto &s : j["snapshots"])
            std::printf("%-8s  %-16s %10s\n", s["id"].get<std::string>().c_str(),
                        s["name"].get<std::string>().c_str(),
                        human_size(s["vm-state-size"]).c_str());
    }
    if (!j.contains("format-specific"))
        return;
    std::printf("Format specific information:\n");
    for (const auto &[key, value] : j["format-specific"]["data"].items()) {
        std::string shown = key;
        std::ranges::replace(shown, '-', ' ');
        std::printf("    %s: %s\n", shown.c_str(),
                    value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
    }
}

} // namespace

int command_info(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "backing-chain U force-share", "f output");
    std::string path = a.operands(1, 1)[0];
    block::OpenOptions o;
    o.format = a.value("f");
    o.file.read_only = true;
    o.file.share_writers = a.has("U") || a.has("force-share");
    o.backing = a.has("backing-chain"); // which also finds chains that loop
    const auto top = checked(block::open_image(loop, path, o));
    Json list = Json::array();
    for (Node *n = top.get(); n; n = n->backing()) {
        list.push_back(describe_json(*n, path));
        if (const Image *const image = as_qcow2(*n))
            path = block::backing_path(path, image->header().backing_file);
        if (!a.has("backing-chain"))
            break;
    }
    if (a.json()) {
        std::printf("%s\n", (a.has("backing-chain") ? list : list[0]).dump(4).c_str());
        return 0;
    }
    for (usize i = 0; i < list.size(); ++i) {
        if (i)
            std::printf("\n");
        print_human(list[i]);
    }
    return 0;
}

int command_map(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "U force-share", "f output start-offset s max-length l");
    const std::string path = a.operands(1, 1)[0];
    const auto top = open(loop, path, a.value("f"), false, a);
    u64 at = config::parse_size(a.value("start-offset", a.value("s", "0")));
    const std::string length = a.value("max-length", a.value("l"));
    const u64 most = length.empty() ? ~u64{0} : config::parse_size(length);
    const u64 end = at < top->length() ? at + std::min(most, top->length() - at) : at;
    struct Piece {
        u64 start = 0;
        Extent extent;
        u64 depth = 0;
        const Node *node = nullptr;
        bool present = false;
    };
    std::vector<Piece> pieces;
    for (; at < end;) {
        Piece p{at, {}, 0, top.get(), true};
        u64 n = end - at;
        for (Node *node = top.get();;) {
            p.extent = checked(loop.block_on(node->block_status(at, n)));
            p.node = node;
            n = p.extent.length;
            Node *const below = node->backing();
            if (p.extent.allocated || !below)
                break;
            if (at >= below->length()) {
                p.extent.zero = true;
                break;
            }
            node = below;
            ++p.depth;
        }
        p.present = p.extent.allocated;
        // Where a file below has a hole.
        if (Node *const file = p.node->file();
            file && p.extent.has_offset && !p.extent.zero && p.extent.offset < file->length()) {
            const auto e = checked(loop.block_on(file->block_status(p.extent.offset, n)));
            p.extent.zero = e.zero;
            p.extent.length = std::min(p.extent.length, e.length);
        }
        at += p.extent.length;
        if (!pieces.empty()) {
            Piece &last = pieces.back();
            const Extent &x = last.extent, &y = p.extent;
            if (last.depth == p.depth && last.present == p.present && x.zero == y.zero &&
                x.compressed == y.compressed && x.has_offset == y.has_offset &&
                (!x.has_offset || x.offset + x.length == y.offset)) {
                last.extent.length += p.extent.length;
                continue;
            }
        }
        pieces.push_back(p);
    }
    if (a.json()) {
        std::string text;
        for (const Piece &p : pieces) {
            Json j{{"start", p.start},      {"length", p.extent.length},
                   {"depth", p.depth},      {"present", p.present},
                   {"zero", p.extent.zero}, {"data", p.present && !p.extent.zero}};
            j["compressed"] = p.extent.compressed;
            if (p.extent.has_offset)
                j["offset"] = p.extent.offset;
            text += (text.empty() ? "[" : ",\n") + j.dump();
        }
        std::printf("%s]\n", text.empty() ? "[" : text.c_str());
        return 0;
    }
    std::printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    for (const Piece &p : pieces)
        if (p.present && !p.extent.zero && p.extent.has_offset)
            std::printf("%-16s%-16s%-16s%s\n", fmt::format("{:#x}", p.start).c_str(),
                        fmt::format("{:#x}", p.extent.length).c_str(),
                        fmt::format("{:#x}", p.extent.offset).c_str(), p.node->name().c_str());
    return 0;
}

namespace {

/// The first byte from `at` on that differs, or `end`.
loop::Task<u64> difference(Node &a, Node &b, u64 end, Progress &progress) {
    constexpr u64 piece = u64{1} << 20;
    block::Buffer x(piece), y(piece);
    for (u64 at = 0; at < end; at += piece) {
        const u64 n = std::min(piece, end - at);
        const auto read = [&](Node &node, block::Buffer &to) -> loop::Task<> {
            const u64 there = at < node.length() ? std::min(n, node.length() - at) : 0;
            if (there)
                co_await node.read(at, to.span().first(there));
            std::memset(to.data() + there, 0, n - there);
        };
        co_await read(a, x);
        co_await read(b, y);
        if (std::memcmp(x.data(), y.data(), n) != 0) {
            u64 i = 0;
            while (x.data()[i] == y.data()[i])
                ++i;
            co_return at + i;
        }
        progress.add(n);
    }
    co_return end;
}

} // namespace

int command_compare(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "s q p U force-share", "f F");
    const auto &files = a.operands(2, 2);
    const auto first = open(loop, files[0], a.value("f"), false, a);
    const auto second = open(loop, files[1], a.value("F"), false, a);
    const bool same_size = first->length() == second->length();
    if (!same_size && a.has("s")) {
        if (!a.has("q"))
            std::printf("Strict mode: Image size mismatch!\n");
        return 1;
    }
    const u64 end = std::max(first->length(), second->length());
    u64 at = 0;
    {
        Progress progress(a.has("p"), end);
        at = checked(loop.block_on(difference(*first, *second, end, progress)));
    }
    if (at < end) {
        if (!a.has("q"))
            std::printf("Content mismatch at offset %llu!\n", static_cast<unsigned long long>(at));
        return 1;
    }
    if (!a.has("q")) {
        if (!same_size)
            std::printf("Warning: Image size mismatch!\n");
        std::printf("Images are identical.\n");
    }
    return 0;
}

} // namespace rhea::tool
