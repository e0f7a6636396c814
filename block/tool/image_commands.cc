// create, resize, snapshot, check: what changes or verifies one image.
#include <cstdio>
#include <ctime>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "block/tool/tool.h"
#include "dm/config/key_value.h"

namespace rhea::tool {

using block::qcow2::Image;

int command_create(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "q u", "f o b F");
    const auto &operands = a.operands(1, 2);
    auto options = key_values(a.all("o"));
    std::string backing = a.value("b");
    if (backing.empty() && options.contains("backing_file"))
        backing = options["backing_file"];
    if (a.has("F"))
        options["backing_fmt"] = a.value("F");
    u64 size = 0;
    if (operands.size() == 2)
        size = config::parse_size(operands[1]);
    else if (options.contains("size"))
        size = config::parse_size(options["size"]);
    else if (backing.empty())
        throw ConfigError("SIZE is missing");
    options.erase("size");
    if (!backing.empty()) {
        if (a.value("f", "raw") == "raw")
            throw ConfigError("-b: raw images have no backing file (-f qcow2)");
        options["backing_file"] = backing;
        if (!a.has("u")) {
            if (!options.contains("backing_fmt"))
                throw ConfigError("-b " + backing +
                                  ": say its format as well (-F raw or -F qcow2)");
            const auto base = open(loop, block::backing_path(operands[0], backing),
                                   options["backing_fmt"], false, a);
            if (operands.size() < 2 && !size)
                size = base->length();
        } else if (!size) {
            throw ConfigError("SIZE is missing (with -u the backing file is not opened)");
        }
    }
    size = (size + 511) & ~u64{511};
    const std::string text = create_image(loop, operands[0], a.value("f", "raw"), size, options);
    if (!a.has("q"))
        std::printf("%s\n", text.c_str());
    return 0;
}

int command_resize(loop::Loop &loop, std::span<char *const> words) {
    const Arguments plain_words = [&] {
        // "-1G" is a size here, and no option: it is the last word.
        if (!words.empty() && words.back()[0] == '-' && words.back()[1] >= '0' &&
            words.back()[1] <= '9')
            return Arguments(words.first(words.size() - 1), "q shrink", "f");
        return Arguments(words, "q shrink", "f");
    }();
    const Arguments &a = plain_words;
    const std::string text = words.empty() ? "" : words.back();
    const std::string path = a.operands(1, 2)[0];
    if (text == path)
        throw ConfigError("SIZE is missing");
    const auto image = open(loop, path, a.value("f"), true, a);
    const bool relative = text[0] == '+' || text[0] == '-';
    const u64 amount = config::parse_size(std::string_view(text).substr(relative));
    const u64 old = image->length();
    if (text[0] == '-' && amount > old)
        throw ConfigError(text + ": the image has only " + human_size(old));
    const u64 want = text[0] == '+' ? old + amount : text[0] == '-' ? old - amount : amount;
    if (want < old && !a.has("shrink"))
        throw ConfigError("the image would lose its last " + human_size(old - want) +
                          ": --shrink says that this is meant");
    checked(loop.block_on(image->truncate(want)));
    checked(loop.block_on(image->close()));
    if (!a.has("q"))
        std::printf("Image resized.\n");
    return 0;
}

int command_snapshot(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "q l U force-share", "f c a d");
    const std::string path = a.operands(1, 1)[0];
    const int actions = a.has("l") + a.has("c") + a.has("a") + a.has("d");
    if (actions > 1)
        throw ConfigError("one of -l, -c, -a and -d at a time");
    const bool list = actions == 0 || a.has("l");
    const auto node = open(loop, path, a.value("f"), !list, a);
    Image *const image = as_qcow2(*node);
    if (!image)
        throw ConfigError(path + ": " + std::string(node->format()) + " has no snapshots");
    if (list) {
        if (image->snapshots().empty())
            return 0;
        std::printf("Snapshot list:\n%-8s  %-16s %10s  %19s\n", "ID", "TAG", "VM SIZE", "DATE");
        for (const auto &s : image->snapshots()) {
            const std::time_t t = s.seconds;
            char date[32];
            std::tm tm{};
            std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", localtime_r(&t, &tm));
            std::printf("%-8s  %-16s %10s  %19s\n", s.id.c_str(), s.name.c_str(),
                        human_size(s.vm_state_size).c_str(), date);
        }
        return 0;
    }
    timespec t{};
    clock_gettime(CLOCK_REALTIME, &t);
    Result<> r;
    std::string name;
    if (a.has("c")) {
        name = a.value("c");
        for (const auto &s : image->snapshots())
            if (s.name == name)
                throw ConfigError(path + ": has a snapshot '" + name + "' already");
        r = loop.block_on(
            image->snapshot_create(name, static_cast<u32>(t.tv_sec), static_cast<u32>(t.tv_nsec)));
    } else if (a.has("a")) {
        r = loop.block_on(image->snapshot_apply(name = a.value("a")));
    } else {
        r = loop.block_on(image->snapshot_delete(name = a.value("d")));
    }
    if (!r)
        throw ConfigError(path + ": snapshot '" + name + "': " + r.error().what);
    checked(loop.block_on(image->close()));
    return 0;
}

