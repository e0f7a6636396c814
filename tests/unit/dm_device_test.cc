// Devices from declarations: a UART in little that uses every part of the table, and a plain one
// beside it.
#include "dm/device/bench.h"
#include "dm/device/register_device.h"
#include "dm/time/timer.h"
#include <gtest/gtest.h>

namespace rhea {
namespace {

struct Buffer {
    std::array<u8, 4> data{};
    u8 head = 0, count = 0;
    static constexpr auto fields() {
        return describe<Buffer>(Field<&Buffer::data>{}, Field<&Buffer::head>{.max = 3},
                                Field<&Buffer::count>{.max = 4});
    }
};

struct LittleState {
    u8 lcr = 0, ier = 0, scr = 0x5a;
    u16 divisor = 12;
    u32 status = 0xf0;
    std::array<u16, 2> pair{1, 2};
    Buffer rx{};
    bool pending = false;
    i64 due = never;
    static constexpr auto fields() {
        using S = LittleState;
        return describe<S>(Field<&S::lcr>{}, Field<&S::ier>{}, Field<&S::scr>{},
                           Field<&S::divisor>{}, Field<&S::status>{}, Field<&S::pair>{},
                           Field<&S::rx>{}, Field<&S::pending>{}, Field<&S::due>{.since = 2});
    }
};

class Little final : public StateDevice<LittleState> {
public:
    struct Wiring {
        IrqLine irq;
        Clock &clock;
    };
    Little(std::string device_name, Wiring wiring);
    std::string_view type() const noexcept override { return "little"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    // A back end.
    void receive(u8 byte) {
        enter([&] {
            if (s.rx.count < 4)
                s.rx.data[(s.rx.head + s.rx.count++) % 4] = byte;
        });
    }
    unsigned settled = 0;

private:
    struct Model;
    bool dlab() const noexcept { return s.lcr & 0x80; }
    u64 read_data() noexcept {
        if (!s.rx.count)
            return 0;
        const u8 v = s.rx.data[s.rx.head];
        s.rx.head = static_cast<u8>((s.rx.head + 1) % 4);
        --s.rx.count;
        return v;
    }
    void start(u64 value) noexcept { s.due = clock_.now() + static_cast<i64>(value); }
    void finished() noexcept {
        s.due = never;
        s.pending = true;
    }
    const char *validate(const LittleState &n) const noexcept override {
        return n.pair[0] > 1000 ? "pair out of range" : nullptr;
    }
    void settle() noexcept override {
        ++settled;
        irq_.set((s.ier & 1 && s.rx.count) || (s.ier & 2 && s.pending));
        timer_.arm(s.due);
    }
    IrqLine irq_;
    Clock &clock_;
    RegisterFile<Little, LittleState, Model> registers_;
    Window windows_[1] = {{.name = "registers",
                           .space = Space::port,
                           .base = 0x3f8,
                           .size = 16,
                           .target = &registers_}};
    Timer timer_{clock_, *this, Callback::to<&Little::finished>(this)};
};

struct Little::Model {
    using S = LittleState;
    using R = Register<Little, S>;
    static constexpr R registers[] = {
        {.at = 0,
         .name = "DIV",
         .width = 2,
         .when = &Little::dlab,
         .bits = slot<&S::divisor>,
         .rw = 0xffff},
        {.at = 0, .name = "DATA", .read = &Little::read_data, .write = &Little::start},
        {.at = 1, .name = "IER", .bits = slot<&S::ier>, .rw = 0x0f},
        {.at = 2, .name = "ID", .constant = 0x42},
        {.at = 3, .name = "LCR", .bits = slot<&S::lcr>, .rw = 0xff},
        {.at = 4,
         .name = "STATUS",
         .width = 4,
         .bits = slot<&S::status>,
         .rw = 0xff00,
         .w1c = 0xff},
        {.at = 8, .name = "PAIR1", .width = 2, .bits = slot<&S::pair, 1>, .rw = 0xffff},
        {.at = 12, .name = "SCR", .bits = slot<&S::scr>, .rw = 0xff},
    };
    static_assert(well_formed(registers));
};

Little::Little(std::string device_name, Wiring wiring)
    : StateDevice(std::move(device_name)), irq_(wiring.irq), clock_(wiring.clock),
      registers_(*this, s, name().c_str()) {}

struct Fixture : ::testing::Test {
    Bench bench;
    Little device{"little0", {bench.irq.line(4), bench.clock}};
    Fixture() { bench.plug(device); }
};
using RegisterTable = Fixture;
using DeviceLife = Fixture;

TEST_F(RegisterTable, reset_values_are_the_initialisers) {
    EXPECT_EQ(bench.in8(0x3f8 + 12), 0x5a);
    EXPECT_EQ(bench.in16(0x3f8 + 8), 2);
    EXPECT_EQ(bench.in8(0x3f8 + 2), 0x42);
}

TEST_F(RegisterTable, only_writable_bits_change) {
    bench.out8(0x3f9, 0xff);
    EXPECT_EQ(bench.in8(0x3f9), 0x0f);
}

TEST_F(RegisterTable, write_one_clears_only_in_the_bytes_written) {
    bench.out8(0x3fd, 0xab); // byte 1 of STATUS
    EXPECT_EQ(bench.in32(0x3fc), 0xabf0u);
    bench.out8(0x3fc, 0x30);
    EXPECT_EQ(bench.in32(0x3fc), 0xabc0u);
    bench.out32(0x3fc, 0x12345640);
    EXPECT_EQ(bench.in32(0x3fc), 0x5680u);
}

TEST_F(RegisterTable, a_guard_switches_the_bank) {
    bench.out8(0x3fb, 0x80);
    EXPECT_EQ(bench.in16(0x3f8), 12);
    bench.out8(0x3f9, 0x12); // the high byte of the divisor, not IER
    EXPECT_EQ(bench.in16(0x3f8), 0x120c);
    bench.out8(0x3fb, 0);
    EXPECT_EQ(bench.in8(0x3f9), 0);
}

TEST_F(RegisterTable, a_wide_access_is_taken_apart) {
    bench.out8(0x3f9, 3);
    device.receive('q');
    EXPECT_EQ(bench.in32(0x3f8), 0x00420371u);
    EXPECT_EQ(bench.in32(0x3f8 + 10), 0xff5affffu);
}

TEST_F(DeviceLife, outputs_settle_after_back_end_access_and_timer) {
    bench.out8(0x3f9, 3);
    device.receive('x');
    EXPECT_TRUE(bench.irq.level(4));
    EXPECT_EQ(bench.in8(0x3f8), 'x');
    EXPECT_FALSE(bench.irq.level(4));
    bench.out8(0x3f8, 100);
    bench.clock.advance(99);
    EXPECT_FALSE(bench.irq.level(4));
    bench.clock.advance(1);
    EXPECT_TRUE(bench.irq.level(4));
}

TEST_F(DeviceLife, reset_gives_the_initial_state_and_lowers_the_line) {
    bench.out8(0x3f9, 1);
    device.receive('x');
    bench.out8(0x3f8 + 12, 1);
    device.reset();
    EXPECT_FALSE(bench.irq.level(4));
    EXPECT_EQ(bench.in8(0x3f8 + 12), 0x5a);
}

TEST_F(DeviceLife, load_restores_level_timer_and_registers) {
    bench.out8(0x3f9, 3);
    bench.out8(0x3f8, 50);
    const auto armed = Bench::save(device);
    device.receive('x');
    const auto full = Bench::save(device);
    device.reset();
    ASSERT_FALSE(bench.irq.level(4));

    ASSERT_TRUE(Bench::load(device, full));
    EXPECT_TRUE(bench.irq.level(4));
    EXPECT_EQ(Bench::save(device), full);
    ASSERT_TRUE(Bench::load(device, armed));
    EXPECT_FALSE(bench.irq.level(4));
    bench.clock.advance(50);
    EXPECT_TRUE(bench.irq.level(4));
}

TEST_F(DeviceLife, a_state_that_validate_refuses_changes_nothing) {
    LittleState bad{};
    bad.pair[0] = 1001;
    state::Writer w;
    w.section("little0", "little", 2, [&](state::FieldWriter &f) { f.fields(bad); });
    bench.out8(0x3f8 + 12, 7);
    const auto before = Bench::save(device);
    const auto done = Bench::load(device, w.finish());
    ASSERT_FALSE(done);
    EXPECT_NE(done.error().what.find("pair out of range"), std::string::npos);
    EXPECT_EQ(Bench::save(device), before);
}

struct PlainState {
    u8 last = 0;
    static constexpr auto fields() { return describe<PlainState>(Field<&PlainState::last>{}); }
};
class Plain final : public PlainDevice<PlainState> {
public:
    explicit Plain(std::string n) : PlainDevice(std::move(n), {.max_size = 1}) {}
    std::string_view type() const noexcept override { return "plain"; }
    u64 read(u64 at, unsigned) noexcept override { return s.last + at; }
    void write(u64, unsigned, u64 v) noexcept override { s.last = static_cast<u8>(v); }
    u64 read2(u64, unsigned) noexcept { return 0x77; }
    void write2(u64, unsigned, u64) noexcept {}

private:
    MethodTarget<&Plain::read2, &Plain::write2> second_{*this, "second"};
    Window windows_[2] = {{.base = 0x40, .size = 4, .target = this},
                          {.space = Space::memory, .size = 0x100, .target = &second_}};
    std::span<const Window> windows() noexcept override { return windows_; }
};

TEST(PlainDevice, a_byte_wide_device_gets_bytes) {
    Bench bench;
    Plain device("plain0");
    bench.plug(device);
    bench.out8(0x40, 0x10);
    EXPECT_EQ(bench.in16(0x41), 0x1211);
    EXPECT_EQ(bench.read32(bench.at(1)), 0x77u);
}

} // namespace
} // namespace rhea
