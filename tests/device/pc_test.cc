// The whole machine, driven through the engine's interfaces by recordings.
#include "accel/fake/fake.h"
#include "dm/core/config_error.h"
#include "dm/core/endian.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/fw_cfg/fw_cfg.h"
#include "hw/input/i8042.h"
#include "hw/machine/pc.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct Requests final : MachineEvents {
    void reset_requested() noexcept override { ++resets; }
    void power_off_requested() noexcept override { ++power_offs; }
    void exit_requested(u8 s) noexcept override { status = s; }
    void processor_shut_down(unsigned) noexcept override { ++shut_downs; }
    int resets = 0, power_offs = 0, shut_downs = 0, status = -1;
};

class Text final : public chardev::CharBackend {
public:
    usize write(std::span<const u8> bytes) noexcept override {
        out.append(bytes.begin(), bytes.end());
        return bytes.size();
    }
    bool write_waiting(std::span<const u8> bytes) noexcept override {
        write(bytes);
        return true;
    }
    void resume_input() noexcept override {}
    void attach(chardev::CharFrontend &f) override { front = &f; }
    void detach() noexcept override { front = nullptr; }
    chardev::CharFrontend *front = nullptr;
    std::string out;
};

struct Machine : testing::Test {
    Machine() {
        config.ram_size = u64{16} << 20;
        config.firmware = std::vector<u8>(u64{128} << 10, 0x90);
        config.firmware[0x1fff0] = 0xea; // the reset vector's jump
        config.serial[0] = &com1;
        config.debug_consoles.push_back({0x402, 1, &debug});
        config.debug_exit = PcConfig::Port{0xf4, 4, nullptr};
    }
    Pc &build() {
        pc = std::make_unique<Pc>(config, PcEnvironment{map, clock, nullptr, engine, events});
        return *pc;
    }
    Pc &start() {
        build().run();
        return *pc;
    }
    accel::FakeVcpu &cpu(unsigned n = 0) { return static_cast<accel::FakeVcpu &>(pc->vcpu(n)); }
    std::string play(std::string_view recording) { return cpu().play(recording); }

    AddressMap map;
    ManualClock clock;
    accel::FakeEngine engine{map};
    Requests events;
    Text com1, debug;
    PcConfig config;
    std::unique_ptr<Pc> pc;
};

TEST_F(Machine, a_processor_finds_the_firmware_at_its_reset_vector_and_at_the_top_of_1_mib) {
    start();
    EXPECT_EQ(play("read 1 0xfffffff0 = 0xea\n"
                   "read 1 0xffff0 = 0xea\n"
                   "write 1 0xfffffff0 0x00\n" // it is ROM
                   "read 1 0xfffffff0 = 0xea\n"),
              "");
}

