// The 16550A as drivers probe and use it.
#include "dm/device/bench.h"
#include "hw/char/uart_16550.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

// Takes as many bytes as it is told to.
class Line final : public chardev::CharBackend {
public:
    usize write(std::span<const u8> bytes) noexcept override {
        const usize n = std::min(bytes.size(), takes);
        out.append(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
        takes -= n;
        return n;
    }
    bool write_waiting(std::span<const u8> bytes) noexcept override {
        return write(bytes) == bytes.size();
    }
    void resume_input() noexcept override { ++resumed; }
    void attach(chardev::CharFrontend &f) override { front = &f; }
    void detach() noexcept override { front = nullptr; }

    chardev::CharFrontend *front = nullptr;
    std::string out;
    usize takes = ~usize{0};
    int resumed = 0;
};

enum : u16 {
    RBR = 0x3f8,
    THR = RBR,
    DLL = RBR,
    IER,
    DLM = IER,
    IIR,
    FCR = IIR,
    LCR,
    MCR,
    LSR,
    MSR,
    SCR
};

struct Uart : testing::Test {
    Uart() { bench.plug(uart); }
    void receive(std::string_view text) {
        line.front->receive({reinterpret_cast<const u8 *>(text.data()), text.size()});
    }
    void open_gate() { bench.out8(MCR, 0x08); }
    bool irq() const { return bench.irq.level(4); }

