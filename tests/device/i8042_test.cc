// The keyboard controller as SeaBIOS and Linux probe it.
#include "dm/device/bench.h"
#include "hw/input/i8042.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct Requests final : MachineEvents {
    void reset_requested() noexcept override { ++resets; }
    void power_off_requested() noexcept override {}
    void exit_requested(u8) noexcept override {}
    void processor_shut_down(unsigned) noexcept override {}
    int resets = 0;
};
using Bytes = std::vector<u8>;

struct Controller : testing::Test {
    Controller() { bench.plug(controller); }
    void command(u8 byte) { bench.out8(0x64, byte); }
    void command(u8 byte, u8 argument) {
        bench.out8(0x64, byte);
        bench.out8(0x60, argument);
    }
    // What there is to read, with the source of each byte checked.
    Bytes answers(bool mouse = false) {
        Bytes got;
        while (got.size() < 100 && (bench.in8(0x64) & 1)) {
            EXPECT_EQ(bool(bench.in8(0x64) & 0x20), mouse);
            got.push_back(bench.in8(0x60));
        }
        return got;
    }
    Bytes keyboard(u8 byte) {
        bench.out8(0x60, byte);
        return answers();
    }
    Bytes mouse(u8 byte) {
        command(0xd4, byte);
        return answers(true);
    }
    bool press(std::initializer_list<u8> codes) {
        return controller.key({codes.begin(), codes.size()});
    }

    Bench bench;
    Requests events;
    I8042 controller{"i8042", bench.irq.line(1), bench.irq.line(12), events};
};

TEST_F(Controller, self_tests_pass) {
    command(0xaa);
    EXPECT_EQ(answers(), Bytes{0x55});
    EXPECT_TRUE(bench.in8(0x64) & 0x04);
    command(0xab);
    EXPECT_EQ(answers(), Bytes{0x00});
    command(0xa9);
    EXPECT_EQ(answers(), Bytes{0x00});
}

TEST_F(Controller, the_command_byte_is_kept) {
    command(0x60, 0x74);
    command(0x20);
    EXPECT_EQ(answers(), Bytes{0x74});
    command(0xae);
    command(0xa8);
    command(0x20);
    EXPECT_EQ(answers(), Bytes{0x44});
}

TEST_F(Controller, the_keyboard_answers_and_identifies_itself) {
    EXPECT_EQ(keyboard(0xff), (Bytes{0xfa, 0xaa}));
    EXPECT_EQ(keyboard(0xf2), (Bytes{0xfa, 0xab, 0x41})); // translated
    command(0x60, 0x01);
    EXPECT_EQ(keyboard(0xf2), (Bytes{0xfa, 0xab, 0x83}));
    EXPECT_EQ(keyboard(0xed), Bytes{0xfa});
    EXPECT_EQ(keyboard(0x07), Bytes{0xfa});
    EXPECT_EQ(controller.state().keyboard.leds, 7);
    EXPECT_EQ(keyboard(0xee), Bytes{0xee});
    EXPECT_EQ(keyboard(0x01), Bytes{0xfe});
    EXPECT_EQ(keyboard(0xf0), Bytes{0xfa});
    EXPECT_EQ(keyboard(0x00), (Bytes{0xfa, 0x02}));
}

TEST_F(Controller, keys_are_translated_to_set_1_and_each_byte_is_an_edge) {
    command(0x60, 0x41);
    ASSERT_TRUE(press({0x1c}));       // A down
    ASSERT_TRUE(press({0xf0, 0x1c})); // A up
    ASSERT_TRUE(press({0xe0, 0x75})); // cursor up
    EXPECT_TRUE(bench.irq.level(1));
    EXPECT_EQ(answers(), (Bytes{0x1e, 0x9e, 0xe0, 0x48}));
    EXPECT_EQ(bench.irq.rises(1), 4u);
    EXPECT_FALSE(bench.irq.level(1));
}