TEST_F(Machine, memory_is_where_the_layout_says) {
    config.ram_size = u64{0xe000'0000} + (u64{64} << 20); // mapped lazily by the host
    start();
    EXPECT_EQ(pc->low_ram(), 0xc000'0000u);
    EXPECT_EQ(play("write 4 0x9fffc 1\n"
                   "read 4 0x9fffc = 1\n"
                   "write 4 0xa0000 2\n" // nothing there
                   "read 4 0xa0000 = 0xffffffff\n"
                   "write 8 0xbffffff8 3\n"
                   "read 8 0xbffffff8 = 3\n"
                   "read 4 0xc0000000 = 0xffffffff\n"
                   "write 8 0x100000000 4\n"
                   "read 8 0x100000000 = 4\n"
                   "write 8 0x123fffff8 5\n"
                   "read 8 0x123fffff8 = 5\n"
                   "read 8 0x124000000 = 0xffffffffffffffff\n"),
              "");
}

TEST_F(Machine, firmware_finds_the_chip_set) {
    start();
    EXPECT_EQ(play("out 4 0xcf8 0x80000000\nin 4 0xcfc = 0x12378086\n"
                   "out 4 0xcf8 0x80000800\nin 4 0xcfc = 0x70008086\n"
                   "out 4 0xcf8 0x80000b00\nin 4 0xcfc = 0x71138086\n"
                   "out 4 0xcf8 0x80001000\nin 4 0xcfc = 0xffffffff\n"),
              "");
}

TEST_F(Machine, the_timer_interrupts_through_the_8259_pair) {
    start();
    ASSERT_EQ(play("out 1 0x20 0x11\nout 1 0x21 0x08\nout 1 0x21 0x04\nout 1 0x21 0x01\n"
                   "out 1 0x21 0xfe\n"
                   "out 1 0x43 0x34\nout 1 0x40 0xa9\nout 1 0x40 0x04\n" // 1193: a millisecond
                   "irq 0x08\nout 1 0x20 0x20\nirq none\n"), // mode 2 starts with OUT high
              "");
    clock.advance(1'100'000);
    EXPECT_EQ(play("irq 0x08\nirq none\nout 1 0x20 0x20\nirq none\n"), "");
    clock.advance(1'000'000);
    EXPECT_EQ(play("irq 0x08\n"), "");
}

TEST_F(Machine, irq_0_is_input_2_of_the_io_apic) {
    start();
    ASSERT_EQ(play("write 4 0xfee000f0 0x1ff\n"
                   "write 4 0xfee00350 0x10700\n" // LINT0 masked
                   "write 4 0xfec00000 0x14\nwrite 4 0xfec00010 0x30\n"
                   "out 1 0x43 0x34\nout 1 0x40 0xa9\nout 1 0x40 0x04\n"),
              "");
    clock.advance(1'100'000);
    EXPECT_EQ(play("irq 0x30\nirq none\nwrite 4 0xfee000b0 0\n"), "");
}

TEST_F(Machine, the_serial_port_is_isa_interrupt_4) {
    start();
    ASSERT_EQ(play("write 4 0xfee000f0 0x1ff\n"
                   "write 4 0xfec00000 0x18\nwrite 4 0xfec00010 0x34\n"
                   "out 1 0x3fb 0x03\nout 1 0x3fc 0x08\nout 1 0x3f9 0x01\n"),
              "");
    const u8 byte = 'x';
    com1.front->receive({&byte, 1});
    EXPECT_EQ(play("irq 0x34\nin 1 0x3fa = 0x04\nin 1 0x3f8 = 0x78\nout 1 0x3f8 0x79\n"), "");
    EXPECT_EQ(com1.out, "y");
}

TEST_F(Machine, the_sci_is_wired_or_with_pci_interrupts_that_share_it) {
    start();
    ASSERT_EQ(play("out 1 0x21 0xff\n"
                   "out 4 0xcf8 0x80000b40\nout 4 0xcfc 0x601\n"
                   "out 4 0xcf8 0x80000b80\nout 1 0xcfc 0x01\n"
                   "out 4 0xcf8 0x80000860\nout 1 0xcfc 0x09\n" // PIRQ A to interrupt 9
                   "write 4 0xfee000f0 0x1ff\n"
                   "write 4 0xfec00000 0x22\nwrite 4 0xfec00010 0x8039\n" // level
                   "out 1 0xb2 0xf1\nout 2 0x602 0x0100\n"),
              "");
    pc->press_power_button();
    const IrqLine function = pc->pci_irq(1, 1);
    function.set(true);
    EXPECT_EQ(play("irq 0x39\nout 2 0x600 0x0100\nwrite 4 0xfee000b0 0\nirq 0x39\n"), "");
    function.set(false);
    EXPECT_EQ(play("write 4 0xfee000b0 0\nirq none\n"), "");
}

TEST_F(Machine, firmware_reads_what_the_machine_is) {
    config.ram_size = u64{0xf000'0000};
    config.cpus = 3;
    config.boot_order = "dc";
    start();
    const std::vector<u8> &e820 = *pc->fw_cfg().file("etc/e820");
    ASSERT_EQ(e820.size(), 40u);
    EXPECT_EQ(load_le<u64>(&e820[8]), 0xc000'0000u);
    EXPECT_EQ(load_le<u64>(&e820[20]), 0x1'0000'0000u);
    EXPECT_EQ(load_le<u64>(&e820[28]), 0x3000'0000u);
    EXPECT_EQ(play("out 2 0x510 5\nin 1 0x511 = 3\n"
                   "out 1 0x70 0x5f\nin 1 0x71 = 2\n"
                   "out 1 0x70 0x3d\nin 1 0x71 = 0x23\n"
                   "out 1 0x70 0x35\nin 1 0x71 = 0xbf\n"
                   "out 1 0x70 0x5c\nin 1 0x71 = 0x30\n"),
              "");
}

TEST_F(Machine, debug_ports_reach_their_owners) {
    start();
    EXPECT_EQ(play("in 1 0x402 = 0xe9\nout 1 0x402 0x48\nout 1 0x402 0x69\nout 1 0xf4 0x10\n"), "");
    EXPECT_EQ(debug.out, "Hi");
    EXPECT_EQ(events.status, 0x21);
}

TEST_F(Machine, what_the_guest_asks_of_the_machine_reaches_its_owner) {
    start();
    EXPECT_EQ(play("out 1 0x64 0xfe\nout 1 0x92 0x01\nout 1 0xcf9 0x06\n"
                   "out 4 0xcf8 0x80000b40\nout 4 0xcfc 0x601\n"
                   "out 4 0xcf8 0x80000b80\nout 1 0xcfc 0x01\n"
                   "out 2 0x604 0x2000\n"),
              "");
    EXPECT_EQ(events.resets, 3);
    EXPECT_EQ(events.power_offs, 1);
    cpu().client().cpu_shut_down();
    EXPECT_EQ(events.shut_downs, 1);
}

TEST_F(Machine, a_reset_keeps_memory_and_takes_back_what_was_programmed) {
    start();
    ASSERT_EQ(play("write 4 0x8000 0x1234\nout 1 0x21 0xaa\nwrite 4 0xfee00080 0x50\n"
                   "out 4 0xcf8 0x80000058\nout 1 0xcfd 0x30\n" // F0000h is RAM
                   "write 1 0xffff0 0x11\n"),
              "");
    pc->reset();
    EXPECT_TRUE(pc->running());
    EXPECT_EQ(play("read 4 0x8000 = 0x1234\nin 1 0x21 = 0\nread 4 0xfee00080 = 0\n"
                   "read 1 0xffff0 = 0xea\n"),
              "");
}

TEST_F(Machine, roms_and_the_loader_come_back_with_every_reset) {
    struct Loader final : BootLoader {
        void place(Pc &machine) override {
            ++calls;
            const u8 kernel[] = {0xf4};
            EXPECT_TRUE(machine.write_ram(0x10'0000, kernel));
        }
        int calls = 0;
    } loader;
    config.firmware.clear();
    build();
    pc->add_rom(0xc'0000, {0x55, 0xaa});
    pc->set_loader(&loader);
    pc->run();
    EXPECT_EQ(play("read 2 0xc0000 = 0xaa55\nread 1 0x100000 = 0xf4\n"
                   "write 2 0xc0000 0\nwrite 1 0x100000 0\n"),
              "");
    pc->reset();
    EXPECT_EQ(play("read 2 0xc0000 = 0xaa55\nread 1 0x100000 = 0xf4\n"), "");
    EXPECT_EQ(loader.calls, 2);
}

TEST_F(Machine, application_processors_wait_to_be_started) {
    config.cpus = 2;
    start();
    EXPECT_FALSE(cpu(0).state().wait_for_sipi);
    EXPECT_TRUE(cpu(1).state().wait_for_sipi);
    EXPECT_EQ(play("write 4 0xfee000f0 0x1ff\nwrite 4 0xfee00300 0xc4500\n"
                   "write 4 0xfee00300 0xc469f\n"),
              "");
    EXPECT_EQ(cpu(1).inits(), 1u);
    EXPECT_EQ(cpu(1).startup_page(), 0x9f);
    EXPECT_EQ(cpu(0).inits(), 0u);
}

TEST_F(Machine, a_saved_machine_goes_on_in_another_one) {
    start();
    ASSERT_EQ(play("out 1 0x20 0x11\nout 1 0x21 0x08\nout 1 0x21 0x04\nout 1 0x21 0x01\n"
                   "out 1 0x21 0xfe\n"
                   "out 1 0x43 0x34\nout 1 0x40 0xa9\nout 1 0x40 0x04\n"
                   "out 4 0xcf8 0x80000058\nout 1 0xcfd 0x30\n"),
              "");
    clock.advance(500'000);
    pc->pause();
    state::Writer out;
    pc->save(out);
    const std::vector<u8> stream = out.finish();
    const Time then = clock.now();
    pc.reset();
    clock.set(then);
    build();
    const auto reader = state::Reader::open(stream);
    ASSERT_TRUE(reader);
    ASSERT_TRUE(pc->load(*reader));
    pc->run();
    clock.advance(600'000);
    EXPECT_EQ(play("irq 0x08\nin 1 0x21 = 0xfe\n"
                   "write 1 0xffff0 0x77\nread 1 0xffff0 = 0x77\n"), // shadow RAM is still open
              "");
}

TEST_F(Machine, a_paused_machine_plays_nothing) {
    start();
    pc->pause();
    EXPECT_NE(play("in 1 0x61\n"), "");
}

TEST_F(Machine, what_cannot_be_is_refused_by_name) {
    const auto refused = [this](auto change) {
        const PcConfig good = config;
        change(config);
        std::string what;
        try {
            build();
        } catch (const ConfigError &e) {
            what = e.what();
        }
        config = good;
        return what;
    };
    EXPECT_NE(refused([](PcConfig &c) { c.ram_size = 4096; }).find("-m"), std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.ram_size = u64{1} << 50; }).find("-m"),
              std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.ram_size += 1; }).find("-m"), std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.cpus = 0; }).find("-smp"), std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.firmware.resize(u64{9} << 20); }).find("-bios"),
              std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.boot_order = "x"; }).find("-boot"), std::string::npos);
    EXPECT_NE(refused([](PcConfig &c) { c.debug_consoles[0].backend = nullptr; }).find("chardev"),
              std::string::npos);
    build();
    EXPECT_THROW(pc->add_rom(pc->ram_size() - 1, {1, 2}), ConfigError);
    EXPECT_THROW(pc->add_rom(~u64{0}, {1, 2}), ConfigError);
}

