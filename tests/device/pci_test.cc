// Configuration space, the host bridge's shadow RAM, the PIIX3's routing and the PIIX4's power
// management.
#include "dm/device/bench.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/isa/piix3.h"
#include "hw/pci/config.h"
#include "hw/pci/host.h"
#include "hw/pci/i440fx.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct Requests final : MachineEvents {
    void reset_requested() noexcept override { ++resets; }
    void power_off_requested() noexcept override { ++power_offs; }
    void exit_requested(u8) noexcept override {}
    void processor_shut_down(unsigned) noexcept override {}
    int resets = 0, power_offs = 0;
};

// A function with a bar of each kind, for the configuration space itself.
class Sample final : public StateDevice<PciConfigState> {
public:
    Sample(AddressMap &map, IrqLine intx)
        : StateDevice("sample"), config_(*this, "sample", s,
                                         {.vendor = 0x1234,
                                          .device = 0x5678,
                                          .class_code = 0x02'00'00,
                                          .interrupt_pin = 1,
                                          .command_writable = 0x0407}),
          window_{Window{"config", Space::pci_config, pci::config_base(3, 0), 0x1000, &config_}} {
        config_.add_bar(map, 0, BarKind::memory, 0x1000, registers_);
        config_.add_bar(map, 1, BarKind::port, 0x20, registers_);
        config_.add_bar(map, 2, BarKind::memory64, 0x10'0000, registers_);
        config_.set_intx(intx);
    }
    std::string_view type() const noexcept override { return "sample"; }
    std::span<const Window> windows() noexcept override { return window_; }
    void settle() noexcept override { config_.settle(); }
    void request(bool level) {
        enter([&] { config_.request_interrupt(level); });
    }

private:
    void on_reset() noexcept override { config_.reset(); }
    u64 read(u64 at, unsigned) noexcept { return 0xa0 + at; }
    void write(u64, unsigned, u64) noexcept {}
    PciConfig config_;
    MethodTarget<&Sample::read, &Sample::write> registers_{*this, "registers", {.max_size = 1}};
    std::array<Window, 1> window_;
};

struct Pci : testing::Test {
    Pci() {
        bench.plug(host);
        bench.plug(sample);
    }
    void select(unsigned slot, unsigned function, u8 at) {
        bench.out32(0xcf8, 0x80000000 | slot << 11 | function << 8 | (at & 0xfc));
    }
    u32 get(unsigned slot, u8 at, unsigned function = 0) {
        select(slot, function, at);
        return bench.in32(0xcfc);
    }
    void put(unsigned slot, u8 at, u32 value, unsigned function = 0) {
        select(slot, function, at);
        bench.out32(0xcfc, value);
    }

