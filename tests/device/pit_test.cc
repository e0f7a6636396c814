// The 8254 and port 61h.
#include "dm/device/bench.h"
#include "hw/timer/pit.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct PitTest : testing::Test {
    PitTest() {
        bench.plug(pit);
        pit.reset();
    }
    void program(unsigned channel, unsigned mode, u16 count, bool bcd = false) {
        bench.out8(0x43, static_cast<u8>(channel << 6 | 0x30 | mode << 1 | bcd));
        bench.out8(static_cast<u16>(0x40 + channel), static_cast<u8>(count));
        bench.out8(static_cast<u16>(0x40 + channel), static_cast<u8>(count >> 8));
    }
    u16 latched(unsigned channel) {
        bench.out8(0x43, static_cast<u8>(channel << 6));
        const u16 port = static_cast<u16>(0x40 + channel);
        const u8 low = bench.in8(port);
        return static_cast<u16>(bench.in8(port) << 8 | low);
    }
    u8 status(unsigned channel) {
        bench.out8(0x43, static_cast<u8>(0xe0 | 2u << channel));
        return bench.in8(static_cast<u16>(0x40 + channel));
    }
    // Advances to the given tick from the start of time.
    void to_tick(u64 tick) { bench.clock.advance_to(Pit::frequency.ns(tick)); }
    u64 tick() const { return Pit::frequency.ticks(bench.clock.now()); }
    void step(u64 ticks) { to_tick(tick() + ticks); }

    Bench bench;
    Pit pit{"pit", bench.clock, bench.irq.line(0)};
};

TEST_F(PitTest, mode_2_gives_an_edge_every_count) {
    program(0, 2, 1000);
    const u32 before = bench.irq.rises(0);
    step(1 + 10 * 1000);
    EXPECT_EQ(bench.irq.rises(0) - before, 10u);
}

