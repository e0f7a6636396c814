// qcow2 when the power fails at every moment, when the host refuses at every step, and when the
// image is damaged: no corruption that our own writing made, nothing lost that was flushed, no
// crash.
#include <array>
#include <cstring>
#include <gtest/gtest.h>
#include <map>

#include "block/qcow2/image.h"
#include "tests/unit/block_power.h"

namespace rhea::block {
namespace {

using qcow2::CheckResult;
using qcow2::CreateOptions;
using qcow2::Image;
using qcow2::ImageOptions;
using qcow2::Repair;

/// What each sector of the guest's disk may hold: the values it was given, and when.
class Model {
public:
    explicit Model(u64 sectors) : sectors_(sectors) {
        for (auto &s : sectors_)
            s.push_back({0, false, 0, 0});
    }
    /// A write, or (keep) a discard, of sectors [at, at + n) that took from `begin` to `end`.
    void wrote(u64 at, u64 n, u32 value, bool keep, u64 begin, u64 end) {
        for (u64 i = at; i < at + n; ++i)
            sectors_[i].push_back({value, keep, begin, end});
    }
    void flushed(u64 begin, u64 end) { flushes_.emplace_back(begin, end); }

    bool allows(u64 sector, u32 value, u64 moment) const {
        const auto &list = sectors_[sector];
        for (usize i = list.size(); i-- > 0;) {
            const Entry &e = list[i];
            if (e.begin >= moment && i)
                continue;
            if (e.value == value)
                return true;
            const bool durable = i == 0 || std::ranges::any_of(flushes_, [&](const auto &f) {
                                     return e.end <= f.first && f.second <= moment;
                                 });
            if (durable && !e.keep)
                return false;
        }
        return false;
    }

private:
    struct Entry {
        u32 value;
        bool keep; // or what was there before
        u64 begin, end;
    };
    std::vector<std::vector<Entry>> sectors_;
    std::vector<std::pair<u64, u64>> flushes_;
};

std::vector<u8> stamped(u64 sectors, u32 value) {
    std::vector<u8> data(sectors * sector_size);
    for (usize i = 0; i < data.size(); i += 4)
        store_le<u32>(&data[i], value);
    return data;
}

struct Opened {
    std::unique_ptr<Node> node;
    PowerNode *power = nullptr;
    Image &image() { return static_cast<Image &>(*node); }
};

Result<Opened> open(loop::Loop &loop, const std::vector<u8> &bytes, const ImageOptions &options) {
    auto power = std::make_unique<PowerNode>(loop, bytes);
    Opened o;
    o.power = power.get();
    std::unique_ptr<Node> file = std::move(power);
    auto node = loop.block_on(Image::open(loop, file, options));
    if (!node)
        return tl::unexpected(node.error());
    o.node = std::move(*node);
    return o;
}

std::vector<u8> empty_image(loop::Loop &loop, const CreateOptions &options) {
    auto power = std::make_unique<PowerNode>(loop, std::vector<u8>{});
    auto *const p = power.get();
    std::unique_ptr<Node> file = std::move(power);
    const auto r = loop.block_on(Image::create(loop, file, options));
    EXPECT_TRUE(r) << to_string(r.error());
    return p->bytes();
}

/// A guest that writes, zeroes, discards, flushes, and a host that takes and drops snapshots.
class Life {
public:
    Life(loop::Loop &loop, Opened &o, u32 seed)
        : model(o.image().length() / sector_size), loop_(loop), o_(o), random_(seed) {}

    /// False: the host refused something.
    bool step() {
        const u64 begin = o_.power->now();
        const u64 sectors = o_.image().length() / sector_size;
        const u64 n = 1 + random_() % 24, at = random_() % (sectors - n);
        const auto what = random_() % 20;
        if (what < 3) {
            const bool ok = bool(loop_.block_on(o_.image().flush()));
            if (ok)
                model.flushed(begin, o_.power->now());
            return ok;
        }
        if (what < 5) {
            const bool ok =
                bool(loop_.block_on(o_.image().discard(at * sector_size, n * sector_size)));
            model.wrote(at, n, 0, true, begin, o_.power->now());
            return ok;
        }
        if (what < 7) {
            const bool ok = bool(
                loop_.block_on(o_.image().write_zeroes(at * sector_size, n * sector_size, true)));
            model.wrote(at, n, 0, false, begin, ok ? o_.power->now() : ~u64{0});
            return ok;
        }
        if (what == 7 && snapshots_) {
            if (random_() % 2) {
                const bool ok = bool(loop_.block_on(
                    o_.image().snapshot_create("s" + std::to_string(random_()), 1, 2)));
                return ok;
            }
            if (!o_.image().snapshots().empty()) {
                const std::string id = o_.image().snapshots()[0].id;
                return bool(loop_.block_on(o_.image().snapshot_delete(id)));
            }
            return true;
        }
        return write(at, n);
    }
    void without_snapshots() { snapshots_ = false; }

