#include "block/tool/tool.h"

#include <csignal>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include "dm/config/key_value.h"

namespace rhea::tool {

namespace {

std::vector<std::string> words_of(std::string_view text) {
    std::vector<std::string> out;
    for (usize at = 0; at < text.size();) {
        const usize end = std::min(text.find(' ', at), text.size());
        if (end > at)
            out.emplace_back(text.substr(at, end - at));
        at = end + 1;
    }
    return out;
}

bool among(const std::vector<std::string> &list, const std::string &name) {
    return std::ranges::find(list, name) != list.end();
}

} // namespace

Arguments::Arguments(std::span<char *const> words, std::string_view flags,
                     std::string_view valued) {
    const auto plain = words_of(flags), with = words_of(valued);
    bool options = true;
    for (usize i = 0; i < words.size(); ++i) {
        const std::string word = words[i];
        if (!options || word.size() < 2 || word[0] != '-') {
            operands_.push_back(word);
            continue;
        }
        if (word == "--") {
            options = false;
            continue;
        }
        const auto argument = [&](const std::string &shown) -> std::string {
            if (++i == words.size())
                throw ConfigError(shown + ": an argument is missing");
            return words[i];
        };
        if (word.starts_with("--")) {
            const usize eq = word.find('=');
            const std::string name = word.substr(2, eq == std::string::npos ? eq : eq - 2);
            if (among(with, name))
                values_[name].push_back(eq == std::string::npos ? argument("--" + name)
                                                                : word.substr(eq + 1));
            else if (among(plain, name) && eq == std::string::npos)
                values_[name].emplace_back();
            else {
                std::vector<std::string_view> known;
                for (const auto *list : {&plain, &with})
                    for (const std::string &k : *list)
                        if (k.size() > 1)
                            known.push_back(k);
                throw ConfigError("--" + name + ": no such option" +
                                  config::did_you_mean(name, known));
            }
            continue;
        }
        for (usize c = 1; c < word.size(); ++c) {
            const std::string name(1, word[c]);
            if (among(plain, name)) {
                values_[name].emplace_back();
            } else if (among(with, name)) {
                values_[name].push_back(c + 1 < word.size() ? word.substr(c + 1)
                                                            : argument("-" + name));
                break;
            } else {
                throw ConfigError("-" + name + ": no such option of this command");
            }
        }
    }
}

std::string Arguments::value(std::string_view name, std::string_view otherwise) const {
    const auto i = values_.find(std::string(name));
    return i == values_.end() ? std::string(otherwise) : i->second.back();
}

std::vector<std::string> Arguments::all(std::string_view name) const {
    const auto i = values_.find(std::string(name));
    return i == values_.end() ? std::vector<std::string>{} : i->second;
}

const std::vector<std::string> &Arguments::operands(usize least, usize most) const {
    if (operands_.size() < least)
        throw ConfigError("a file name is missing");
    if (operands_.size() > most)
        throw ConfigError("'" + operands_[most] + "': one argument too many");
    return operands_;
}

bool Arguments::json() const {
    const std::string v = value("output", "human");
    if (v != "json" && v != "human")
        throw ConfigError("--output=" + v + ": neither human nor json");
    return v == "json";
}

std::map<std::string, std::string> key_values(const std::vector<std::string> &options) {
    std::map<std::string, std::string> out;
    for (const std::string &o : options)
        for (const auto &item : config::split(o))
            out[item.key] = item.value;
    return out;
}

std::unique_ptr<block::Node> open(loop::Loop &loop, const std::string &path,
                                  const std::string &format, bool writable,
                                  const Arguments &arguments, bool backing) {
    block::OpenOptions o;
    o.format = format;
    o.file.read_only = !writable;
    o.file.share_writers = !writable && (arguments.has("U") || arguments.has("force-share"));
    o.backing = backing;
    return checked(block::open_image(loop, path, o));
}

block::qcow2::Image *as_qcow2(block::Node &node) noexcept {
    return node.format() == "qcow2" ? static_cast<block::qcow2::Image *>(&node) : nullptr;
}

std::string human_size(u64 bytes) {
    static constexpr const char *units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = static_cast<double>(bytes);
    usize i = 0;
    while (v >= 1000 && i < 6) { // three digits before the point at most
        v /= 1024;
        ++i;
    }
    return fmt::format("{:.3g} {}", v, units[i]);
}

// --- progress

namespace {

volatile std::sig_atomic_t asked_for_progress = 0;

i64 now() {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000'000 + t.tv_nsec;
}

} // namespace

Progress::Progress(bool shown, u64 total) : shown_(shown), total_(total), begin_(now()) {
    struct sigaction a {};
    a.sa_handler = [](int) { asked_for_progress = 1; };
    a.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &a, nullptr);
    if (shown_)
        draw(!isatty(STDOUT_FILENO));
}

Progress::~Progress() {
    if (!shown_)
        return;
    draw(!isatty(STDOUT_FILENO));
    if (isatty(STDOUT_FILENO))
        std::printf("\n");
    std::fflush(stdout);
}