    Bench bench;
    Line line;
    Uart16550 uart{"serial0", {}, bench.clock, bench.irq.line(4), line};
};

TEST_F(Uart, what_is_written_leaves_and_the_transmitter_is_empty_again) {
    bench.out8(LCR, 0x03);
    for (const char c : std::string_view("hello"))
        bench.out8(THR, static_cast<u8>(c));
    EXPECT_EQ(line.out, "hello");
    EXPECT_EQ(bench.in8(LSR), 0x60);
}

TEST_F(Uart, five_bit_characters_lose_their_upper_bits) {
    bench.out8(LCR, 0x00);
    bench.out8(THR, 0xff);
    EXPECT_EQ(line.out, "\x1f");
}

TEST_F(Uart, a_slow_back_end_keeps_the_transmitter_busy_and_loses_nothing) {
    bench.out8(LCR, 0x03);
    bench.out8(FCR, 0x01);
    line.takes = 0;
    for (char c = 'a'; c < 'a' + 16; ++c)
        bench.out8(THR, static_cast<u8>(c));
    EXPECT_EQ(bench.in8(LSR) & 0x60, 0);
    line.takes = 100;
    uart.writable();
    EXPECT_EQ(line.out, "abcdefghijklmnop");
    EXPECT_EQ(bench.in8(LSR) & 0x60, 0x60);
}

TEST_F(Uart, the_empty_interrupt_comes_by_enabling_and_goes_by_iir_or_thr) {
    open_gate();
    bench.out8(IER, 0x02);
    ASSERT_TRUE(irq());
    EXPECT_EQ(bench.in8(IIR), 0x02);
    EXPECT_FALSE(irq());
    EXPECT_EQ(bench.in8(IIR), 0x01);
    const u32 rises = bench.irq.rises(4);
    bench.out8(THR, 'x');
    EXPECT_TRUE(irq());
    bench.out8(THR, 'y'); // another edge, for an edge-triggered controller
    EXPECT_EQ(bench.irq.rises(4) - rises, 2u);
    bench.out8(IER, 0x00);
    EXPECT_FALSE(irq());
    bench.out8(IER, 0x02); // disabling and enabling asks again
    EXPECT_TRUE(irq());
}

TEST_F(Uart, without_out2_no_interrupt_reaches_the_bus) {
    bench.out8(IER, 0x0f);
    receive("a");
    EXPECT_FALSE(irq());
    open_gate();
    EXPECT_TRUE(irq());
}

TEST_F(Uart, without_fifos_one_byte_is_received_at_a_time) {
    open_gate();
    bench.out8(IER, 0x01);
    EXPECT_EQ(line.front->room(), 1u);
    receive("a");
    EXPECT_EQ(line.front->room(), 0u);
    EXPECT_TRUE(irq());
    EXPECT_EQ(bench.in8(IIR), 0x04);
    EXPECT_EQ(bench.in8(LSR), 0x61);
    EXPECT_EQ(bench.in8(RBR), 'a');
    EXPECT_EQ(line.resumed, 1);
    EXPECT_FALSE(irq());
    EXPECT_EQ(bench.in8(LSR), 0x60);
}

TEST_F(Uart, the_trigger_level_holds_the_interrupt_and_the_time_out_tells_the_rest) {
    open_gate();
    bench.out8(FCR, 0x81); // trigger at 8
    bench.out8(IER, 0x01);
    bench.out8(LCR, 0x83);
    bench.out8(DLL, 1); // 115200
    bench.out8(DLM, 0);
    bench.out8(LCR, 0x03);
    receive("1234567");
    EXPECT_FALSE(irq());
    receive("8");
    EXPECT_EQ(bench.in8(IIR), 0xc4);
    bench.in8(RBR);
    EXPECT_FALSE(irq());
    bench.clock.advance(400'000); // four characters are 347 µs
    ASSERT_TRUE(irq());
    EXPECT_EQ(bench.in8(IIR), 0xcc);
    EXPECT_EQ(bench.in8(RBR), '2'); // reading takes the time-out back
    EXPECT_FALSE(irq());
    bench.clock.advance(400'000);
    EXPECT_EQ(bench.in8(IIR), 0xcc);
}

TEST_F(Uart, fifo_control_clears_and_reports) {
    bench.out8(FCR, 0x01);
    EXPECT_EQ(bench.in8(IIR) & 0xc0, 0xc0);
    receive("abc");
    bench.out8(FCR, 0x03);
    EXPECT_EQ(bench.in8(LSR) & 0x01, 0);
    receive("abc");
    bench.out8(FCR, 0x00); // switching the FIFOs off empties them
    EXPECT_EQ(bench.in8(LSR) & 0x01, 0);
    EXPECT_EQ(bench.in8(IIR) & 0xc0, 0);
}

TEST_F(Uart, the_divisor_is_behind_dlab) {
    bench.out8(LCR, 0x80);
    bench.out8(DLL, 0x34);
    bench.out8(DLM, 0x12);
    EXPECT_EQ(bench.in8(DLL), 0x34);
    EXPECT_EQ(bench.in8(DLM), 0x12);
    bench.out8(LCR, 0x03);
    EXPECT_EQ(bench.in8(IER), 0x00);
    EXPECT_EQ(line.out, "");
}

TEST_F(Uart, loopback_receives_what_is_sent_and_overruns) {
    bench.out8(LCR, 0x03);
    bench.out8(MCR, 0x10);
    bench.out8(THR, 'a');
    bench.out8(THR, 'b');
    EXPECT_EQ(line.out, "");
    EXPECT_EQ(bench.in8(LSR), 0x63); // overrun error, cleared by the read
    EXPECT_EQ(bench.in8(LSR), 0x61);
    EXPECT_EQ(bench.in8(RBR), 'b');
}

TEST_F(Uart, loopback_turns_modem_outputs_into_inputs) {
    // Linux's test for a UART: MSR follows MCR in loopback.
    EXPECT_EQ(bench.in8(MSR), 0xb0);
    bench.out8(MCR, 0x1a);
    EXPECT_EQ(bench.in8(MSR) & 0xf0, 0x90);
    bench.in8(MSR);
    bench.out8(MCR, 0x15);
    EXPECT_EQ(bench.in8(MSR) & 0xf0, 0x60);
    bench.out8(MCR, 0x11);
    EXPECT_EQ(bench.in8(MSR), 0x24); // RI fell: its trailing edge
    EXPECT_EQ(bench.in8(MSR), 0x20);
}

TEST_F(Uart, line_status_has_the_highest_priority) {
    open_gate();
    bench.out8(LCR, 0x03);
    bench.out8(IER, 0x0f);
    bench.out8(MCR, 0x18);
    bench.out8(THR, 'a');
    bench.out8(THR, 'b');
    bench.out8(MCR, 0x08);
    EXPECT_EQ(bench.in8(IIR), 0x06);
    bench.in8(LSR);
    EXPECT_EQ(bench.in8(IIR), 0x04);
    bench.in8(RBR);
    EXPECT_EQ(bench.in8(IIR), 0x02);
    EXPECT_EQ(bench.in8(IIR), 0x00); // modem status
    bench.in8(MSR);
    EXPECT_EQ(bench.in8(IIR), 0x01);
}

TEST_F(Uart, the_scratch_register_scratches) {
    bench.out8(SCR, 0xa5);
    EXPECT_EQ(bench.in8(SCR), 0xa5);
}

} // namespace
} // namespace rhea::hw