TEST_F(Machine, noise_on_every_port_crashes_nothing) {
    start();
    u64 x = 88172645463325252u;
    for (unsigned pass = 0; pass < 4; ++pass)
        for (u64 port = 0; port <= 0xffff; ++port) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            const unsigned size = 1u << (x >> 8) % 3;
            cpu().write(Space::port, port, size, x & (size == 4 ? 0xffff'ffff : 0xffff));
            cpu().read(Space::port, port, size);
            if (port % 64 == 0)
                clock.advance(static_cast<Time>(x >> 44));
            cpu().take_interrupt();
        }
    pc->reset();
    EXPECT_EQ(play("read 1 0xfffffff0 = 0xea\n"), "");
}

TEST(Recording, what_is_no_recording_is_refused_with_its_line) {
    const auto refused = [](std::string_view text) -> std::string {
        try {
            accel::parse_recording(text);
        } catch (const ConfigError &e) {
            return e.what();
        }
        return "";
    };
    EXPECT_EQ(refused("in 1 0x60 = ? # anything\n\n  irq none"), "");
    EXPECT_NE(refused("in 1 0x60\npeek 1 2\n").find("line 2"), std::string::npos);
    EXPECT_NE(refused("in 3 0x60").find("size"), std::string::npos);
    EXPECT_NE(refused("out 1 0x60").find("value"), std::string::npos);
    EXPECT_NE(refused("out 1 0x6g 1").find("0x6g"), std::string::npos);
    EXPECT_NE(refused("read 4").find("address"), std::string::npos);
    EXPECT_NE(refused("irq").find("vector"), std::string::npos);
}

TEST_F(Machine, a_recording_that_differs_says_where) {
    start();
    EXPECT_EQ(play("in 1 0x64 = 0x99\n\nirq 0x20\n"),
              "line 1: 0x64 reads 0x10, recorded 0x99\nline 3: vector none, recorded 0x20\n");
}

} // namespace
} // namespace rhea::hw
