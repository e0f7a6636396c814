#include "dm/loop/loop.h"
#include "dm/loop/signals.h"
#include "dm/loop/task_group.h"
#include "dm/time/timer.h"

#include <array>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace rhea::loop {
namespace {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

std::span<const u8> bytes(std::string_view s) {
    return {reinterpret_cast<const u8 *>(s.data()), s.size()};
}

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

TEST(Loop, file_is_written_synced_and_read_back) {
    Loop loop;
    char name[] = "/tmp/rhea-loop-XXXXXX";
    const int fd = mkstemp(name);
    ASSERT_GE(fd, 0);
    unlink(name);
    const std::string text = "written at four";
    std::array<u8, 15> back{};

    ASSERT_TRUE(loop.block_on(write_all(loop, fd, bytes(text), 4)));
    auto body = [](Loop &l, int f) -> Task<> { co_await l.sync(f, true); };
    ASSERT_TRUE(loop.block_on(body(loop, fd)));
    ASSERT_TRUE(loop.block_on(read_all(loop, fd, back, 4)));

    EXPECT_EQ(std::string(back.begin(), back.end()), text);
    const auto beyond = loop.block_on(read_all(loop, fd, back, 5));
    ASSERT_FALSE(beyond);
    EXPECT_EQ(beyond.error().code, EIO);
    ::close(fd);
}

TEST(Loop, open_of_a_missing_file_reports_enoent_and_the_operation) {
    Loop loop;
    auto body = [](Loop &l) -> Task<> { co_await l.open(AT_FDCWD, "/nonexistent/x", O_RDONLY); };
    const auto r = loop.block_on(body(loop));
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code, ENOENT);
    EXPECT_EQ(r.error().what, "open");
}

TEST(Loop, caught_operation_yields_the_error_and_the_task_goes_on) {
    Loop loop;
    auto body = [](Loop &l) -> Task<int> {
        std::array<u8, 4> b{};
        const auto r = co_await l.read(-1, b).caught();
        co_return r ? 0 : r.error().code;
    };
    EXPECT_EQ(loop.block_on(body(loop)).value(), EBADF);
}

TEST(Loop, sleep_lasts_as_long_as_asked) {
    Loop loop;
    auto body = [](Loop &l) -> Task<> { co_await l.sleep(20'000'000); };
    const auto start = Steady::now();
    ASSERT_TRUE(loop.block_on(body(loop)));
    EXPECT_GE(Steady::now() - start, 20ms);
}

TEST(Loop, poll_yields_what_happened) {
    Loop loop;
    Pipe p;
    ASSERT_EQ(::write(p.ends[1], "x", 1), 1);
    auto body = [](Loop &l, int fd) -> Task<int> {
        const int events = co_await l.poll(fd, POLLIN);
        co_return events;
    };
    EXPECT_EQ(loop.block_on(body(loop, p.ends[0])).value() & POLLIN, POLLIN);
}

Task<> serve(Loop &loop, int listener, std::string &got) {
    const int fd = co_await loop.accept(listener);
    std::array<u8, 16> buffer{};
    const int n = co_await loop.receive(fd, buffer);
    got.assign(buffer.begin(), buffer.begin() + n);
    co_await loop.close(fd);
}

Task<> call(Loop &loop, const sockaddr_in &to) {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    co_await loop.connect(fd, reinterpret_cast<const sockaddr &>(to), sizeof to);
    co_await loop.send(fd, bytes("hello"));
    co_await loop.close(fd);
}

TEST(Loop, sockets_connect_send_and_accept) {
    Loop loop;
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr *>(&a), sizeof a), 0);
    ASSERT_EQ(::listen(listener, 1), 0);
    socklen_t length = sizeof a;
    ASSERT_EQ(::getsockname(listener, reinterpret_cast<sockaddr *>(&a), &length), 0);
    std::string got;

    TaskGroup group(loop);
    group.spawn(serve(loop, listener, got));
    group.spawn(call(loop, a));
    const auto r = group.join();

    EXPECT_TRUE(r) << (r ? "" : r.error().what);
    EXPECT_EQ(got, "hello");
    ::close(listener);
}

