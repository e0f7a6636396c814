// dm/time and dm/irq: clocks, timers, frequencies, lines.
#include "dm/device/bench.h"
#include "dm/irq/line.h"
#include "dm/time/frequency.h"
#include "dm/time/timer.h"
#include <chrono>
#include <gtest/gtest.h>
#include <thread>

namespace rhea {
namespace {

struct Ticker : Owner {
    explicit Ticker(Clock &clock, char name = 'x', std::string *log = nullptr)
        : timer(clock, *this, Callback::to<&Ticker::tick>(this)), name_(name), log_(log) {}
    void tick() noexcept {
        ++ticks;
        at = timer.clock().now();
        if (log_)
            *log_ += name_;
        if (period >= 0)
            timer.arm(at + period);
    }
    void settle() noexcept override { ++settled; }
    Timer timer;
    int ticks = 0, settled = 0;
    Time at = -1, period = -1;

private:
    char name_;
    std::string *log_;
};

TEST(ManualClock, fires_in_order_of_deadlines_then_of_arming) {
    ManualClock clock;
    std::string log;
    Ticker a(clock, 'a', &log), b(clock, 'b', &log), c(clock, 'c', &log), d(clock, 'd', &log);
    a.timer.arm(30);
    b.timer.arm(10);
    c.timer.arm(30);
    d.timer.arm(31);
    EXPECT_EQ(clock.next_deadline(), 10);
    clock.advance(30);
    EXPECT_EQ(log, "bac");
    EXPECT_EQ(b.at, 10);
    EXPECT_EQ(b.settled, 1);
    EXPECT_FALSE(a.timer.armed());
    EXPECT_TRUE(clock.advance_to_next());
    EXPECT_EQ(clock.now(), 31);
    EXPECT_FALSE(clock.advance_to_next());
}

TEST(ManualClock, a_periodic_timer_sees_each_of_its_times) {
    ManualClock clock;
    Ticker t(clock);
    t.period = 10;
    t.timer.arm(10);
    clock.advance(105);
    EXPECT_EQ(t.ticks, 10);
    EXPECT_EQ(t.at, 100);
    EXPECT_EQ(clock.now(), 105);
}

TEST(ManualClock, a_timer_that_stands_still_does_not_hang_the_clock) {
    ManualClock clock;
    Ticker stuck(clock), other(clock);
    stuck.period = 0;
    stuck.timer.arm(10);
    other.timer.arm(50);
    clock.advance(100);
    EXPECT_GE(stuck.ticks, 1);
    EXPECT_LT(stuck.ticks, 10000);
    EXPECT_EQ(other.ticks, 1);
    EXPECT_EQ(clock.now(), 100);
    stuck.timer.cancel();
}

TEST(Timer, the_last_arming_counts) {
    ManualClock clock;
    Ticker t(clock);
    t.timer.arm(10);
    t.timer.arm(20);
    t.timer.arm(20);
    EXPECT_EQ(t.timer.deadline(), 20);
    clock.advance(15);
    EXPECT_EQ(t.ticks, 0);
    t.timer.cancel();
    clock.advance(100);
    EXPECT_EQ(t.ticks, 0);
    t.timer.arm(50); // past: at once
    clock.advance(0);
    EXPECT_EQ(t.ticks, 1);
    EXPECT_EQ(t.at, 115);
}

TEST(Timer, beyond_the_end_of_time_is_never) {
    ManualClock clock;
    clock.set(1000);
    Ticker t(clock);
    t.timer.arm_in(never - 10);
    EXPECT_FALSE(t.timer.armed());
    t.timer.arm_in(never - 1001);
    EXPECT_EQ(t.timer.deadline(), never - 1);
    EXPECT_EQ(later(INT64_MIN, -1), INT64_MIN);
    t.timer.cancel();
}

TEST(Timer, one_that_goes_away_takes_its_deadline_along) {
    ManualClock clock;
    {
        Ticker t(clock);
        t.timer.arm(10);
    }
    EXPECT_EQ(clock.next_deadline(), never);
    clock.advance(20);
}

TEST(HostClock, runs_stops_and_goes_on_where_it_stopped) {
    HostClock clock;
    EXPECT_EQ(clock.now(), 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(clock.now(), 0);
    clock.set(1'000'000'000);
    clock.resume();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    clock.stop();
    const Time stopped = clock.now();
    EXPECT_GE(stopped, 1'002'000'000);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    EXPECT_EQ(clock.now(), stopped);
    clock.resume();
    EXPECT_GE(clock.now(), stopped);
}

TEST(HostClock, tells_the_loop_about_earlier_deadlines) {
    struct Loop final : DeadlineListener {
        void deadline_changed() noexcept override { ++told; }
        std::atomic<int> told{0};
    } loop;
    HostClock clock;
    clock.set_deadline_listener(&loop);
    Ticker a(clock), b(clock);
    a.timer.arm(2'000'000'000'000);
    EXPECT_EQ(loop.told, 1);
    b.timer.arm(3'000'000'000'000);
    EXPECT_EQ(loop.told, 1);
    b.timer.arm(1'000'000);
    EXPECT_EQ(loop.told, 2);
    EXPECT_LT(clock.host_ns_until_deadline(), 0); // it does not run
    clock.resume();
    EXPECT_EQ(loop.told, 3);
    EXPECT_LE(clock.host_ns_until_deadline(), 1'000'000);
    while (clock.host_ns_until_deadline() > 0)
        std::this_thread::yield();
    clock.run_due();
    EXPECT_EQ(b.ticks, 1);
    EXPECT_EQ(a.ticks, 0);
    clock.set_deadline_listener(nullptr);
}

TEST(HostClock, arming_from_many_threads_loses_nothing) {
    HostClock clock;
    clock.resume();
    constexpr int threads = 4, rounds = 100;
    std::vector<std::unique_ptr<Ticker>> tickers;
    for (int i = 0; i < threads; ++i)
        tickers.push_back(std::make_unique<Ticker>(clock));
    std::atomic<int> live{threads};
    std::vector<std::thread> arming;
    for (auto &t : tickers)
        arming.emplace_back([&clock, &live, t = t.get()] {
            for (int i = 0; i < rounds;) {
                int before = 0;
                t->enter([&] {
                    before = t->ticks;
                    t->timer.arm(clock.now() + i % 3 * 1000);
                });
                for (int now = before; now == before; std::this_thread::yield())
                    t->enter([&] { now = t->ticks; });
                ++i;
            }
            --live;
        });
    while (live)
        clock.run_due();
    for (auto &t : arming)
        t.join();
    for (auto &t : tickers)
        EXPECT_EQ(t->ticks, rounds);
}

TEST(HostClock, timers_come_and_go_while_others_fire) {
    HostClock clock;
    clock.resume();
    std::atomic<bool> stop{false};
    std::thread loop([&] {
        while (!stop)
            clock.run_due();
    });
    for (int i = 0; i < 2000; ++i) {
        Ticker t(clock);
        t.timer.arm(clock.now());
        if (i % 2)
            std::this_thread::yield();
        t.timer.cancel();
    }
    stop = true;
    loop.join();
    EXPECT_EQ(clock.next_deadline(), never);
}

TEST(HostClock, a_cancel_under_the_device_lock_is_exact) {
    HostClock clock;
    clock.resume();
    std::atomic<bool> stop{false};
    std::thread loop([&] {
        while (!stop)
            clock.run_due();
    });
    Ticker t(clock);
    for (int i = 0; i < 1000; ++i) {
        int before = 0, after = 0;
        t.enter([&] { t.timer.arm(clock.now()); });
        t.enter([&] {
            t.timer.cancel();
            before = t.ticks;
        });
        std::this_thread::yield();
        t.enter([&] { after = t.ticks; });
        ASSERT_EQ(before, after);
    }
    stop = true;
    loop.join();
}

TEST(Frequency, conversions_are_exact_and_never_early) {
    constexpr Frequency pit{1'193'182};
    EXPECT_EQ(pit.ticks(1'000'000'000), 1'193'182u);
    EXPECT_EQ(pit.ticks(-5), 0u);
    for (const u64 t : {u64{1}, u64{65536}, u64{1'193'182} * 3600 * 24 * 365, u64{1} << 62}) {
        const i64 ns = pit.ns(t);
        if (ns == INT64_MAX)
            continue;
        EXPECT_GE(pit.ticks(ns), t);
        EXPECT_LT(pit.ticks(ns - 1), t);
    }
    EXPECT_EQ(pit.ns(~u64{0}), INT64_MAX);
    EXPECT_EQ(mul_div(~u64{0}, 3, 3), ~u64{0});
    EXPECT_EQ(mul_div(~u64{0}, 3, 2), ~u64{0}); // saturates
    EXPECT_EQ(mul_div_up(7, 1, 2), 4u);
}

TEST(Lines, a_shared_line_is_high_while_any_source_is) {
    ProbeIrq probe;
    SharedLine shared(probe.line(9));
    const IrqLine a = shared.input(0), b = shared.input(1);
    a.set(true);
    b.set(true);
    a.set(false);
    EXPECT_TRUE(probe.level(9));
    a.set(false);
    b.set(false);
    EXPECT_FALSE(probe.level(9));
    EXPECT_EQ(probe.rises(9), 1u);
}

TEST(Lines, a_split_line_drives_all_and_a_loose_one_nothing) {
    ProbeIrq probe;
    SplitLine<2> split(probe.line(1), probe.line(2));
    split.input().pulse();
    EXPECT_EQ(probe.rises(1) + probe.rises(2), 2u);
    EXPECT_FALSE(probe.level(2));
    IrqLine{}.raise();
    EXPECT_FALSE(IrqLine{});
}

TEST(Lines, a_shared_line_ends_right_whoever_comes_last) {
    ProbeIrq probe;
    SharedLine shared(probe.line(0));
    std::vector<std::thread> sources;
    for (u32 n = 0; n < 4; ++n)
        sources.emplace_back([&, n] {
            for (int i = 0; i < 5000; ++i)
                shared.input(n).set(i % 2 == 0);
        });
    for (auto &t : sources)
        t.join();
    EXPECT_FALSE(probe.level(0));
    EXPECT_GE(probe.rises(0), 1u);
}

} // namespace
} // namespace rhea