TEST_F(PitTest, a_second_of_18_2_hz_has_18_edges) {
    program(0, 3, 0); // 65536
    const u32 before = bench.irq.rises(0);
    bench.clock.advance(1'000'000'000);
    EXPECT_EQ(bench.irq.rises(0) - before, 18u);
}

TEST_F(PitTest, mode_0_rises_once_after_count_and_one_clock) {
    program(0, 0, 100);
    EXPECT_FALSE(bench.irq.level(0));
    step(100);
    EXPECT_FALSE(bench.irq.level(0));
    step(1);
    EXPECT_TRUE(bench.irq.level(0));
    step(200'000);
    EXPECT_EQ(bench.irq.rises(0), 1u);
}

TEST_F(PitTest, mode_0_stops_at_the_first_byte_of_a_new_count) {
    program(0, 0, 100);
    step(50);
    bench.out8(0x40, 10);
    step(500);
    EXPECT_FALSE(bench.irq.level(0));
    bench.out8(0x40, 0);
    step(12);
    EXPECT_TRUE(bench.irq.level(0));
}

TEST_F(PitTest, a_latched_count_stays_until_it_is_read) {
    program(0, 2, 0x1000);
    step(0x100 + 1);
    bench.out8(0x43, 0x00);
    step(0x200);
    bench.out8(0x43, 0x00); // a second latch is ignored
    EXPECT_EQ(bench.in8(0x40), 0x00);
    EXPECT_EQ(bench.in8(0x40), 0x0f);
    EXPECT_EQ(latched(0), 0x0d00);
}

TEST_F(PitTest, mode_3_counts_by_two_and_toggles_in_the_middle) {
    program(2, 3, 1000);
    bench.out8(0x61, 0x01);
    step(1 + 100);
    EXPECT_EQ(latched(2), 800);
    EXPECT_TRUE(bench.in8(0x61) & 0x20);
    step(450);
    EXPECT_EQ(latched(2), 900);
    EXPECT_FALSE(bench.in8(0x61) & 0x20);
}

TEST_F(PitTest, mode_3_of_an_odd_count_is_high_for_one_clock_more) {
    program(2, 3, 5);
    bench.out8(0x61, 0x01);
    step(1);
    std::string wave;
    for (int i = 0; i < 10; ++i, step(1))
        wave += bench.in8(0x61) & 0x20 ? 'h' : 'l';
    EXPECT_EQ(wave, "hhhllhhhll");
}

TEST_F(PitTest, mode_2_is_low_for_one_clock) {
    program(2, 2, 4);
    bench.out8(0x61, 0x01);
    step(1);
    std::string wave;
    for (int i = 0; i < 8; ++i, step(1))
        wave += bench.in8(0x61) & 0x20 ? 'h' : 'l';
    EXPECT_EQ(wave, "hhhlhhhl");
}

TEST_F(PitTest, modes_4_and_5_strobe_for_one_clock_after_the_count) {
    for (const unsigned mode : {4u, 5u}) {
        bench.out8(0x61, 0x00);
        program(2, mode, 3);
        bench.out8(0x61, 0x01); // the gate counts, or triggers
        if (mode == 4)
            program(2, mode, 3);
        step(1);
        std::string wave;
        for (int i = 0; i < 6; ++i, step(1))
            wave += bench.in8(0x61) & 0x20 ? 'h' : 'l';
        EXPECT_EQ(wave, "hhhlhh") << "mode " << mode;
    }
}

TEST_F(PitTest, mode_1_is_a_one_shot_that_a_second_trigger_starts_over) {
    bench.out8(0x61, 0x00);
    program(2, 1, 10);
    EXPECT_TRUE(bench.in8(0x61) & 0x20);
    bench.out8(0x61, 0x01);
    step(8);
    EXPECT_FALSE(bench.in8(0x61) & 0x20);
    bench.out8(0x61, 0x00);
    bench.out8(0x61, 0x01);
    step(8);
    EXPECT_FALSE(bench.in8(0x61) & 0x20);
    step(3);
    EXPECT_TRUE(bench.in8(0x61) & 0x20);
}

TEST_F(PitTest, the_gate_holds_the_count_of_mode_0) {
    // As Linux calibrates its time stamp counter.
    bench.out8(0x61, 0x01);
    program(2, 0, 100);
    step(41);
    bench.out8(0x61, 0x00);
    step(1000);
    EXPECT_EQ(latched(2), 60);
    EXPECT_FALSE(bench.in8(0x61) & 0x20);
    bench.out8(0x61, 0x01);
    step(60);
    EXPECT_TRUE(bench.in8(0x61) & 0x20);
}

TEST_F(PitTest, a_new_count_of_mode_2_waits_for_the_end_of_the_period) {
    program(0, 2, 100);
    step(1 + 50);
    const u32 before = bench.irq.rises(0);
    bench.out8(0x40, 0xe8);
    bench.out8(0x40, 0x03);
    EXPECT_TRUE(status(0) & 0x40); // not loaded yet
    step(50);
    EXPECT_EQ(bench.irq.rises(0) - before, 1u);
    EXPECT_FALSE(status(0) & 0x40);
    step(999);
    EXPECT_EQ(bench.irq.rises(0) - before, 1u);
    step(1);
    EXPECT_EQ(bench.irq.rises(0) - before, 2u);
}

TEST_F(PitTest, bcd_counts_in_decimal) {
    program(2, 2, 0x1000, true);
    bench.out8(0x61, 0x01);
    step(1 + 1);
    EXPECT_EQ(latched(2), 0x0999);
    program(2, 2, 0, true); // 10000
    step(1 + 1);
    bench.out8(0x61, 0x01);
    EXPECT_EQ(latched(2), 0x9999);
}

TEST_F(PitTest, read_back_gives_status_and_then_the_count) {
    program(1, 2, 0x0018);
    bench.out8(0x43, 0xc0 | 2u << 1); // both, of channel 1
    EXPECT_EQ(bench.in8(0x41) & 0x3f, 0x34);
    EXPECT_EQ(bench.in8(0x41), 0x18);
    EXPECT_EQ(bench.in8(0x41), 0x00);
}

TEST_F(PitTest, one_byte_access_modes_take_the_other_byte_as_zero) {
    bench.out8(0x43, 0x94); // channel 2, low byte, mode 2
    bench.out8(0x42, 0x20);
    bench.out8(0x61, 0x01);
    step(1);
    EXPECT_EQ(bench.in8(0x42), 0x20);
    bench.out8(0x43, 0xa4); // high byte
    bench.out8(0x42, 0x20);
    EXPECT_EQ(bench.in8(0x42), 0x20);
}

TEST_F(PitTest, a_count_of_one_does_not_keep_the_host_busy) {
    program(0, 3, 1);
    program(0, 2, 2);
    const u32 before = bench.irq.rises(0);
    bench.clock.advance(100'000'000);
    EXPECT_GT(bench.irq.rises(0) - before, 1000u);
    EXPECT_LE(bench.irq.rises(0) - before, 10'000u);
}

TEST_F(PitTest, the_refresh_bit_of_port_61h_toggles_every_15_microseconds) {
    int changes = 0;
    bool last = bench.in8(0x61) & 0x10;
    for (int us = 0; us < 300; ++us) {
        bench.clock.advance(1000);
        const bool now = bench.in8(0x61) & 0x10;
        changes += now != last;
        last = now;
    }
    EXPECT_NEAR(changes, 20, 1);
}

} // namespace
} // namespace rhea::hw
