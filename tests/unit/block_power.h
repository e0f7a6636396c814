// A file in memory that remembers what was written and flushed when, loses power at any moment, and
// refuses what it is told to refuse. For the tests of image formats.
#pragma once
#include <algorithm>
#include <random>
#include <vector>

#include "block/memory_node.h"
#include "block/vectors.h"
#include "dm/core/bits.h"

namespace rhea::block {

class PowerNode final : public Node {
public:
    PowerNode(loop::Loop &loop, std::vector<u8> bytes, u64 limit = u64{64} << 20)
        : Node("power"), loop_(loop), start_(bytes), now_bytes_(std::move(bytes)), limit_(limit) {
        set_length(align_up(now_bytes_.size(), sector_size));
        now_bytes_.resize(length());
        set_growable(true);
    }
    std::string_view format() const noexcept override { return "power"; }

    /// Events so far: the moments at which the power can fail are 0 to now().
    u64 now() const noexcept { return time_; }
    const std::vector<u8> &bytes() const noexcept { return now_bytes_; }
    /// From the n-th changing request on (1: the next), `count` of them fail.
    void fail_at(u64 n, u64 count, int code) {
        fail_in_ = n;
        fail_count_ = count;
        fail_code_ = code;
    }
    bool slow = false; // requests overlap in time

    /// What the medium holds if the power failed at `moment`: all that a flush had covered, and
    /// of the rest any part, in any order, each request possibly cut at a sector's border.
    std::vector<u8> after_power_failure(u64 moment, std::mt19937 &random) const {
        std::vector<const Write *> maybe;
        std::vector<u8> out = start_;
        const auto apply = [&](const Write &w, usize from, usize n) {
            if (out.size() < w.at + from + n)
                out.resize(w.at + from + n);
            std::copy_n(w.data.begin() + static_cast<i64>(from), n,
                        out.begin() + static_cast<i64>(w.at + from));
        };
        const u32 style = random() % 4; // everything, nothing, and twice: some
        for (const Write &w : writes_) {
            const bool durable = std::ranges::any_of(
                flushes_, [&](const Span &f) { return w.when.end < f.begin && f.end <= moment; });
            if (durable)
                apply(w, 0, w.data.size());
            else if (w.when.begin < moment)
                maybe.push_back(&w);
        }
        std::ranges::shuffle(maybe, random);
        for (const Write *w : maybe) {
            if (style == 1 || (style >= 2 && random() % 2))
                continue;
            usize from = 0, n = w->data.size();
            if (style == 3 && random() % 2) {
                // A torn request: sectors of the medium are written whole.
                const usize cut = sector_size - w->at % sector_size;
                const usize pieces = n > cut ? (n - cut) / sector_size : 0;
                const usize at = pieces ? cut + random() % (pieces + 1) * sector_size : 0;
                if (random() % 2)
                    from = std::min(at, n), n -= from;
                else
                    n = std::min(at, n);
            }
            apply(*w, from, n);
        }
        return out;
    }

private:
    struct Span {
        u64 begin = 0, end = ~u64{0};
    };
    struct Write {
        u64 at;
        std::vector<u8> data;
        Span when;
    };
    Task<> refuse_if_told() {
        if (fail_in_ && --fail_in_ == 0) {
            fail_in_ = --fail_count_ ? 1 : 0;
            co_await loop::raise(fail_code_, "told to");
        }
    }
    Task<> do_read(u64 at, ConstVectors into) override {
        copy_in(into, 0, std::span(now_bytes_).subspan(at, total(into)));
        co_return;
    }
    Task<> do_write(u64 at, ConstVectors from) override {
        co_await refuse_if_told();
        const u64 n = total(from);
        if (at + n > limit_)
            co_await loop::raise(ENOSPC, "full");
        const usize index = writes_.size();
        writes_.push_back({at, std::vector<u8>(n), {++time_, ~u64{0}}});
        copy_out(from, 0, writes_[index].data);
        if (slow)
            co_await loop_.sleep(0);
        if (now_bytes_.size() < at + n) {
            now_bytes_.resize(align_up(at + n, sector_size));
            set_length(now_bytes_.size());
        }
        std::ranges::copy(writes_[index].data, now_bytes_.begin() + static_cast<i64>(at));
        writes_[index].when.end = ++time_;
    }
    Task<> do_write_zeroes(u64 at, u64 n, bool) override {
        const std::vector<u8> zero(n);
        const iovec v{const_cast<u8 *>(zero.data()), n};
        co_await do_write(at, ConstVectors(&v, 1));
    }
    Task<> do_discard(u64 at, u64 n) override { return do_write_zeroes(at, n, true); }
    Task<> do_flush() override {
        co_await refuse_if_told();
        const usize index = flushes_.size();
        flushes_.push_back({++time_, ~u64{0}});
        if (slow)
            co_await loop_.sleep(0);
        flushes_[index].end = ++time_;
    }
    Task<Extent> do_block_status(u64 at, u64 n) override {
        co_return Extent{.length = n, .allocated = true, .has_offset = true, .offset = at};
    }
    Task<> do_truncate(u64 n) override {
        co_await refuse_if_told();
        now_bytes_.resize(align_up(n, sector_size));
        set_length(now_bytes_.size());
    }

    loop::Loop &loop_;
    std::vector<u8> start_, now_bytes_;
    u64 limit_;
    std::vector<Write> writes_;
    std::vector<Span> flushes_;
    u64 time_ = 0;
    u64 fail_in_ = 0, fail_count_ = 0;
    int fail_code_ = 0;
};

} // namespace rhea::block