TEST_F(Controller, untranslated_keys_are_set_2) {
    command(0x60, 0x01);
    press({0xf0, 0x1c});
    EXPECT_EQ(answers(), (Bytes{0xf0, 0x1c}));
}

TEST_F(Controller, a_disabled_keyboard_keeps_its_bytes_and_a_full_queue_takes_no_half_key) {
    command(0xad);
    int taken = 0;
    for (int i = 0; i < 100; ++i)
        taken += press({0xf0, 0x1c});
    EXPECT_EQ(taken, 16);
    EXPECT_EQ(answers(), Bytes{});
    command(0xae);
    EXPECT_EQ(answers(), Bytes(16, 0x9e));
}

TEST_F(Controller, a_keyboard_that_does_not_scan_sends_no_keys) {
    EXPECT_EQ(keyboard(0xf5), Bytes{0xfa});
    EXPECT_FALSE(press({0x1c}));
    EXPECT_EQ(keyboard(0xf4), Bytes{0xfa});
    EXPECT_TRUE(press({0x1c}));
}

TEST_F(Controller, linux_finds_the_mouse_port) {
    command(0xd3, 0x5a); // loop: as if the mouse had sent it
    EXPECT_EQ(answers(true), Bytes{0x5a});
    command(0xa7);
    command(0x20);
    EXPECT_TRUE(answers()[0] & 0x20);
    command(0xa8);
    command(0x20);
    EXPECT_FALSE(answers()[0] & 0x20);
}

TEST_F(Controller, the_mouse_identifies_itself_and_its_wheel_after_the_knock) {
    EXPECT_EQ(mouse(0xff), (Bytes{0xfa, 0xaa, 0x00}));
    EXPECT_EQ(mouse(0xf2), (Bytes{0xfa, 0x00}));
    for (const u8 rate : Bytes{200, 100, 80}) {
        EXPECT_EQ(mouse(0xf3), Bytes{0xfa});
        EXPECT_EQ(mouse(rate), Bytes{0xfa});
    }
    EXPECT_EQ(mouse(0xf2), (Bytes{0xfa, 0x03}));
    EXPECT_EQ(mouse(0xe9), (Bytes{0xfa, 0x00, 0x02, 80}));
}

TEST_F(Controller, movement_is_reported_while_it_is_enabled) {
    command(0x60, 0x43);
    controller.move(5, -3, 0, 1);
    EXPECT_EQ(answers(true), Bytes{});
    mouse(0xf4);
    controller.move(1, 0, 0, 1);
    EXPECT_TRUE(bench.irq.level(12));
    EXPECT_EQ(answers(true), (Bytes{0x09, 0x01, 0x00}));
    controller.move(0, -3, 0, 1);
    EXPECT_EQ(answers(true), (Bytes{0x29, 0x00, 0xfd}));
    controller.move(300, 0, 0, 0); // more than a report can say
    EXPECT_EQ(answers(true), (Bytes{0x08, 0xff, 0x00, 0x08, 45, 0x00}));
}

TEST_F(Controller, wrap_mode_echoes) {
    EXPECT_EQ(mouse(0xee), Bytes{0xfa});
    EXPECT_EQ(mouse(0x42), Bytes{0x42});
    EXPECT_EQ(mouse(0xec), Bytes{0xfa});
}

TEST_F(Controller, the_reset_line_can_be_pulsed_and_written) {
    command(0xfe);
    EXPECT_EQ(events.resets, 1);
    command(0xff); // pulses nothing
    EXPECT_EQ(events.resets, 1);
    command(0xd1, 0xfe);
    EXPECT_EQ(events.resets, 2);
    command(0xd1, 0x01);
    command(0xd0);
    EXPECT_EQ(answers(), Bytes{0x01}); // A20 off
}

TEST_F(Controller, its_ram_is_kept) {
    command(0x77, 0xa5);
    command(0x37);
    EXPECT_EQ(answers(), Bytes{0xa5});
}

} // namespace
} // namespace rhea::hw
