// convert: one image into another, several pieces at a time, holes staying holes.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "block/qcow2/compress.h"
#include "block/sync.h"
#include "block/tool/tool.h"
#include "block/tool/worker_pool.h"
#include "block/vectors.h"
#include "dm/config/key_value.h"

namespace rhea::tool {

namespace {

using block::Buffer;
using block::Extent;
using block::Node;
using loop::Task;

constexpr u64 piece_size = u64{2} << 20;

/// What reading finds at a place, through the chain of backing images.
Task<Extent> status_through(Node &top, u64 at, u64 n) {
    Node *node = &top;
    for (;;) {
        Extent e = co_await node->block_status(at, n);
        n = e.length;
        Node *const below = node->backing();
        if (e.allocated && !e.zero && e.has_offset && node->file() &&
            e.offset < node->file()->length()) { // a hole in the file below
            const Extent under = co_await node->file()->block_status(e.offset, n);
            e.length = std::min(e.length, under.length);
            e.zero = under.zero;
        }
        if (e.allocated || !below || at >= below->length())
            co_return e;
        n = std::min(n, below->length() - at);
        node = below;
    }
}

class Conversion {
public:
    struct Settings {
        u64 grain = 4096; // runs of zeroes of this length, at multiples of it, are not written
        bool skip_zeroes = true;
        bool target_zero = true; // what is not written reads as zeroes there
        bool compress = false;
        unsigned pieces = 8; // at a time
    };
    Conversion(loop::Loop &loop, Node &from, Node &to, const Settings &settings, Progress &progress)
        : loop_(loop), from_(from), to_(to), set_(settings), progress_(progress), taking_(loop) {
        if (!set_.compress)
            return;
        auto *const image = as_qcow2(to);
        const unsigned threads = std::max(1u, std::thread::hardware_concurrency());
        for (unsigned i = 0; i < threads; ++i)
            compressors_.push_back(
                std::make_unique<block::qcow2::Compressor>(image->header().compression));
        pool_ = std::make_unique<WorkerPool>(loop, threads);
        set_.grain = image->header().cluster_size();
    }

    Result<> run() {
        loop::TaskGroup group(loop_);
        for (unsigned i = 0; i < set_.pieces; ++i)
            group.spawn(worker());
        return group.join();
    }

private:
    struct Piece {
        u64 at = 0, length = 0;
        bool zero = false;
    };

    Task<Piece> next() {
        Piece p{next_, 0, false};
        const u64 end = std::min(from_.length(), to_.length());
        if (next_ >= end)
            co_return p;
        // Pieces end at multiples of their size, so that clusters are written whole.
        const u64 most = std::min(end, (next_ & ~(piece_size - 1)) + piece_size) - next_;
        const Extent e = co_await status_through(from_, next_, end - next_);
        p.zero = e.zero && set_.skip_zeroes && set_.target_zero;
        p.length = p.zero ? e.length : std::min(most, align_up(e.length, set_.grain));
        // A hole's border inside of a grain: the grain counts as data.
        if (p.zero && next_ + p.length < end) {
            const u64 whole = align_down(next_ + p.length, set_.grain);
            p.zero = whole > next_;
            p.length = p.zero ? whole - next_ : std::min(most, set_.grain);
        }
        next_ += p.length;
        co_return p;
    }

    Task<> worker() {
        Buffer buffer(piece_size);
        while (!failed_) {
            co_await taking_.acquire();
            auto taking = next();
            const auto p = co_await taking.caught();
            taking_.release();
            if (p && !p->length)
                co_return;
            Result<> r;
            if (!p) {
                r = tl::unexpected(p.error());
            } else if (!p->zero) {
                auto task = copy(p->at, buffer.span().first(p->length));
                r = co_await task.caught();
            }
            if (!r) {
                failed_ = true;
                co_await loop::raise(r.error());
            }
            progress_.add(p->length);
        }
    }

    Task<> copy(u64 at, std::span<u8> data) {
        co_await from_.read(at, data);
        if (set_.compress) {
            co_await copy_compressed(at, data);
            co_return;
        }
        if (!set_.skip_zeroes) {
            co_await to_.write(at, std::span<const u8>(data));
            co_return;
        }
        for (u64 i = 0; i < data.size();) {
            const bool zero = zero_grain(data, i);
            u64 end = i;
            do
                end = std::min(align_up(at + end + 1, set_.grain) - at, u64{data.size()});
            while (end < data.size() && zero_grain(data, end) == zero);
            const auto run = data.subspan(i, end - i);
            if (!zero)
                co_await to_.write(at + i, std::span<const u8>(run));
            else if (!set_.target_zero)
                co_await to_.write_zeroes(at + i, run.size(), true);
            i = end;
        }
    }