TEST(Loop, more_operations_than_the_ring_holds_all_complete) {
    Loop loop(4);
    TaskGroup group(loop);
    int done = 0;
    auto body = [](Loop &l, int &n) -> Task<> {
        co_await l.sleep(1000);
        ++n;
    };
    for (int i = 0; i < 500; ++i)
        group.spawn(body(loop, done));
    ASSERT_TRUE(group.join());
    EXPECT_EQ(done, 500);
}

TEST(Loop, posts_of_many_threads_all_arrive_in_each_threads_order) {
    constexpr int threads = 4, each = 20'000;
    Loop loop;
    std::array<int, threads> last{};
    int out_of_order = 0, total = 0;
    std::vector<std::thread> senders;
    for (usize t = 0; t < threads; ++t)
        senders.emplace_back([&, t] {
            for (int i = 1; i <= each; ++i)
                loop.post([&, t, i] {
                    out_of_order += last[t] != i - 1;
                    last[t] = i;
                    if (++total == threads * each)
                        loop.stop();
                });
        });
    loop.run();
    for (auto &s : senders)
        s.join();
    EXPECT_EQ(total, threads * each);
    EXPECT_EQ(out_of_order, 0);
}

TEST(Loop, post_wakes_a_sleeping_loop_each_time) {
    Loop loop;
    int n = 0;
    std::atomic<int> seen{0};
    std::thread sender([&] {
        for (int i = 0; i < 200; ++i) {
            loop.post([&] { seen.store(++n); });
            while (seen.load() != i + 1)
                std::this_thread::yield();
        }
        loop.stop();
    });
    loop.run();
    sender.join();
    EXPECT_EQ(n, 200);
}

TEST(Loop, stop_from_another_thread_ends_run) {
    Loop loop;
    std::thread stopper([&] {
        std::this_thread::sleep_for(5ms);
        loop.stop();
    });
    loop.run();
    stopper.join();
    SUCCEED();
}

struct Stopper {
    void fire() { loop.stop(); }
    Loop &loop;
};

TEST(Loop, sleeps_until_the_clocks_next_deadline) {
    Loop loop;
    HostClock clock;
    Stopper stopper{loop};
    Timer timer(clock, Callback::to<&Stopper::fire>(&stopper));
    clock.resume();
    timer.arm_in(15'000'000);
    const auto start = Steady::now();
    loop.drive(&clock);
    loop.run();
    loop.drive(nullptr);
    EXPECT_FALSE(timer.armed());
    EXPECT_GE(Steady::now() - start, 14ms);
    EXPECT_LT(Steady::now() - start, 5s);
}

TEST(Loop, timer_armed_by_another_thread_wakes_the_sleeping_loop) {
    Loop loop;
    HostClock clock;
    Stopper stopper{loop};
    Timer far(clock, Callback::to<&Stopper::fire>(&stopper));
    Timer near(clock, Callback::to<&Stopper::fire>(&stopper));
    clock.resume();
    far.arm_in(Time{60} * 1'000'000'000);
    loop.drive(&clock);
    const auto start = Steady::now();
    std::thread other([&] {
        std::this_thread::sleep_for(5ms);
        near.arm_in(1'000'000);
    });
    loop.run();
    other.join();
    loop.drive(nullptr);
    EXPECT_LT(Steady::now() - start, 20s);
    EXPECT_TRUE(far.armed());
}

TEST(Loop, signal_is_read_by_a_task) {
    Loop loop;
    Signals signals(loop, {SIGUSR1});
    ::kill(::getpid(), SIGUSR1);
    EXPECT_EQ(loop.block_on(signals.next()).value(), SIGUSR1);
}

} // namespace
} // namespace rhea::loop
