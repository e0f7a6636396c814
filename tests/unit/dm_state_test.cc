// dm/state: what is written comes back; what was not written by us is refused, and changes nothing.
#include "dm/state/stream.h"
#include <gtest/gtest.h>

namespace rhea::state {
namespace {

enum class Mode : u8 { off, on, auto_ };

struct Point {
    i32 x = 0;
    u16 y = 0;
    bool operator==(const Point &) const = default;
    static constexpr auto fields() {
        return describe<Point>(Field<&Point::x>{}, Field<&Point::y>{.max = 1000});
    }
};

struct Everything {
    bool flag = false;
    u8 a = 1;
    u16 b = 2;
    u32 c = 3;
    u64 d = 4;
    i64 e = -5;
    Mode mode = Mode::on;
    std::array<u16, 3> list{7, 8, 9};
    std::array<Point, 2> points{};
    std::vector<u8> bytes{};
    std::string text{};
    bool operator==(const Everything &) const = default;
    static constexpr auto fields() {
        using S = Everything;
        return describe<S>(
            Field<&S::flag>{}, Field<&S::a>{}, Field<&S::b>{.max = 100}, Field<&S::c>{},
            Field<&S::d>{}, Field<&S::e>{}, Field<&S::mode>{.max = 2}, Field<&S::list>{.max = 99},
            Field<&S::points>{}, Field<&S::bytes>{.max = 64}, Field<&S::text>{.max = 16});
    }
};

Everything sample() {
    Everything e;
    e.flag = true;
    e.d = 0x1122334455667788;
    e.e = INT64_MIN;
    e.mode = Mode::auto_;
    e.points[1] = {-3, 999};
    e.bytes = {1, 2, 3};
    e.text = "hello";
    return e;
}

template <class S> std::vector<u8> saved(const S &s, u16 version = 1) {
    Writer w;
    w.section("thing", "test", version, [&](FieldWriter &f) { f.fields(s); });
    return w.finish();
}
template <class S> Result<> loaded(std::span<const u8> stream, S &s, u16 version = 1) {
    auto r = Reader::open(stream);
    if (!r)
        return tl::unexpected<Error>(r.error());
    S fresh{};
    auto done = r->section("thing", "test", version, [&](FieldReader &f) { f.fields(fresh); });
    if (done)
        s = fresh;
    return done;
}
// The text of the error of a load that must fail and must not change anything.
template <class S> std::string refused(std::span<const u8> stream, u16 version = 1) {
    S s{};
    const auto done = loaded(stream, s, version);
    EXPECT_FALSE(done);
    EXPECT_EQ(s, S{});
    return done ? "" : done.error().what;
}
bool has(const std::string &text, const char *part) {
    return text.find(part) != text.npos;
}

TEST(State, everything_comes_back) {
    const Everything e = sample();
    Everything back;
    const auto stream = saved(e);
    const auto done = loaded(stream, back);
    ASSERT_TRUE(done) << done.error().what;
    EXPECT_EQ(back, e);
    EXPECT_EQ(saved(back), stream);
}

TEST(State, every_damaged_byte_is_noticed) {
    const auto stream = saved(sample());
    for (std::size_t i = 0; i < stream.size(); ++i)
        for (const u8 change : {u8{0x01}, u8{0x80}, u8{0xff}}) {
            auto bad = stream;
            bad[i] ^= change;
            EXPECT_FALSE(refused<Everything>(bad).empty()) << "byte " << i;
        }
}

TEST(State, every_cut_is_noticed) {
    const auto stream = saved(sample());
    for (std::size_t n = 0; n < stream.size(); ++n)
        EXPECT_FALSE(Reader::open(std::span(stream).first(n))) << n;
    auto longer = stream;
    longer.push_back(0);
    EXPECT_FALSE(Reader::open(longer));
}

// The payload alone, as someone who makes valid checksums could send it.
Result<> load_payload(std::span<const u8> payload, Everything &e) {
    FieldReader f(payload, 1, "thing");
    Everything fresh{};
    f.fields(fresh);
    auto done = f.finish();
    if (done)
        e = fresh;
    return done;
}

TEST(State, hostile_payloads_are_errors_or_in_bounds) {
    std::vector<u8> payload;
    FieldWriter(payload).fields(sample());
    int accepted = 0;
    for (std::size_t i = 0; i < payload.size(); ++i)
        for (unsigned v = 0; v < 256; v += 5) {
            auto bad = payload;
            bad[i] = static_cast<u8>(v);
            Everything e{};
            if (!load_payload(bad, e))
                continue;
            ++accepted;
            ASSERT_LE(e.b, 100);
            ASSERT_LE(static_cast<u8>(e.mode), 2);
            ASSERT_LE(e.list[0], 99);
            ASSERT_LE(e.points[1].y, 1000);
            ASSERT_LE(e.bytes.size(), 64u);
            ASSERT_LE(e.text.size(), 16u);
        }
    EXPECT_GT(accepted, 0); // other values of unbounded fields are fine
    for (std::size_t n = 0; n < payload.size(); ++n) {
        Everything e{};
        EXPECT_FALSE(load_payload(std::span(payload).first(n), e)) << n;
    }
}

TEST(State, a_huge_count_does_not_allocate) {
    std::vector<u8> payload;
    struct Big {
        std::vector<u64> v;
        bool operator==(const Big &) const = default;
        static constexpr auto fields() { return describe<Big>(Field<&Big::v>{}); }
    };
    FieldWriter(payload).fields(Big{{1, 2}});
    payload[1 + 1 + 4 + 1 + 3] = 0xff; // the top byte of the count
    FieldReader f(payload, 1, "big");
    Big big{};
    f.fields(big);
    EXPECT_FALSE(f.finish());
    EXPECT_LT(big.v.capacity(), 100u);
}

struct Old {
    u8 a = 1;
    bool operator==(const Old &) const = default;
    static constexpr auto fields() { return describe<Old>(Field<&Old::a>{}); }
};
struct New {
    u8 a = 1;
    u8 b = 42;
    bool operator==(const New &) const = default;
    static constexpr auto fields() {
        return describe<New>(Field<&New::a>{}, Field<&New::b>{.since = 3});
    }
};
static_assert(version_of<Old>() == 1 && version_of<New>() == 3);

TEST(State, a_field_that_is_younger_than_the_stream_keeps_its_initialiser) {
    New n;
    ASSERT_TRUE(loaded(saved(Old{9}, 2), n, 3));
    EXPECT_EQ(n, (New{9, 42}));
    EXPECT_TRUE(has(refused<New>(saved(Old{9}, 3), 3), "field 'b' is missing"));
}

TEST(State, what_is_newer_than_we_are_is_refused_with_its_reason) {
    EXPECT_TRUE(has(refused<Old>(saved(New{}, 3), 1), "version 3 is newer"));
    EXPECT_TRUE(has(refused<Old>(saved(New{}, 1), 1), "field 'b' is not known"));
}

TEST(State, sections_are_found_by_name_and_checked_by_type) {
    Writer w;
    w.section("a", "alpha", 1, [](FieldWriter &f) { f.fields(Old{1}); });
    w.section("b", "beta", 1, [](FieldWriter &f) { f.fields(Old{2}); });
    const auto stream = w.finish();
    const auto r = Reader::open(stream);
    ASSERT_TRUE(r);
    ASSERT_EQ(r->sections().size(), 2u);
    Old o;
    auto read = [&](FieldReader &f) { f.fields(o); };
    EXPECT_TRUE(r->section("b", "beta", 1, read));
    EXPECT_EQ(o.a, 2);
    EXPECT_TRUE(
        has(r->section("b", "alpha", 1, read).error().what, "of a 'beta', not of a 'alpha'"));
    EXPECT_TRUE(has(r->section("c", "alpha", 1, read).error().what, "missing"));
}

TEST(State, a_section_that_is_there_twice_is_refused) {
    Writer w;
    for (int i = 0; i < 2; ++i)
        w.section("a", "alpha", 1, [](FieldWriter &f) { f.fields(Old{}); });
    const auto r = Reader::open(w.finish());
    ASSERT_FALSE(r);
    EXPECT_TRUE(has(r.error().what, "'a' is there twice"));
}

TEST(State, a_field_that_is_there_twice_is_refused) {
    std::vector<u8> payload;
    FieldWriter(payload).fields(Old{1});
    FieldWriter(payload).fields(Old{2});
    FieldReader f(payload, 1, "x");
    Old o;
    f.fields(o);
    const auto done = f.finish();
    ASSERT_FALSE(done);
    EXPECT_TRUE(has(done.error().what, "twice"));
    EXPECT_EQ(o.a, 1);
}

TEST(State, can_be_listed_without_knowing_it) {
    const auto stream = saved(sample());
    const auto r = Reader::open(stream);
    ASSERT_TRUE(r);
    const std::string text = dump(*r);
    EXPECT_TRUE(has(text, "[thing] test version 1\n")) << text;
    EXPECT_TRUE(has(text, "thing.d = 0x1122334455667788\n"));
    EXPECT_TRUE(has(text, "thing.list = 0x7 0x8 0x9\n"));
    EXPECT_TRUE(has(text, "{ x=0xfffffffd y=0x3e7}"));
    EXPECT_TRUE(has(text, "thing.text = \"hello\"\n"));
}

TEST(State, the_writer_starts_anew_after_finish) {
    Writer w;
    w.section("a", "alpha", 1, [](FieldWriter &f) { f.fields(Old{}); });
    const auto first = w.finish();
    w.section("a", "alpha", 1, [](FieldWriter &f) { f.fields(Old{}); });
    EXPECT_EQ(w.finish(), first);
}

} // namespace
} // namespace rhea::state
