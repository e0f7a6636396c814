#include "block/open.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/probed_raw.h"
#include "block/qcow2/image.h"
#include "dm/config/key_value.h"
#include "dm/core/config_error.h"
#include "dm/core/log.h"

namespace rhea::block {

namespace {

constexpr std::string_view formats[] = {"raw", "qcow2"};
constexpr usize longest_chain = 256;

using Identity = std::pair<dev_t, ino_t>;

Result<std::string_view> probe_file(const std::string &path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail_errno(path);
    std::array<u8, sector_size> start{};
    const ssize_t n = ::pread(fd, start.data(), start.size(), 0);
    const int code = errno;
    ::close(fd);
    if (n < 0)
        return fail(code, path);
    return probe_format(std::span<const u8>(start).first(static_cast<usize>(n)));
}

Result<std::unique_ptr<Node>> open_chain(loop::Loop &loop, const std::string &path,
                                         const OpenOptions &options, std::vector<Identity> &seen) {
    struct stat s {};
    if (stat(path.c_str(), &s) != 0)
        return fail_errno(path);
    const Identity identity{s.st_dev, s.st_ino};
    if (std::ranges::find(seen, identity) != seen.end())
        return fail(ELOOP, path + ": the chain of backing files leads back to it");
    if (seen.size() >= longest_chain)
        return fail(ELOOP, path + ": the chain of backing files is too long");
    seen.push_back(identity);

    std::string format = options.format;
    if (format == "host_device" || format == "file")
        format = "raw";
    const bool probed = format.empty();
    if (probed)
        format = TRY(probe_file(path));
    else if (std::ranges::find(formats, format) == std::end(formats))
        return fail(EINVAL, path + ": unknown format '" + format + "'" +
                                config::did_you_mean(format, formats) +
                                " (known: " + config::join(formats) + ")");
    FileOptions file_options = options.file;
    file_options.growable = format != "raw";
    std::unique_ptr<Node> file = TRY(FileNode::open(loop, path, file_options));
    if (format == "raw") {
        if (!probed || file->read_only())
            return file;
        if (options.warn)
            RHEA_LOG(warning,
                     "%s: its format is not given and taken as raw; writes to its first sector "
                     "are restricted. Say format=raw to be rid of both.",
                     path.c_str());
        return std::make_unique<ProbedRaw>(std::move(file));
    }
    qcow2::ImageOptions o;
    o.read_only = options.file.read_only;
    o.unmap = options.file.unmap;
    o.check = options.check;
    std::unique_ptr<Node> node = TRY(loop.block_on(qcow2::Image::open(loop, file, o)));
    auto &image = static_cast<qcow2::Image &>(*node);
    const std::string &backing = image.header().backing_file;
    if (backing.empty() || !options.backing)
        return node;
    OpenOptions below = options;
    below.format = image.header().backing_format;
    below.file.read_only = true;
    below.check = false;
    auto base = open_chain(loop, backing_path(path, backing), below, seen);
    if (!base)
        return fail(base.error().code, path + ": its backing file: " + base.error().what);
    image.set_backing(std::move(*base));
    return node;
}

} // namespace

std::string_view probe_format(std::span<const u8> start) noexcept {
    if (start.size() >= 8 && load_be<u32>(start.data()) == qcow2::magic) {
        const u32 version = load_be<u32>(start.data() + 4);
        if (version == 2 || version == 3)
            return "qcow2";
    }
    return "raw";
}

std::span<const std::string_view> known_formats() noexcept {
    return formats;
}

std::string backing_path(const std::string &image, const std::string &backing) {
    const usize slash = image.rfind('/');
    if (backing.starts_with('/') || slash == std::string::npos)
        return backing;
    return image.substr(0, slash + 1) + backing;
}

Result<std::unique_ptr<Node>> open_image(loop::Loop &loop, const std::string &path,
                                         const OpenOptions &options) {
    std::vector<Identity> seen;
    return open_chain(loop, path, options, seen);
}

FileOptions cache_mode(std::string_view cache) {
    constexpr std::string_view known[] = {"none", "writeback", "writethrough", "directsync",
                                          "unsafe"};
    if (std::ranges::find(known, cache) == std::end(known))
        throw ConfigError("cache=" + std::string(cache) + ": no such mode" +
                          config::did_you_mean(cache, known) + " (known: " + config::join(known) +
                          ")");
    FileOptions o;
    o.direct = cache == "none" || cache == "directsync";
    o.write_through = cache == "writethrough" || cache == "directsync";
    o.no_flush = cache == "unsafe";
    return o;
}

std::unique_ptr<Node> open_drive(loop::Loop &loop, const DriveOptions &options) {
    if (options.file.empty())
        throw ConfigError("file=: which image?");
    constexpr std::string_view aio[] = {"io_uring", "native", "threads"};
    if (std::ranges::find(aio, options.aio) == std::end(aio))
        throw ConfigError("aio=" + options.aio + ": no such way (known: " + config::join(aio) +
                          ")");
    OpenOptions o;
    o.format = options.format;
    o.file = cache_mode(options.cache);
    if (options.discard == "unmap" || options.discard == "on")
        o.file.unmap = true;
    else if (options.discard == "ignore" || options.discard == "off")
        o.file.unmap = false;
    else
        throw ConfigError("discard=" + options.discard + ": neither unmap nor ignore");
    o.file.read_only = options.readonly || options.snapshot;
    auto node = open_image(loop, options.file, o);
    if (node && options.snapshot && !options.readonly)
        node = temporary_overlay(loop, std::move(*node));
    if (!node)
        throw ConfigError("file=" + options.file + ": " + to_string(node.error()));
    return std::move(*node);
}

Result<std::unique_ptr<Node>> temporary_overlay(loop::Loop &loop, std::unique_ptr<Node> base) {
    const char *const directory = std::getenv("TMPDIR");
    std::string path =
        std::string(directory && *directory ? directory : "/var/tmp") + "/rhea-snapshot-XXXXXX";
    const int fd = mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0)
        return fail_errno(path);
    ::unlink(path.c_str());
    FileOptions options;
    options.growable = true;
    options.no_flush = true; // nobody will look at it again
    options.lock = false;
    std::unique_ptr<Node> file = TRY(FileNode::adopt(loop, fd, path, options));
    qcow2::CreateOptions create;
    create.size = base->length();
    TRY(loop.block_on(qcow2::Image::create(loop, file, create)));
    std::unique_ptr<Node> node = TRY(loop.block_on(qcow2::Image::open(loop, file, {})));
    static_cast<qcow2::Image &>(*node).set_backing(std::move(base));
    return node;
}

} // namespace rhea::block
