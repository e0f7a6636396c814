// The pair of 8259A controllers, driven as firmware and Linux drive it.
#include "dm/device/bench.h"
#include "hw/intc/i8259.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

constexpr u32 intr = 100;

struct Pics : testing::Test {
    Pics() { bench.plug(pics); }
    // As a PC's firmware does: master at 08h, slave at 70h, everything unmasked.
    void initialise(u8 icw4 = 0x01) {
        bench.out8(0x20, 0x11);
        bench.out8(0x21, 0x08);
        bench.out8(0x21, 0x04);
        bench.out8(0x21, icw4);
        bench.out8(0xa0, 0x11);
        bench.out8(0xa1, 0x70);
        bench.out8(0xa1, 0x02);
        bench.out8(0xa1, 0x01);
        bench.out8(0x21, 0);
        bench.out8(0xa1, 0);
    }
    u8 in_service(u16 port) {
        bench.out8(port, 0x0b);
        return bench.in8(port);
    }
    u8 requested(u16 port) {
        bench.out8(port, 0x0a);
        return bench.in8(port);
    }
    void pulse(u32 line) {
        pics.set_line(line, true);
        pics.set_line(line, false);
    }
    bool asks() const { return bench.irq.level(intr); }

    Bench bench;
    I8259Pair pics{"pic", bench.irq.line(intr)};
};

TEST_F(Pics, an_edge_is_delivered_once_and_blocks_until_eoi) {
    initialise();
    pics.set_line(4, true);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x0c);
    EXPECT_FALSE(asks());
    EXPECT_EQ(in_service(0x20), 0x10);
    pics.set_line(4, false);
    pulse(4); // another edge while it is served
    EXPECT_FALSE(asks());
    bench.out8(0x20, 0x20);
    EXPECT_TRUE(asks());
}

TEST_F(Pics, a_line_that_stays_high_makes_no_second_edge) {
    initialise();
    pics.set_line(3, true);
    pics.acknowledge();
    bench.out8(0x20, 0x20);
    pics.set_line(3, true);
    EXPECT_FALSE(asks());
}

TEST_F(Pics, a_higher_priority_interrupts_a_lower_one_and_not_the_other_way) {
    initialise();
    pulse(5);
    EXPECT_EQ(pics.acknowledge(), 0x0d);
    pulse(6);
    EXPECT_FALSE(asks());
    pulse(1);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x09);
    bench.out8(0x20, 0x20); // ends the highest in service: 1
    EXPECT_EQ(in_service(0x20), 0x20);
}

TEST_F(Pics, the_slave_comes_through_the_cascade) {
    initialise();
    pulse(12);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x74);
    EXPECT_EQ(in_service(0x20), 0x04);
    EXPECT_EQ(in_service(0xa0), 0x10);
    EXPECT_FALSE(asks());
    bench.out8(0xa0, 0x64); // specific EOIs, as Linux sends them
    bench.out8(0x20, 0x62);
    EXPECT_EQ(in_service(0x20) | in_service(0xa0), 0);
}

TEST_F(Pics, a_higher_slave_level_waits_in_fully_nested_and_passes_in_special_fully_nested_mode) {
    initialise();
    pulse(12);
    pics.acknowledge();
    pulse(8);
    EXPECT_FALSE(asks());
    initialise(0x11);
    pulse(12);
    pics.acknowledge();
    pulse(8);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x70);
}

TEST_F(Pics, masked_requests_wait) {
    initialise();
    bench.out8(0x21, 0xff);
    pulse(0);
    EXPECT_FALSE(asks());
    EXPECT_EQ(requested(0x20), 0x01);
    bench.out8(0x21, 0xfe);
    EXPECT_TRUE(asks());
    EXPECT_EQ(bench.in8(0x21), 0xfe);
}

TEST_F(Pics, an_acknowledge_with_nothing_pending_is_spurious_level_7) {
    initialise();
    EXPECT_EQ(pics.acknowledge(), 0x0f);
    EXPECT_EQ(in_service(0x20), 0);
    pics.set_line(10, true);
    bench.out8(0xa1, 0xff); // masked between INTR and INTA: the slave has nothing any more
    bench.out8(0x20, 0x20);
    EXPECT_FALSE(asks());
}

