#include "dm/loop/task_group.h"

#include <array>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace rhea::loop {
namespace {

struct Pipe {
    Pipe() {
        if (::pipe2(ends, O_CLOEXEC) != 0)
            throw std::runtime_error("pipe2");
    }
    ~Pipe() {
        ::close(ends[0]);
        ::close(ends[1]);
    }
    int ends[2];
};

Task<> waits_for_input(Loop &loop, int fd) {
    std::array<u8, 1> b{};
    co_await loop.read(fd, b);
}

Task<> passes_it_on(Loop &loop, int fd, int &after) {
    co_await waits_for_input(loop, fd);
    ++after;
}

Task<> notices_and_tries_again(Loop &loop, int fd, std::array<int, 2> &codes) {
    std::array<u8, 1> b{};
    for (int &code : codes) {
        const auto r = co_await loop.read(fd, b).caught();
        code = r ? 0 : r.error().code;
    }
}

TEST(TaskGroup, drain_waits_for_every_member) {
    Loop loop;
    TaskGroup group(loop);
    int done = 0;
    auto body = [](Loop &l, int i, int &n) -> Task<> {
        co_await l.sleep(i * 1000);
        ++n;
    };
    for (int i = 0; i < 100; ++i)
        group.spawn(body(loop, i, done));
    EXPECT_EQ(group.size(), 100u);
    ASSERT_TRUE(group.join());
    EXPECT_EQ(done, 100);
    EXPECT_TRUE(group.empty());
}

TEST(TaskGroup, first_failure_is_reported_once_and_does_not_end_the_others) {
    Loop loop;
    TaskGroup group(loop);
    int done = 0;
    auto body = [](Loop &l, int i, int &n) -> Task<> {
        co_await l.sleep(i * 1'000'000);
        if (i == 2)
            co_await raise(ENXIO, "two");
        if (i == 4)
            co_await raise(EIO, "four");
        ++n;
    };
    for (int i = 0; i < 8; ++i)
        group.spawn(body(loop, i, done));
    const auto r = group.join();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ENXIO);
    EXPECT_EQ(done, 6);
    EXPECT_TRUE(group.join());
}

TEST(TaskGroup, cancel_fails_a_member_that_waits_in_the_kernel) {
    Loop loop;
    Pipe p;
    TaskGroup group(loop);
    int after = 0;
    group.spawn(passes_it_on(loop, p.ends[0], after));
    loop.turn(false);
    group.cancel();
    const auto r = group.join();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ECANCELED);
    EXPECT_EQ(after, 0);
}

TEST(TaskGroup, cancel_is_sticky_for_later_operations_of_the_member) {
    Loop loop;
    Pipe p;
    TaskGroup group(loop);
    std::array<int, 2> codes{};
    group.spawn(notices_and_tries_again(loop, p.ends[0], codes));
    group.cancel(); // before the operation has reached the kernel
    EXPECT_TRUE(group.join());
    EXPECT_EQ(codes[0], ECANCELED);
    EXPECT_EQ(codes[1], ECANCELED);
}

TEST(TaskGroup, cancel_ends_a_sleep) {
    Loop loop;
    TaskGroup group(loop);
    auto body = [](Loop &l) -> Task<> { co_await l.sleep(i64{3600} * 1'000'000'000); };
    group.spawn(body(loop));
    loop.turn(false);
    group.cancel();
    const auto r = group.join();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ECANCELED);
}

Task<> nests(Loop &loop, int fd, int &after) {
    TaskGroup inner(loop);
    for (int i = 0; i < 3; ++i)
        inner.spawn(passes_it_on(loop, fd, after));
    auto drained = inner.drain();
    const auto r = co_await drained.caught();
    if (!r)
        co_await raise(r.error());
}

TEST(TaskGroup, cancel_reaches_the_members_of_a_group_that_a_member_drains) {
    Loop loop;
    Pipe p;
    TaskGroup group(loop);
    int after = 0;
    group.spawn(nests(loop, p.ends[0], after));
    loop.turn(false);
    group.cancel();
    const auto r = group.join();
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ECANCELED);
    EXPECT_EQ(after, 0);
}

TEST(TaskGroup, members_that_end_at_once_are_joined) {
    Loop loop;
    TaskGroup group(loop);
    int n = 0;
    auto body = [](int &count) -> Task<> {
        ++count;
        co_return;
    };
    for (int i = 0; i < 10'000; ++i)
        group.spawn(body(n));
    ASSERT_TRUE(group.join());
    EXPECT_EQ(n, 10'000);
}

} // namespace
} // namespace rhea::loop