    bool zero_grain(std::span<const u8> data, u64 i) const {
        return block::is_zero(data.subspan(i, std::min(set_.grain, data.size() - i)));
    }

    Task<> copy_compressed(u64 at, std::span<u8> data) {
        auto *const image = as_qcow2(to_);
        const u64 cluster = set_.grain;
        const usize count = (data.size() + cluster - 1) / cluster;
        struct Cluster {
            Buffer out;
            usize length = 0;
            bool zero = false;
        };
        std::vector<Cluster> clusters(count);
        const WorkerPool::Call call = [&](usize i, unsigned thread) {
            const auto in = data.subspan(i * cluster, std::min(cluster, data.size() - i * cluster));
            Cluster &c = clusters[i];
            c.zero = block::is_zero(in);
            if (c.zero)
                return;
            c.out = Buffer(cluster);
            Buffer whole;
            std::span<const u8> input = in;
            if (in.size() < cluster) { // the last one: the rest of it is zero
                whole = Buffer(cluster);
                std::memcpy(whole.data(), in.data(), in.size());
                std::memset(whole.data() + in.size(), 0, cluster - in.size());
                input = whole.span();
            }
            // A cluster that gets hardly smaller is better left as it is.
            c.length = compressors_[thread]->compress(input, c.out.span().first(cluster - 512));
        };
        co_await pool_->run(count, call);
        for (usize i = 0; i < count; ++i) {
            const u64 place = at + i * cluster;
            const auto in = data.subspan(i * cluster, std::min(cluster, data.size() - i * cluster));
            if (clusters[i].zero) {
                if (!set_.target_zero)
                    co_await to_.write_zeroes(place, in.size(), true);
            } else if (clusters[i].length) {
                const auto out = clusters[i].out.span().first(clusters[i].length);
                co_await image->write_compressed(place, std::span<const u8>(out));
            } else {
                co_await to_.write(place, std::span<const u8>(in));
            }
        }
    }

    loop::Loop &loop_;
    Node &from_, &to_;
    Settings set_;
    Progress &progress_;
    block::Lock taking_;
    u64 next_ = 0;
    bool failed_ = false;
    std::vector<std::unique_ptr<block::qcow2::Compressor>> compressors_;
    std::unique_ptr<WorkerPool> pool_;
};

} // namespace

int command_convert(loop::Loop &loop, std::span<char *const> words) {
    const Arguments a(words, "c p q n U W force-share", "f O o t T S m l");
    const auto &files = a.operands(2, 2);
    const std::string out_format = a.value("O", "raw");
    const auto source = open(loop, files[0], a.value("f"), false, a);
    if (a.has("l")) {
        auto *const image = as_qcow2(*source);
        if (!image)
            throw ConfigError("-l: " + files[0] + " has no snapshots");
        std::string name = a.value("l");
        for (const std::string_view prefix : {"snapshot.name=", "snapshot.id="})
            if (name.starts_with(prefix))
                name.erase(0, prefix.size());
        checked(loop.block_on(image->view_snapshot(name)));
    }
    if (a.has("c") && out_format != "qcow2")
        throw ConfigError("-c: only qcow2 images are compressed (-O qcow2)");
    if (!a.has("n")) {
        auto options = key_values(a.all("o"));
        if (options.contains("backing_file"))
            throw ConfigError("-o backing_file: the copy has everything in itself");
        options.erase("size");
        create_image(loop, files[1], out_format, source->length(), options);
    }
    block::OpenOptions o;
    o.format = out_format;
    o.file = block::cache_mode(a.value("t", "unsafe"));
    const auto target = checked(block::open_image(loop, files[1], o));
    if (target->length() < source->length())
        throw ConfigError(files[1] + ": is smaller than " + files[0]);

    Conversion::Settings s;
    s.target_zero = !a.has("n") && target->format() != "host_device";
    s.compress = a.has("c");
    const u64 sparse = config::parse_size(a.value("S", "4096"));
    s.skip_zeroes = sparse != 0;
    if (sparse && (sparse % 512 || sparse & (sparse - 1) || sparse > piece_size))
        throw ConfigError("-S " + a.value("S") + ": a power of two from 512 to 2M, or 0");
    s.grain = std::max<u64>(sparse, 512);
    if (const auto *const image = as_qcow2(*target))
        s.grain = std::max(s.grain, image->header().cluster_size());
    s.pieces =
        static_cast<unsigned>(std::clamp<u64>(config::parse_number(a.value("m", "8"), 16), 1, 16));
    Result<> r;
    {
        Progress progress(a.has("p") && !a.has("q"), source->length());
        Conversion conversion(loop, *source, *target, s, progress);
        r = conversion.run();
    }
    const auto closed = loop.block_on(target->close());
    checked(r);
    checked(closed);
    return 0;
}

} // namespace rhea::tool