void Progress::add(u64 bytes) {
    done_ += bytes;
    if (asked_for_progress) {
        asked_for_progress = 0;
        draw(true);
    } else if (shown_ && isatty(STDOUT_FILENO) && now() - drawn_ > 200'000'000) {
        draw(false);
    }
}

void Progress::draw(bool line) {
    drawn_ = now();
    const double part = total_ ? static_cast<double>(done_) / static_cast<double>(total_) : 1.0;
    const double seconds = static_cast<double>(drawn_ - begin_) / 1e9;
    std::string more;
    if (seconds > 0.5 && done_ < total_ && done_)
        more = fmt::format(" {}/s, {:.0f} s left",
                           human_size(static_cast<u64>(static_cast<double>(done_) / seconds)),
                           seconds / part * (1 - part));
    std::printf("    (%.2f/100%%)%s%s", part * 100, more.c_str(), line ? "\n" : "\033[K\r");
    std::fflush(stdout);
}

// --- creating

std::string create_image(loop::Loop &loop, const std::string &path, const std::string &format,
                         u64 size, std::map<std::string, std::string> options) {
    using namespace block;
    const auto take = [&](const char *key, std::string otherwise) {
        const auto i = options.find(key);
        if (i == options.end())
            return otherwise;
        std::string v = i->second;
        options.erase(i);
        return v;
    };
    const std::string preallocation = take("preallocation", "off");
    if (preallocation != "off" && preallocation != "falloc" && preallocation != "full" &&
        preallocation != "metadata")
        throw ConfigError("preallocation=" + preallocation + ": off, metadata, falloc or full");
    qcow2::CreateOptions c;
    c.size = size;
    if (format == "qcow2") {
        if (preallocation != "off")
            throw ConfigError("preallocation=" + preallocation + ": not for qcow2 (only off)");
        c.cluster_size = config::parse_size(take("cluster_size", "65536"));
        const std::string compat = take("compat", "1.1");
        if (compat != "1.1" && compat != "v3" && compat != "0.10" && compat != "v2")
            throw ConfigError("compat=" + compat + ": neither 1.1 nor 0.10");
        c.version = compat == "1.1" || compat == "v3" ? 3 : 2;
        c.refcount_bits = static_cast<u32>(config::parse_number(take("refcount_bits", "16"), 64));
        c.lazy_refcounts = config::parse_switch(take("lazy_refcounts", "off"));
        if (config::parse_switch(take("extended_l2", "off")))
            throw ConfigError("extended_l2=on: such images are only read");
        const std::string compression = take("compression_type", "zlib");
        if (compression != "zlib" && compression != "zstd")
            throw ConfigError("compression_type=" + compression + ": neither zlib nor zstd");
        c.compression = compression == "zstd" ? qcow2::Compression::zstd : qcow2::Compression::zlib;
        c.backing_file = take("backing_file", "");
        c.backing_format = take("backing_fmt", "");
    } else if (format == "raw") {
        if (preallocation == "metadata")
            throw ConfigError("preallocation=metadata: raw has none (off, falloc or full)");
    } else {
        throw ConfigError("format " + format + ": cannot be created" +
                          config::did_you_mean(format, known_formats()) +
                          " (known: " + config::join(known_formats()) + ")");
    }
    if (!options.empty())
        throw ConfigError("-o " + options.begin()->first + ": " + format +
                          " images have no such option");

    // Truncated only when it is locked: a file that a guest uses stays as it is.
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0)
        throw ConfigError(to_string(fail_errno(path).value()));
    FileOptions file_options;
    file_options.growable = true;
    file_options.no_flush = true;
    std::unique_ptr<Node> file = checked(FileNode::adopt(loop, fd, path, file_options));
    const bool device = file->format() == "host_device";
    if (!device)
        checked(loop.block_on(file->truncate(0)));
    if (format == "raw") {
        if (device) {
            if (file->length() < size)
                throw ConfigError(path + ": the device is smaller than " + human_size(size));
        } else {
            checked(loop.block_on(file->truncate(size)));
        }
        const int error =
            preallocation == "off" || !size ? 0 : posix_fallocate(fd, 0, static_cast<off_t>(size));
        if (error)
            throw ConfigError(to_string({error, path + ": preallocation"}));
        return fmt::format("Formatting '{}', fmt=raw size={}", path, size);
    }
    checked(loop.block_on(qcow2::Image::create(loop, file, c)));
    return fmt::format("Formatting '{}', fmt=qcow2 cluster_size={} extended_l2=off "
                       "compression_type={} size={}{}{} lazy_refcounts={} refcount_bits={}",
                       path, c.cluster_size,
                       c.compression == qcow2::Compression::zstd ? "zstd" : "zlib", size,
                       c.backing_file.empty() ? "" : " backing_file=" + c.backing_file,
                       c.backing_format.empty() ? "" : " backing_fmt=" + c.backing_format,
                       c.lazy_refcounts ? "on" : "off", c.refcount_bits);
}

} // namespace rhea::tool