int command_check(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "q U force-share", "f r output");
    const std::string path = a.operands(1, 1)[0];
    const std::string repair = a.value("r");
    if (a.has("r") && repair != "leaks" && repair != "all")
        throw ConfigError("-r " + repair + ": neither leaks nor all");
    block::OpenOptions o;
    o.format = a.value("f");
    o.file.read_only = !a.has("r");
    o.file.share_writers = o.file.read_only && (a.has("U") || a.has("force-share"));
    o.backing = false;
    o.check = true;
    o.warn = false;
    const auto node = checked(block::open_image(loop, path, o));
    Image *const image = as_qcow2(*node);
    if (!image) {
        std::fprintf(stderr, "rhea-img: %s: %s images hold nothing to check\n", path.c_str(),
                     std::string(node->format()).c_str());
        return 63;
    }
    const auto r =
        checked(loop.block_on(image->check(repair == "all"     ? block::qcow2::Repair::all
                                           : repair == "leaks" ? block::qcow2::Repair::leaks
                                                               : block::qcow2::Repair::nothing)));
    if (a.has("r"))
        checked(loop.block_on(image->close()));
    if (a.json()) {
        nlohmann::ordered_json j{{"image-end-offset", r.image_end},
                                 {"total-clusters", r.total_clusters},
                                 {"check-errors", 0},
                                 {"allocated-clusters", r.allocated_clusters},
                                 {"filename", path},
                                 {"format", "qcow2"}};
        const auto some = [&](const char *key, u64 v) {
            if (v)
                j[key] = v;
        };
        some("corruptions", r.corruptions);
        some("corruptions-fixed", r.corruptions_fixed);
        some("leaks", r.leaks);
        some("leaks-fixed", r.leaks_fixed);
        some("fragmented-clusters", r.fragmented_clusters);
        some("compressed-clusters", r.compressed_clusters);
        std::printf("%s\n", j.dump(4).c_str());
    } else {
        for (const std::string &m : r.messages)
            std::printf("%s\n", m.c_str());
        if (r.leaks_fixed + r.corruptions_fixed)
            std::printf("The following inconsistencies were found and repaired:\n\n"
                        "    %llu leaked clusters\n    %llu corruptions\n\n",
                        static_cast<unsigned long long>(r.leaks_fixed),
                        static_cast<unsigned long long>(r.corruptions_fixed));
        if (r.corruptions)
            std::printf("\n%llu errors were found on the image.\nData may be corrupted, or further "
                        "writes to the image may corrupt it.\n",
                        static_cast<unsigned long long>(r.corruptions));
        if (r.leaks)
            std::printf("\n%llu leaked clusters were found on the image.\nThis means waste of disk "
                        "space, but no harm to data.\n",
                        static_cast<unsigned long long>(r.leaks));
        if (!a.has("q")) {
            if (!r.corruptions && !r.leaks)
                std::printf("No errors were found on the image.\n");
            const auto percent = [](u64 part, u64 of) {
                return of ? 100.0 * static_cast<double>(part) / static_cast<double>(of) : 0.0;
            };
            if (r.total_clusters)
                std::printf("%llu/%llu = %.2f%% allocated, %.2f%% fragmented, %.2f%% compressed "
                            "clusters\n",
                            static_cast<unsigned long long>(r.allocated_clusters),
                            static_cast<unsigned long long>(r.total_clusters),
                            percent(r.allocated_clusters, r.total_clusters),
                            percent(r.fragmented_clusters, r.allocated_clusters),
                            percent(r.compressed_clusters, r.allocated_clusters));
            std::printf("Image end offset: %llu\n", static_cast<unsigned long long>(r.image_end));
        }
    }
    return r.corruptions ? 2 : r.leaks ? 3 : 0;
}

} // namespace rhea::tool
