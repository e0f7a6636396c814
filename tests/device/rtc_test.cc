// The MC146818 and its RAM.
#include "dm/device/bench.h"
#include "hw/timer/rtc.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

constexpr i64 second = 1'000'000'000;
constexpr i64 noon = 1'700'049'600; // 2023-11-15 12:00:00 UTC, a Wednesday

struct RtcTest : testing::Test {
    RtcTest() { bench.plug(rtc); }
    u8 get(u8 index) {
        bench.out8(0x70, index);
        return bench.in8(0x71);
    }
    void put(u8 index, u8 value) {
        bench.out8(0x70, index);
        bench.out8(0x71, value);
    }
    // hours, minutes, seconds
    u32 time() { return u32{get(4)} << 16 | u32{get(2)} << 8 | get(0); }
    u32 date() { return u32{get(0x32)} << 24 | u32{get(9)} << 16 | u32{get(8)} << 8 | get(7); }

    Bench bench;
    Rtc rtc{"rtc", bench.clock, bench.irq.line(8), noon *second};
};

TEST_F(RtcTest, it_shows_the_calendar_in_bcd_and_24_hours) {
    EXPECT_EQ(time(), 0x120000u);
    EXPECT_EQ(date(), 0x20231115u);
    EXPECT_EQ(get(6), 4); // Wednesday, Sunday is 1
    bench.clock.advance(43 * second + 17 * 60 * second);
    EXPECT_EQ(time(), 0x121743u);
}

TEST_F(RtcTest, binary_and_12_hour_forms) {
    put(0x0b, 0x04); // binary, 12 hours
    bench.clock.advance(13 * 3600 * second + 59 * second);
    EXPECT_EQ(get(0), 59);
    EXPECT_EQ(get(4), 1); // one o'clock in the morning
    put(0x0b, 0x00);
    bench.clock.advance(12 * 3600 * second);
    EXPECT_EQ(get(4), 0x81);
}

TEST_F(RtcTest, midnight_carries_into_the_date) {
    put(0x07, 0x28);
    put(0x08, 0x02);
    put(0x09, 0x24); // 28 February 2024, a leap year
    put(0x04, 0x23);
    put(0x02, 0x59);
    put(0x00, 0x59);
    bench.clock.advance(second);
    EXPECT_EQ(time(), 0x000000u);
    EXPECT_EQ(date(), 0x20240229u);
}

TEST_F(RtcTest, setting_holds_the_time_still) {
    put(0x0b, 0x82);
    put(0x04, 0x08);
    put(0x02, 0x30);
    put(0x00, 0x15);
    bench.clock.advance(10 * second);
    EXPECT_EQ(time(), 0x083015u);
    put(0x0b, 0x02);
    bench.clock.advance(5 * second);
    EXPECT_EQ(time(), 0x083020u);
}

TEST_F(RtcTest, the_first_update_comes_half_a_second_after_the_divider_starts) {
    put(0x0a, 0x76);
    put(0x00, 0x30);
    put(0x0a, 0x26);
    bench.clock.advance(second / 2 - 1);
    EXPECT_EQ(get(0), 0x30);
    bench.clock.advance(1);
    EXPECT_EQ(get(0), 0x31);
}

TEST_F(RtcTest, update_in_progress_announces_the_update) {
    EXPECT_EQ(get(0x0a), 0x26);
    bench.clock.advance(second - 1000);
    EXPECT_EQ(get(0x0a), 0xa6);
    bench.clock.advance(1000);
    EXPECT_EQ(get(0x0a), 0x26);
}

TEST_F(RtcTest, the_update_ended_interrupt_comes_once_a_second_until_it_is_read) {
    put(0x0b, 0x12);
    bench.clock.advance(second / 2);
    EXPECT_FALSE(bench.irq.level(8));
    bench.clock.advance(second);
    EXPECT_TRUE(bench.irq.level(8));
    EXPECT_EQ(get(0x0c), 0xd0); // periodic too, which is not enabled
    EXPECT_FALSE(bench.irq.level(8));
    EXPECT_EQ(get(0x0c) & 0x90, 0);
    bench.clock.advance(second);
    EXPECT_EQ(bench.irq.rises(8), 2u);
}

TEST_F(RtcTest, the_periodic_interrupt_has_its_rate) {
    put(0x0a, 0x26); // 1024 Hz
    put(0x0b, 0x42);
    for (int i = 0; i < 512; ++i) {
        bench.clock.advance(second / 1024 + 1);
        get(0x0c);
    }
    EXPECT_NEAR(bench.irq.rises(8), 512, 1);
    put(0x0a, 0x20); // off
    const u32 before = bench.irq.rises(8);
    bench.clock.advance(second);
    EXPECT_EQ(bench.irq.rises(8), before);
}

TEST_F(RtcTest, the_alarm_matches_and_dont_cares_match_anything) {
    put(0x01, 0x05);
    put(0x03, 0x01);
    put(0x05, 0x12);
    put(0x0b, 0x22);
    bench.clock.advance(64 * second);
    EXPECT_FALSE(bench.irq.level(8));
    bench.clock.advance(second);
    ASSERT_TRUE(bench.irq.level(8));
    EXPECT_EQ(get(0x0c) & 0xa0, 0xa0);
    put(0x03, 0xff);
    put(0x05, 0xc0);
    bench.clock.advance(60 * second); // second 5 of every minute
    EXPECT_TRUE(bench.irq.level(8));
}

TEST_F(RtcTest, flags_are_there_for_who_polls_without_interrupts) {
    get(0x0c);
    bench.clock.advance(second);
    EXPECT_EQ(get(0x0c) & 0x90, 0x10);
}

TEST_F(RtcTest, ram_and_time_survive_a_reset_and_interrupt_enables_do_not) {
    put(0x40, 0x5a);
    put(0x0b, 0x72);
    bench.clock.advance(3 * second);
    rtc.reset();
    EXPECT_EQ(get(0x40), 0x5a);
    EXPECT_EQ(get(0x0b), 0x02);
    EXPECT_EQ(time(), 0x120003u);
    EXPECT_FALSE(bench.irq.level(8));
}

TEST_F(RtcTest, status_d_says_that_the_battery_is_good_and_cannot_be_written) {
    put(0x0d, 0x00);
    EXPECT_EQ(get(0x0d), 0x80);
    EXPECT_EQ(bench.in8(0x70), 0xff);
}

} // namespace
} // namespace rhea::hw
