#include "dm/loop/loop.h"

#include <gtest/gtest.h>
#include <memory>

namespace rhea::loop {
namespace {

Task<int> leaf(int i) {
    if (i % 3 == 0)
        co_await raise(EIO, "multiple of three");
    co_return i;
}

Task<int> middle(int i) {
    const int v = co_await leaf(i);
    co_return v + 1;
}

struct Tally {
    long sum = 0;
    int failures = 0;
};

Task<> many(int n, Tally &tally) {
    for (int i = 0; i < n; ++i) {
        auto m = middle(i);
        const auto r = co_await m.caught();
        if (r)
            tally.sum += *r;
        else
            ++tally.failures;
    }
}

TEST(LoopTask, million_inline_completions_do_not_grow_the_stack) {
    Loop loop;
    Tally tally;
    ASSERT_TRUE(loop.block_on(many(1'000'000, tally)));
    EXPECT_EQ(tally.failures, 333'334);
    EXPECT_EQ(tally.sum, 333'332'666'667 + 666'666);
}

Task<int> yields(Loop &loop, int i) {
    co_await loop.sleep(0);
    if (i % 5 == 0)
        co_await raise(EIO, "multiple of five");
    co_return i;
}

Task<> many_suspended(Loop &loop, int n, Tally &tally) {
    for (int i = 0; i < n; ++i) {
        auto t = yields(loop, i);
        const auto r = co_await t.caught();
        if (r)
            tally.sum += *r;
        else
            ++tally.failures;
    }
}

TEST(LoopTask, suspended_completions_do_not_grow_the_stack) {
    Loop loop;
    Tally tally;
    ASSERT_TRUE(loop.block_on(many_suspended(loop, 20'000, tally)));
    EXPECT_EQ(tally.failures, 4'000);
    EXPECT_EQ(tally.sum, 19'999L * 20'000 / 2 - 5L * (3'999 * 4'000 / 2));
}

Task<int> chain(Loop &loop, int depth) {
    if (depth == 0) {
        co_await loop.sleep(0);
        co_await raise(ENOSPC, "at the bottom");
    }
    const int below = co_await chain(loop, depth - 1);
    co_return below + 1;
}

TEST(LoopTask, failure_travels_up_to_whoever_asks_for_the_result) {
    Loop loop;
    const auto r = loop.block_on(chain(loop, 50));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ENOSPC);
    EXPECT_EQ(r.error().what, "at the bottom");
}

struct Counted {
    explicit Counted(int &n) : n_(&n) { ++*n_; }
    Counted(const Counted &) = delete;
    ~Counted() { --*n_; }
    int *n_;
};

Task<> holds(Loop &loop, int &alive, bool fail) {
    const Counted c(alive);
    co_await loop.sleep(0);
    if (fail)
        co_await raise(EIO, "asked to");
}

Task<> outer(Loop &loop, int &alive, bool fail) {
    const Counted c(alive);
    co_await holds(loop, alive, fail);
}

TEST(LoopTask, locals_are_destroyed_exactly_once) {
    Loop loop;
    for (const bool fail : {false, true}) {
        int alive = 0;
        EXPECT_EQ(loop.block_on(outer(loop, alive, fail)).has_value(), !fail);
        EXPECT_EQ(alive, 0);
    }
}

Task<std::unique_ptr<int>> makes() {
    co_return std::make_unique<int>(7);
}
Task<int> takes() {
    const auto p = co_await makes();
    co_return *p;
}

TEST(LoopTask, value_may_be_move_only) {
    Loop loop;
    EXPECT_EQ(loop.block_on(takes()).value(), 7);
}

TEST(LoopTask, task_that_never_started_is_destroyed) {
    Loop loop;
    int alive = 0;
    { auto t = outer(loop, alive, false); }
    EXPECT_EQ(alive, 0);
}

Task<int> text_length(std::string_view s) {
    co_return int(s.size());
}
Task<int> lengths(const std::string &s) {
    const int a = co_await text_length(s);
    const int b = co_await text_length(s + " and a tail that does not fit the small string");
    co_return a + b;
}

TEST(LoopTask, string_temporaries_live_through_the_statement) {
    Loop loop;
    EXPECT_EQ(loop.block_on(lengths("abc")).value(), 3 + 3 + 46);
}

} // namespace
} // namespace rhea::loop