TEST_F(Pics, a_level_input_asks_as_long_as_it_is_high) {
    initialise();
    bench.out8(0x4d1, 0x0c); // 10 and 11
    EXPECT_EQ(bench.in8(0x4d1), 0x0c);
    pics.set_line(10, true);
    EXPECT_EQ(pics.acknowledge(), 0x72);
    bench.out8(0xa0, 0x20);
    bench.out8(0x20, 0x20);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x72);
    pics.set_line(10, false);
    bench.out8(0xa0, 0x20);
    bench.out8(0x20, 0x20);
    EXPECT_FALSE(asks());
}

TEST_F(Pics, elcr_bits_of_the_boards_own_interrupts_stay_edge) {
    bench.out8(0x4d0, 0xff);
    bench.out8(0x4d1, 0xff);
    EXPECT_EQ(bench.in8(0x4d0), 0xf8);
    EXPECT_EQ(bench.in8(0x4d1), 0xde);
}

TEST_F(Pics, automatic_eoi_leaves_nothing_in_service_and_rotates_if_told) {
    initialise(0x03);
    pulse(3);
    pics.acknowledge();
    EXPECT_EQ(in_service(0x20), 0);
    bench.out8(0x20, 0x80); // rotate in automatic EOI mode
    pulse(3);
    pics.acknowledge(); // now 3 has the lowest priority, 4 the highest
    pulse(0);
    pulse(5);
    EXPECT_EQ(pics.acknowledge(), 0x0d);
}

TEST_F(Pics, rotation_on_eoi_gives_the_served_level_the_lowest_priority) {
    initialise();
    pulse(0);
    pics.acknowledge();
    bench.out8(0x20, 0xa0); // rotate on non-specific EOI
    pulse(0);
    pulse(7);
    EXPECT_EQ(pics.acknowledge(), 0x0f);
    bench.out8(0x20, 0x20);
    bench.out8(0x20, 0xc0 | 4); // set priority: 4 is the lowest, 5 the highest
    pulse(5);
    EXPECT_EQ(pics.acknowledge(), 0x0d);
}

TEST_F(Pics, special_mask_mode_lets_lower_levels_through) {
    initialise();
    pulse(1);
    pics.acknowledge();
    pulse(6);
    EXPECT_FALSE(asks());
    bench.out8(0x20, 0x68);
    bench.out8(0x21, 0x02);
    ASSERT_TRUE(asks());
    EXPECT_EQ(pics.acknowledge(), 0x0e);
    bench.out8(0x20, 0x48);
    EXPECT_EQ(in_service(0x20), 0x42);
}

TEST_F(Pics, poll_acknowledges_without_intr) {
    initialise();
    bench.out8(0x20, 0x0c);
    EXPECT_EQ(bench.in8(0x20), 0x07);
    pulse(5);
    bench.out8(0x20, 0x0c);
    EXPECT_EQ(bench.in8(0x20), 0x85);
    EXPECT_EQ(in_service(0x20), 0x20);
    EXPECT_FALSE(asks());
}

TEST_F(Pics, icw1_forgets_edges_and_the_mask_and_keeps_levels) {
    initialise();
    bench.out8(0x4d0, 0x20);
    pics.set_line(3, true);
    pics.set_line(5, true);
    bench.out8(0x21, 0xaa);
    bench.out8(0x20, 0x11);
    EXPECT_FALSE(asks()); // not before the last initialisation word
    bench.out8(0x21, 0x08);
    bench.out8(0x21, 0x04);
    bench.out8(0x21, 0x01);
    EXPECT_EQ(bench.in8(0x21), 0x00);
    EXPECT_EQ(requested(0x20), 0x20);
}

TEST_F(Pics, restoring_a_level_makes_no_edge) {
    initialise();
    pics.set_line(4, true);
    pics.acknowledge();
    bench.out8(0x20, 0x20);
    const auto saved = Bench::save(pics);
    ASSERT_TRUE(Bench::load(pics, saved));
    pics.set_line(4, true);
    EXPECT_FALSE(asks());
}

} // namespace
} // namespace rhea::hw
