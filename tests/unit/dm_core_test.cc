// dm/core: results, descriptions, trace points, byte order, bit fields.
#include "dm/core/bits.h"
#include "dm/core/callback.h"
#include "dm/core/describe.h"
#include "dm/core/endian.h"
#include "dm/core/guarded.h"
#include "dm/core/log.h"
#include "dm/core/result.h"
#include "dm/core/trace.h"
#include <algorithm>
#include <cerrno>
#include <gtest/gtest.h>
#include <memory>
#include <thread>
#include <vector>

namespace rhea {
namespace {

TRACE_POINT(test_alpha, "a point of this test");
TRACE_POINT(test_beta, "another one");

Result<int> half(int n) {
    if (n % 2)
        return fail(EINVAL, "odd");
    return n / 2;
}
Result<> even(int n) {
    TRY(half(n));
    return {};
}
Result<std::unique_ptr<int>> quarter(int n) {
    TRY(even(n));
    const int h = TRY(half(TRY(half(n))));
    return std::make_unique<int>(h);
}

TEST(Result, try_passes_values_and_returns_errors) {
    EXPECT_EQ(**quarter(12), 3);
    EXPECT_EQ(quarter(6).error().code, EINVAL);
    EXPECT_EQ(quarter(7).error().what, "odd");
}

TEST(Result, an_error_reads_as_a_sentence) {
    errno = ENOENT;
    const Result<> r = fail_errno("open disk.img");
    EXPECT_EQ(to_string(r.error()), "open disk.img: No such file or directory");
}

TEST(ResultDeathTest, verify_ends_the_program_and_says_where) {
    EXPECT_DEATH(VERIFY(1 + 1 == 3), "internal error at .*dm_core_test.cc:[0-9]+: 1 \\+ 1 == 3");
}

struct Described3 {
    u8 a = 1;
    std::array<u16, 3> b{};
    std::string c{};
    static constexpr auto fields() {
        return describe<Described3>(Field<&Described3::a>{.help = "first", .max = 7},
                                    Field<&Described3::b>{.since = 2}, Field<&Described3::c>{});
    }
};

TEST(Describe, visits_members_with_their_names_in_order) {
    Described3 s;
    std::string seen;
    each_field(s, [&](const auto &f, auto &) {
        seen += std::string(f.name) + ":" + std::to_string(f.since) + " ";
    });
    EXPECT_EQ(seen, "a:1 b:2 c:1 ");
    EXPECT_EQ(std::get<0>(Described3::fields()).max, 7u);
}

TEST(Describe, counts_the_members_of_an_aggregate) {
    struct Nested {
        Described3 inner;
        std::array<u8, 40> bytes;
        std::vector<u8> more;
        bool last;
    };
    static_assert(detail::arity<Nested>() == 4);
    static_assert(detail::arity<Described3>() == 3);
    static_assert(!detail::distinct<3>({"a", "b", "a"}));
    SUCCEED();
}

TEST(Trace, glob_patterns_match_as_in_a_shell) {
    EXPECT_TRUE(glob_match("ide_*", "ide_read"));
    EXPECT_TRUE(glob_match("*", ""));
    EXPECT_TRUE(glob_match("a*b*c", "aXbYbZc"));
    EXPECT_TRUE(glob_match("?b", "ab"));
    EXPECT_FALSE(glob_match("ide_*", "xide_read"));
    EXPECT_FALSE(glob_match("a*b", "aXbY"));
    EXPECT_FALSE(glob_match("", "a"));
    EXPECT_FALSE(glob_match("?", ""));
    // Would take forever if every star could come back to every other.
    EXPECT_FALSE(glob_match("*a*a*a*a*a*a*a*a*a*b", std::string(2000, 'a')));
}

TEST(Trace, every_point_of_the_program_is_listed) {
    std::vector<std::string_view> names;
    for (const TracePoint &p : trace_points()) {
        EXPECT_FALSE(std::string_view(p.name()).empty());
        EXPECT_FALSE(std::string_view(p.help()).empty());
        names.push_back(p.name());
    }
    EXPECT_EQ(std::ranges::count(names, "test_alpha"), 1);
    EXPECT_EQ(std::ranges::count(names, "test_beta"), 1);
    EXPECT_EQ(std::ranges::count(names, "guest_error"), 1);
}

TEST(Trace, a_point_prints_only_when_it_is_on_and_does_not_evaluate_when_off) {
    int evaluated = 0;
    const auto hit = [&] {
        TRACE(test_alpha, "value %d", ++evaluated);
        TRACE(test_beta, "other %d", ++evaluated);
    };
    testing::internal::CaptureStderr();
    hit();
    EXPECT_EQ(trace_set("test_al*", true), 1u);
    hit();
    EXPECT_EQ(trace_set("test_al*", false), 1u);
    hit();
    const std::string out = testing::internal::GetCapturedStderr();
    EXPECT_EQ(evaluated, 1);
    EXPECT_NE(out.find("] test_alpha: value 1\n"), std::string::npos) << out;
    EXPECT_EQ(out.find("test_beta"), std::string::npos);
    EXPECT_EQ(trace_set("no_such_*", true), 0u);
}

TEST(Trace, guest_errors_are_limited) {
    testing::internal::CaptureStderr();
    trace_set("guest_error", true);
    for (int i = 0; i < 1000; ++i)
        guest_error("bad thing %d", i);
    trace_set("guest_error", false);
    guest_error("not shown");
    const std::string out = testing::internal::GetCapturedStderr();
    const auto lines = std::ranges::count(out, '\n');
    EXPECT_GE(lines, 1);
    EXPECT_LE(lines, 202); // two seconds' worth if the second turns over in between
    EXPECT_EQ(out.find("not shown"), std::string::npos);
}

TEST(Trace, a_long_line_is_cut_and_ended) {
    testing::internal::CaptureStderr();
    trace_set("test_beta", true);
    TRACE(test_beta, "%s", std::string(5000, 'x').c_str());
    trace_set("test_beta", false);
    RHEA_LOG(warning, "%s", std::string(5000, 'y').c_str());
    const std::string out = testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::ranges::count(out, '\n'), 2);
    EXPECT_EQ(out.back(), '\n');
    EXPECT_NE(out.find("rhea: warning: yyy"), std::string::npos);
}

TEST(Endian, fields_have_the_layout_that_they_spell) {
    struct Header {
        Le<u16> a;
        Be<u32> b;
        Le<u64> c;
    };
    static_assert(sizeof(Header) == 14 && alignof(Header) == 1);
    const Header h{0x1234, 0x01020304, 0x1122334455667788};
    const u8 want[] = {0x34, 0x12, 1, 2, 3, 4, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11};
    EXPECT_EQ(std::memcmp(&h, want, sizeof want), 0);
    EXPECT_EQ(h.b, 0x01020304u);
    EXPECT_EQ(load_be<u32>(want + 2), 0x01020304u);
    EXPECT_EQ(load_le(want + 6, 3), 0x667788u);
    u8 out[4] = {};
    store_be<u16>(out, 0xabcd);
    store_le(out + 2, 2, 0x12345678);
    EXPECT_EQ(load_le<u32>(out), 0x5678cdabu);
}

TEST(Bits, fields_masks_and_signs) {
    EXPECT_EQ(low_bits(0), 0u);
    EXPECT_EQ(low_bits(64), ~u64{0});
    EXPECT_EQ(size_mask(4), 0xffffffffu);
    EXPECT_EQ(bits(0xabcd, 11, 4), 0xbcu);
    EXPECT_EQ(bits(~u64{0}, 63, 0), ~u64{0});
    EXPECT_EQ(with_bits(0xffff, 7, 4, 0x2), 0xff2fu);
    EXPECT_EQ(sign_extend(0x80, 8), -128);
    EXPECT_EQ(sign_extend(0x7f, 8), 127);
    EXPECT_EQ(align_up(4097, 4096), 8192u);
    EXPECT_FALSE(is_power_of_two(0));
}

TEST(Guarded, is_exclusive) {
    Guarded<u64> counter;
    auto add = [&] {
        for (int i = 0; i < 10000; ++i)
            ++*counter.lock();
    };
    std::thread a(add), b(add);
    a.join();
    b.join();
    EXPECT_EQ(counter.with([](u64 &n) { return n; }), 20000u);
}

TEST(Callback, calls_the_member_of_its_object) {
    struct Counter {
        int n = 0;
        void up() noexcept { ++n; }
    } c;
    Callback::to<&Counter::up> (&c)();
    Callback()();
    EXPECT_EQ(c.n, 1);
}

} // namespace
} // namespace rhea
