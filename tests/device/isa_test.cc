// The DMA controllers' registers, the debug console and the debug exit.
#include "dm/device/bench.h"
#include "hw/char/debugcon.h"
#include "hw/isa/debug_exit.h"
#include "hw/isa/dma_8237.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct DmaTest : testing::Test {
    DmaTest() { bench.plug(dma); }
    Bench bench;
    DmaPair dma{"dma"};
};

TEST_F(DmaTest, addresses_and_counts_go_byte_by_byte_through_the_flip_flop) {
    bench.out8(0x0c, 0);
    bench.out8(0x04, 0x34);
    bench.out8(0x04, 0x12);
    bench.out8(0x05, 0xff);
    bench.out8(0x05, 0x01);
    EXPECT_EQ(dma.state().controller[0].channel[2].address, 0x1234);
    EXPECT_EQ(dma.state().controller[0].channel[2].base_count, 0x01ff);
    bench.out8(0x0c, 0);
    EXPECT_EQ(bench.in8(0x04), 0x34);
    bench.out8(0x0c, 0); // the low byte again
    EXPECT_EQ(bench.in8(0x05), 0xff);
    EXPECT_EQ(bench.in8(0x05), 0x01);
}

TEST_F(DmaTest, the_second_controllers_registers_are_at_even_ports) {
    bench.out8(0xd8, 0);
    bench.out8(0xc4, 0x78);
    bench.out8(0xc4, 0x56);
    EXPECT_EQ(dma.state().controller[1].channel[1].address, 0x5678);
    bench.out8(0xd6, 0xc1); // cascade, channel 5
    EXPECT_EQ(dma.state().controller[1].channel[1].mode, 0xc0);
}

TEST_F(DmaTest, masks_are_set_one_by_one_and_together) {
    EXPECT_EQ(bench.in8(0x0f), 0xff);
    bench.out8(0x0a, 0x02);
    EXPECT_EQ(bench.in8(0x0f), 0xfb);
    bench.out8(0x0e, 0);
    EXPECT_EQ(bench.in8(0x0f), 0xf0);
    bench.out8(0x0f, 0x05);
    EXPECT_EQ(bench.in8(0x0f), 0xf5);
    bench.out8(0x0d, 0); // master clear
    EXPECT_EQ(bench.in8(0x0f), 0xff);
    EXPECT_EQ(bench.in8(0x08), 0x00);
}

TEST_F(DmaTest, page_registers_and_the_progress_port_are_latches) {
    bench.out8(0x81, 0xab);
    bench.out8(0x80, 0x55);
    EXPECT_EQ(bench.in8(0x81), 0xab);
    EXPECT_EQ(bench.in8(0x80), 0x55);
    dma.reset();
    EXPECT_EQ(bench.in8(0x81), 0xab);
}

TEST(DebugPorts, the_console_writes_and_says_that_it_is_there) {
    struct Text final : chardev::CharBackend {
        usize write(std::span<const u8> b) noexcept override {
            out.append(b.begin(), b.end());
            return b.size();
        }
        bool write_waiting(std::span<const u8> b) noexcept override {
            ++calls;
            return write(b) == b.size();
        }
        void resume_input() noexcept override {}
        void attach(chardev::CharFrontend &) override {}
        void detach() noexcept override {}
        std::string out;
        int calls = 0;
    } text;
    Bench bench;
    DebugConsole console("debugcon", {.port = 0x402}, text);
    bench.plug(console);
    EXPECT_EQ(bench.in8(0x402), 0xe9);
    bench.out8(0x402, 'o');
    std::string rest = "utsb";
    Request run{.space = Space::port,
                .direction = Direction::write,
                .size = 1,
                .address = 0x402,
                .count = 4,
                .data = reinterpret_cast<u8 *>(rest.data()),
                .data_step = 1};
    bench.cpu.serve(run);
    EXPECT_EQ(text.out, "outsb");
    EXPECT_EQ(text.calls, 2); // a run goes out in one piece
    run.data = reinterpret_cast<u8 *>(rest.data()) + 3;
    run.data_step = -1;
    bench.cpu.serve(run);
    EXPECT_EQ(text.out, "outsbbstu");
}

TEST(DebugPorts, the_exit_status_is_odd) {
    struct Last final : MachineEvents {
        void reset_requested() noexcept override {}
        void power_off_requested() noexcept override {}
        void exit_requested(u8 s) noexcept override { status = s; }
        void processor_shut_down(unsigned) noexcept override {}
        int status = -1;
    } events;
    Bench bench;
    DebugExit exit("exit", {.port = 0xf4, .size = 4}, events);
    bench.plug(exit);
    bench.out32(0xf4, 0);
    EXPECT_EQ(events.status, 1);
    bench.out8(0xf6, 0x21);
    EXPECT_EQ(events.status, 0x43);
    EXPECT_EQ(bench.in32(0xf4), 0u);
}

} // namespace
} // namespace rhea::hw