    Model model;

private:
    /// Two writes at a time, to different places.
    bool write(u64 at, u64 n) {
        const u64 begin = o_.power->now();
        const u64 sectors = o_.image().length() / sector_size;
        const u64 second = (at + n + random_() % 8) % (sectors - 8);
        const bool two = second + 4 <= at || second >= at + n;
        const u32 value = ++stamp_, other = ++stamp_;
        const auto a = stamped(n, value), b = stamped(4, other);
        loop::TaskGroup group(loop_);
        group.spawn(o_.image().write(at * sector_size, std::span<const u8>(a)));
        if (two)
            group.spawn(o_.image().write(second * sector_size, std::span<const u8>(b)));
        const bool ok = bool(group.join());
        const u64 end = ok ? o_.power->now() : ~u64{0};
        model.wrote(at, n, value, false, begin, end);
        if (two)
            model.wrote(second, 4, other, false, begin, end);
        return ok;
    }

    loop::Loop &loop_;
    Opened &o_;
    std::mt19937 random_;
    u32 stamp_ = 0;
    bool snapshots_ = true;
};

/// The image opens, has no corruption, and each sector has a value that it may have.
testing::AssertionResult sound(loop::Loop &loop, const std::vector<u8> &bytes, const Model &model,
                               u64 moment) {
    auto o = open(loop, bytes, {.read_only = true, .check = true});
    if (!o)
        return testing::AssertionFailure() << "does not open: " << to_string(o.error());
    const auto checked = loop.block_on(o->image().check(Repair::nothing));
    if (!checked)
        return testing::AssertionFailure() << "check: " << to_string(checked.error());
    if (checked->corruptions)
        return testing::AssertionFailure()
               << checked->corruptions << " corruptions, " << checked->messages.front();
    std::vector<u8> disk(o->image().length());
    if (auto r = loop.block_on(o->image().read(0, std::span<u8>(disk))); !r)
        return testing::AssertionFailure() << "read: " << to_string(r.error());
    for (u64 s = 0; s < disk.size() / sector_size; ++s)
        if (const u32 v = load_le<u32>(&disk[s * sector_size]); !model.allows(s, v, moment))
            return testing::AssertionFailure() << "sector " << s << " holds " << v;
    return testing::AssertionSuccess();
}

struct Kind {
    const char *name;
    CreateOptions create;
};
class Qcow2Power : public testing::TestWithParam<Kind> {
protected:
    loop::Loop loop_;
};

TEST_P(Qcow2Power, power_failure_at_any_moment_leaves_a_sound_image) {
    const auto start = empty_image(loop_, GetParam().create);
    std::mt19937 random(7);
    for (u32 seed = 1; seed <= 3; ++seed) {
        // A small cache, so that tables are written in the middle of things as well.
        auto o = open(loop_, start, {.l2_cache_bytes = 4096, .refcount_cache_bytes = 4096}).value();
        o.power->slow = seed != 1;
        Life life(loop_, o, seed);
        if (GetParam().create.refcount_bits == 1)
            life.without_snapshots();
        for (int i = 0; i < 60; ++i)
            ASSERT_TRUE(life.step()) << "seed " << seed << " step " << i;
        ASSERT_TRUE(loop_.block_on(o.image().close()));
        const u64 end = o.power->now();
        ASSERT_GT(end, 100u);
        for (u64 moment = 0; moment <= end; ++moment)
            for (int variant = 0; variant < 2; ++variant) {
                const auto bytes = o.power->after_power_failure(moment, random);
                ASSERT_TRUE(sound(loop_, bytes, life.model, moment))
                    << "seed " << seed << ", power failed at " << moment << " of " << end;
            }
        ASSERT_TRUE(sound(loop_, o.power->bytes(), life.model, ~u64{0} - 1));
    }
}

TEST_P(Qcow2Power, refused_writes_leave_a_sound_image_with_what_was_flushed) {
    const auto start = empty_image(loop_, GetParam().create);
    u64 failures = 0;
    for (u64 n = 1; n < 160; ++n) {
        auto o = open(loop_, start, {.l2_cache_bytes = 4096, .refcount_cache_bytes = 4096}).value();
        Life life(loop_, o, static_cast<u32>(n % 5));
        if (GetParam().create.refcount_bits == 1)
            life.without_snapshots();
        o.power->fail_at(n, 1 + n % 3, n % 2 ? ENOSPC : EIO);
        for (int i = 0; i < 40; ++i)
            failures += !life.step();
        const auto closed = loop_.block_on(o.image().close());
        ASSERT_TRUE(sound(loop_, o.power->bytes(), life.model, o.power->now() + 1)) << n;
    }
    EXPECT_GT(failures, 100u); // or the test tested nothing
}

TEST_P(Qcow2Power, leaks_after_a_power_failure_are_repaired) {
    const auto start = empty_image(loop_, GetParam().create);
    std::mt19937 random(3);
    auto o = open(loop_, start, {}).value();
    Life life(loop_, o, 11);
    if (GetParam().create.refcount_bits == 1)
        life.without_snapshots();
    for (int i = 0; i < 60; ++i)
        ASSERT_TRUE(life.step());
    u64 leaks = 0;
    for (u64 moment = 0; moment <= o.power->now(); moment += 3) {
        auto after =
            open(loop_, o.power->after_power_failure(moment, random), {.check = true}).value();
        const auto repaired = loop_.block_on(after.image().check(Repair::leaks));
        ASSERT_TRUE(repaired) << to_string(repaired.error());
        leaks += repaired->leaks_fixed;
        const auto again = loop_.block_on(after.image().check(Repair::nothing)).value();
        ASSERT_EQ(again.leaks, 0u);
        ASSERT_EQ(again.corruptions, 0u);
    }
    EXPECT_GT(leaks, 0u);
}

TEST_P(Qcow2Power, damaged_images_neither_crash_nor_hang) {
    auto o = open(loop_, empty_image(loop_, GetParam().create), {}).value();
    Life life(loop_, o, 5);
    if (GetParam().create.refcount_bits == 1)
        life.without_snapshots();
    for (int i = 0; i < 50; ++i)
        ASSERT_TRUE(life.step());
    ASSERT_TRUE(loop_.block_on(o.image().close()));
    const auto good = o.power->bytes();
    std::mt19937 random(99);
    u64 opened = 0, refused = 0;
    for (int round = 0; round < 600; ++round) {
        auto bad = good;
        // Half of the damage hits the header, the rest lands anywhere.
        for (u32 i = 0; i < 1 + random() % 4; ++i) {
            const usize at = random() % (random() % 2 ? 112 : bad.size());
            bad[at] = static_cast<u8>(random() % 3 ? random() : 0xff);
        }
        if (random() % 8 == 0)
            bad.resize(random() % bad.size());
        auto image = open(loop_, bad, {.check = round % 3 == 0});
        (image ? opened : refused)++;
        if (!image)
            continue;
        std::vector<u8> disk(std::min<u64>(image->node->length(), 1 << 20));
        const auto read = loop_.block_on(image->node->read(0, std::span<u8>(disk)));
        const auto written =
            loop_.block_on(image->node->write(0, std::span<const u8>(disk).first(disk.size() / 2)));
        const auto status = loop_.block_on(image->node->block_status(0, disk.size()));
        if (round % 3 == 0) {
            const auto checked =
                loop_.block_on(image->image().check(round % 2 ? Repair::all : Repair::nothing));
        }
        const auto closed = loop_.block_on(image->node->close());
    }
    EXPECT_GT(opened, 50u);
    EXPECT_GT(refused, 50u);
}

CreateOptions small(u64 cluster_size, u32 version = 3, u32 refcount_bits = 16) {
    CreateOptions o;
    o.size = 200 << 10;
    o.version = version;
    o.cluster_size = cluster_size;
    o.refcount_bits = refcount_bits;
    return o;
}
const Kind kinds[] = {{"clusters_512", small(512)},
                      {"clusters_4k", small(4096)},
                      {"version_2", small(1024, 2)},
                      {"refcount_bits_1", small(512, 3, 1)},
                      {"refcount_bits_64", small(512, 3, 64)}};
INSTANTIATE_TEST_SUITE_P(, Qcow2Power, testing::ValuesIn(kinds),
                         [](const auto &i) { return std::string(i.param.name); });

} // namespace
} // namespace rhea::block