    Bench bench;
    Requests events;
    PciHost host{"pci-host", bench.address_map, events};
    Sample sample{bench.address_map, bench.irq.line(11)};
};

TEST_F(Pci, mechanism_1_finds_functions_and_nothing_where_none_is) {
    EXPECT_EQ(get(3, 0x00), 0x56781234u);
    EXPECT_EQ(get(3, 0x08), 0x02000000u);
    EXPECT_EQ(get(4, 0x00), ~u32{0});
    EXPECT_EQ(get(3, 0x00, 1), ~u32{0});
    bench.out32(0xcf8, 3 << 11); // not enabled
    EXPECT_EQ(bench.in32(0xcfc), ~u32{0});
}

TEST_F(Pci, parts_of_a_register_are_accessed_by_the_offset_in_the_data_port) {
    select(3, 0, 0x00);
    EXPECT_EQ(bench.in16(0xcfe), 0x5678);
    EXPECT_EQ(bench.in8(0xcfd), 0x12);
    select(3, 0, 0x3c);
    bench.out8(0xcfc, 0x0b);
    EXPECT_EQ(get(3, 0x3c), 0x0000010bu);
}

TEST_F(Pci, the_address_register_takes_32_bits_only) {
    select(3, 0, 0x08);
    bench.out8(0xcf8, 0xff);
    bench.out16(0xcfa, 0xffff);
    EXPECT_EQ(bench.in32(0xcf8), 0x80001808u);
}

TEST_F(Pci, a_byte_at_cf9_resets_on_its_rising_edge) {
    bench.out8(0xcf9, 0x02);
    EXPECT_EQ(events.resets, 0);
    bench.out8(0xcf9, 0x06);
    bench.out8(0xcf9, 0x06);
    EXPECT_EQ(events.resets, 1);
    EXPECT_EQ(bench.in8(0xcf9), 0x06);
}

TEST_F(Pci, bars_tell_their_size_and_kind) {
    for (u8 at = 0x10; at <= 0x20; at = static_cast<u8>(at + 4))
        put(3, at, ~u32{0});
    EXPECT_EQ(get(3, 0x10), 0xfffff000u);
    EXPECT_EQ(get(3, 0x14), 0xffffffe1u);
    EXPECT_EQ(get(3, 0x18), 0xfff0000cu);
    EXPECT_EQ(get(3, 0x1c), 0xffffffffu);
    EXPECT_EQ(get(3, 0x20), 0u);
}

TEST_F(Pci, a_bar_shows_where_it_is_put_while_the_command_register_lets_it) {
    put(3, 0x10, 0xe000'0000);
    put(3, 0x14, 0xc000);
    EXPECT_EQ(bench.read8(0xe000'0004), 0xff);
    put(3, 0x04, 0x0003);
    EXPECT_EQ(bench.read8(0xe000'0004), 0xa4);
    EXPECT_EQ(bench.in8(0xc003), 0xa3);
    put(3, 0x10, 0xe800'0000);
    EXPECT_EQ(bench.read8(0xe000'0004), 0xff);
    EXPECT_EQ(bench.read8(0xe800'0004), 0xa4);
    put(3, 0x04, 0x0001);
    EXPECT_EQ(bench.read8(0xe800'0004), 0xff);
    EXPECT_EQ(bench.in8(0xc003), 0xa3);
}

TEST_F(Pci, a_64_bit_bar_goes_above_4_gib) {
    put(3, 0x04, 0x0002);
    put(3, 0x18, 0x0010'0000);
    put(3, 0x1c, 0x0000'0020);
    EXPECT_EQ(bench.read8(0x20'0010'0007), 0xa7);
    put(3, 0x1c, 0xffff'ffff); // beyond the processor's addresses
    EXPECT_EQ(bench.read8(0x20'0010'0007), 0xff);
}

TEST_F(Pci, a_reset_takes_the_bars_away) {
    put(3, 0x10, 0xe000'0000);
    put(3, 0x04, 0x0002);
    sample.reset();
    EXPECT_EQ(bench.read8(0xe000'0000), 0xff);
    EXPECT_EQ(get(3, 0x10), 0u);
}

TEST_F(Pci, a_loaded_state_puts_the_bars_where_they_were) {
    put(3, 0x10, 0xe000'0000);
    put(3, 0x04, 0x0002);
    const auto saved = Bench::save(sample);
    sample.reset();
    ASSERT_TRUE(Bench::load(sample, saved));
    EXPECT_EQ(bench.read8(0xe000'0001), 0xa1);
}

TEST_F(Pci, the_interrupt_pin_shows_in_status_and_can_be_disabled) {
    sample.request(true);
    EXPECT_TRUE(bench.irq.level(11));
    EXPECT_TRUE(get(3, 0x04) & 0x0008'0000);
    put(3, 0x04, 0x0400);
    EXPECT_FALSE(bench.irq.level(11));
    put(3, 0x04, 0x0000);
    EXPECT_TRUE(bench.irq.level(11));
    sample.request(false);
    EXPECT_FALSE(bench.irq.level(11));
}

// ------------------------------------------------------------------------------ the host bridge

struct HostBridge : Pci {
    HostBridge() {
        bench.plug(bridge);
        for (u64 i = 0; i < rom->size(); ++i)
            rom->host()[i] = static_cast<u8>(i >> 12); // which page of the ROM
    }
    static std::shared_ptr<RamRegion> region(u64 size) { return *RamRegion::create("test", size); }
    void pam(unsigned n, u8 value) {
        select(0, 0, static_cast<u8>(0x59 + n));
        bench.out8(static_cast<u16>(0xcfc + ((0x59 + n) & 3)), value);
    }

    std::shared_ptr<RamRegion> ram = region(u64{1} << 20), rom = region(u64{256} << 10);
    I440fx bridge{"pci.0.0", bench.address_map, ram, rom};
};

TEST_F(HostBridge, is_an_82441fx_that_firmware_knows) {
    EXPECT_EQ(get(0, 0x00), 0x12378086u);
    EXPECT_EQ(get(0, 0x08) >> 8, 0x060000u);
    EXPECT_EQ(get(0, 0x2c), 0x11001af4u);
}

TEST_F(HostBridge, the_last_128_kib_of_the_rom_are_at_e0000h_after_reset) {
    EXPECT_EQ(bench.read8(0xe'0000), 0x20);
    EXPECT_EQ(bench.read8(0xf'f000), 0x3f);
    bench.write8(0xf'f000, 0x99);
    EXPECT_EQ(bench.read8(0xf'f000), 0x3f);
}

TEST_F(HostBridge, firmware_copies_itself_into_shadow_ram_and_write_protects_it) {
    pam(0, 0x20); // F0000h: writes to RAM, reads from ROM
    bench.write8(0xf'0000, 0x77);
    EXPECT_EQ(bench.read8(0xf'0000), 0x30);
    pam(0, 0x10); // reads from RAM, no writes
    EXPECT_EQ(bench.read8(0xf'0000), 0x77);
    bench.write8(0xf'0000, 0x88);
    EXPECT_EQ(bench.read8(0xf'0000), 0x77);
    pam(0, 0x30);
    bench.write8(0xf'0000, 0x88);
    EXPECT_EQ(bench.read8(0xf'0000), 0x88);
    EXPECT_EQ(ram->host()[0xf'0000], 0x88);
    pam(0, 0x00);
    EXPECT_EQ(bench.read8(0xf'0000), 0x30);
}

TEST_F(HostBridge, each_pam_half_is_16_kib) {
    pam(1, 0x30); // C4000h to C7FFFh
    bench.write8(0xc'4000, 1);
    bench.write8(0xc'7fff, 2);
    EXPECT_EQ(bench.read8(0xc'4000), 1);
    EXPECT_EQ(bench.read8(0xc'7fff), 2);
    EXPECT_EQ(ram->host()[0xc'4000], 1);
    pam(1, 0x20); // writes reach RAM, reads the bus, where nothing is
    bench.write8(0xc'4000, 3);
    EXPECT_EQ(bench.read8(0xc'4000), 0xff);
    EXPECT_EQ(ram->host()[0xc'4000], 3);
    pam(6, 0x02); // E8000h: writes to RAM under the ROM
    bench.write32(0xe'8ffe, 0x04030201);
    EXPECT_EQ(ram->host()[0xe'9001], 4);
    EXPECT_EQ(bench.read8(0xe'8000), 0x28);
}

TEST_F(HostBridge, smram_opens_until_it_is_locked) {
    select(0, 0, 0x72);
    bench.out8(0xcfe, 0x4a);
    bench.write8(0xa'0000, 0x5a);
    EXPECT_EQ(ram->host()[0xa'0000], 0x5a);
    bench.out8(0xcfe, 0x1a); // locked and closed
    bench.write8(0xa'0000, 0xa5);
    EXPECT_EQ(ram->host()[0xa'0000], 0x5a);
    bench.out8(0xcfe, 0x4a);
    EXPECT_EQ(bench.in8(0xcfe), 0x1a);
}

TEST_F(HostBridge, reset_shows_the_rom_again_and_unlocks_smram) {
    pam(0, 0x30);
    select(0, 0, 0x72);
    bench.out8(0xcfe, 0x1a);
    bridge.reset();
    EXPECT_EQ(bench.read8(0xf'0000), 0x30);
    bench.out8(0xcfe, 0x4a);
    EXPECT_EQ(bench.in8(0xcfe), 0x4a);
}

// -------------------------------------------------------------------------------------- PIIX3

struct IsaBridge : Pci {
    IsaBridge() { bench.plug(piix3); }
    void route(unsigned pirq, u8 value) {
        select(1, 0, 0x60);
        bench.out8(static_cast<u16>(0xcfc + pirq), value);
    }
    Piix3 piix3{"pci.1.0", bench.irq, events};
};

TEST_F(IsaBridge, pci_interrupts_go_where_they_are_routed_and_are_wired_or) {
    piix3.set_line(0, true);
    EXPECT_FALSE(bench.irq.level(10));
    route(0, 10);
    route(1, 10);
    EXPECT_TRUE(bench.irq.level(10));
    piix3.set_line(1, true);
    piix3.set_line(0, false);
    EXPECT_TRUE(bench.irq.level(10));
    route(1, 11);
    EXPECT_FALSE(bench.irq.level(10));
    EXPECT_TRUE(bench.irq.level(11));
    route(1, 0x80);
    EXPECT_FALSE(bench.irq.level(11));
}

TEST_F(IsaBridge, the_boards_own_interrupts_cannot_be_routed_to) {
    piix3.set_line(0, true);
    for (const u8 irq : std::array<u8, 5>{0, 1, 2, 8, 13}) {
        route(0, irq);
        EXPECT_FALSE(bench.irq.level(irq)) << unsigned{irq};
    }
}

TEST_F(IsaBridge, port_92h_resets_on_its_rising_edge_and_keeps_a20) {
    EXPECT_EQ(bench.in8(0x92), 0x02);
    bench.out8(0x92, 0x00);
    EXPECT_FALSE(piix3.a20());
    bench.out8(0x92, 0x03);
    bench.out8(0x92, 0x03);
    EXPECT_EQ(events.resets, 1);
}

// ------------------------------------------------------------------------------------ PIIX4 PM

struct Power : Pci {
    Power() {
        bench.plug(power);
        put(1, 0x40, 0x601, 3);
        select(1, 3, 0x80);
        bench.out8(0xcfc, 1);
    }
    bool sci() const { return bench.irq.level(9); }
    Piix4Pm power{"pci.1.3", bench.address_map, bench.clock, bench.irq.line(9), events};
};

TEST_F(Power, the_block_is_where_firmware_puts_it_and_only_when_it_is_enabled) {
    EXPECT_EQ(get(1, 0x00, 3), 0x71138086u);
    EXPECT_EQ(get(1, 0x40, 3), 0x601u);
    EXPECT_EQ(bench.in16(0x604), 0x0000);
    put(1, 0x40, 0xb001, 3);
    EXPECT_EQ(bench.in16(0x604), 0xffff);
    EXPECT_EQ(bench.in16(0xb004), 0x0000);
    select(1, 3, 0x80);
    bench.out8(0xcfc, 0);
    EXPECT_EQ(bench.in16(0xb004), 0xffff);
}

TEST_F(Power, place_does_what_firmware_would) {
    power.reset();
    EXPECT_EQ(bench.in16(0x604), 0xffff);
    power.place(0x600);
    EXPECT_EQ(bench.in16(0x604), 0x0000);
}

TEST_F(Power, the_command_port_hands_power_management_over) {
    bench.out8(0xb2, Piix4Pm::enable_value);
    EXPECT_EQ(bench.in16(0x604) & 1, 1);
    bench.out8(0xb2, Piix4Pm::disable_value);
    EXPECT_EQ(bench.in16(0x604) & 1, 0);
    EXPECT_EQ(bench.in8(0xb2), Piix4Pm::disable_value);
    bench.out8(0xb3, 0x42);
    EXPECT_EQ(bench.in8(0xb3), 0x42);
}

TEST_F(Power, the_timer_runs_at_3_579545_mhz_in_24_bits) {
    const u32 start = bench.in32(0x608);
    bench.clock.advance(1'000'000'000);
    EXPECT_EQ((bench.in32(0x608) - start) & 0xffffff, 3'579'545u);
    bench.clock.advance(10'000'000'000);
    EXPECT_EQ(bench.in32(0x608) >> 24, 0u);
}

TEST_F(Power, the_timers_top_bit_interrupts_when_it_changes) {
    bench.out8(0xb2, Piix4Pm::enable_value);
    bench.out16(0x602, 0x0001);
    bench.clock.advance(2'300'000'000);
    EXPECT_FALSE(sci());
    bench.clock.advance(100'000'000); // 2^23 ticks are 2.343 s
    ASSERT_TRUE(sci());
    EXPECT_EQ(bench.in16(0x600), 0x0001);
    bench.out16(0x600, 0x0001);
    EXPECT_FALSE(sci());
    bench.clock.advance(2'400'000'000);
    EXPECT_TRUE(sci());
}

TEST_F(Power, the_button_sets_its_status_and_interrupts_if_enabled) {
    power.press_power_button();
    EXPECT_EQ(bench.in16(0x600), 0x0100);
    bench.out16(0x602, 0x0100);
    EXPECT_FALSE(sci()); // nobody has taken power management over
    bench.out8(0xb2, Piix4Pm::enable_value);
    EXPECT_TRUE(sci());
    bench.out16(0x600, 0xffff);
    EXPECT_EQ(bench.in16(0x600), 0x0000);
    EXPECT_FALSE(sci());
}

TEST_F(Power, general_purpose_events_share_the_interrupt) {
    bench.out8(0xb2, Piix4Pm::enable_value);
    bench.out16(0x60e, 0x0004);
    power.raise_gpe(1);
    EXPECT_FALSE(sci());
    power.raise_gpe(2);
    EXPECT_TRUE(sci());
    bench.out8(0x60c, 0x06);
    EXPECT_FALSE(sci());
}

TEST_F(Power, soft_off_is_asked_for_by_sleep_type_and_enable) {
    bench.out16(0x604, 0x0001);
    EXPECT_EQ(events.power_offs, 0);
    bench.out16(0x604, 0x3c01); // another sleep type
    EXPECT_EQ(events.power_offs, 0);
    bench.out16(0x604, Piix4Pm::sleep_type_off << 10 | 0x2001);
    EXPECT_EQ(events.power_offs, 1);
    EXPECT_EQ(bench.in16(0x604) & 0x2000, 0); // reads as 0
}

TEST_F(Power, the_smbus_has_nobody_on_it) {
    put(1, 0x90, 0x701, 3);
    select(1, 3, 0xd0);
    bench.out8(0xcfe, 0x09);
    bench.out8(0x704, 0xa1);
    bench.out8(0x702, 0x48); // start a byte-data read
    EXPECT_EQ(bench.in8(0x700), 0x04);
    bench.out8(0x700, 0x04);
    EXPECT_EQ(bench.in8(0x700), 0x00);
}

} // namespace
} // namespace rhea::hw
