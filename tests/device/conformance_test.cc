// Every device of a PC through the conformance suite.
#include "dm/chardev/chardev.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/char/debugcon.h"
#include "hw/char/uart_16550.h"
#include "hw/fw_cfg/fw_cfg.h"
#include "hw/input/i8042.h"
#include "hw/intc/apic_bus.h"
#include "hw/intc/i8259.h"
#include "hw/intc/io_apic.h"
#include "hw/intc/local_apic.h"
#include "hw/isa/debug_exit.h"
#include "hw/isa/dma_8237.h"
#include "hw/isa/piix3.h"
#include "hw/pci/host.h"
#include "hw/pci/i440fx.h"
#include "hw/timer/pit.h"
#include "hw/timer/rtc.h"
#include "tests/device/conformance.h"
#include <gtest/gtest.h>

namespace rhea::conformance {
namespace {

// What stands around a device: nobody answers, but everybody may be asked.
struct Surroundings : hw::MachineEvents {
    void reset_requested() noexcept override {}
    void power_off_requested() noexcept override {}
    void exit_requested(u8) noexcept override {}
    void processor_shut_down(unsigned) noexcept override {}

    chardev::NullBackend null;
    hw::ApicBus bus;
};

template <class D> using MakeDevice = std::unique_ptr<D> (*)(Bench &, Surroundings &);

template <class D> Subject on_a_board(std::string name, MakeDevice<D> make) {
    struct Board final : Rig {
        Board(Bench &b, MakeDevice<D> m) : made(m(b, around)) {}
        Device &device() noexcept override { return *made; }
        Surroundings around;
        std::unique_ptr<D> made;
    };
    return {std::move(name),
            [make](Bench &b) -> std::unique_ptr<Rig> { return std::make_unique<Board>(b, make); }};
}

std::shared_ptr<RamRegion> region(const char *name, u64 size) {
    auto made = RamRegion::create(name, size);
    VERIFY(made);
    return *made;
}

// Just before the end of a February with a leap day, so that the calendar has something to carry.
constexpr i64 leap_day = 1'709'247'590'000'000'000;

const std::vector<Subject> &subjects() {
    using B = Bench &;
    using S = Surroundings &;
    static const std::vector<Subject> all{
        on_a_board<hw::DebugConsole>("debugcon",
                                     [](B, S s) {
                                         return std::make_unique<hw::DebugConsole>(
                                             "debugcon0", hw::DebugConsole::Config{}, s.null);
                                     }),
        on_a_board<hw::DebugExit>("debug_exit",
                                  [](B, S s) {
                                      return std::make_unique<hw::DebugExit>(
                                          "exit0", hw::DebugExit::Config{}, s);
                                  }),
        on_a_board<hw::DmaPair>("dma_8237",
                                [](B, S) { return std::make_unique<hw::DmaPair>("dma"); }),
        on_a_board<hw::FwCfg>("fw_cfg",
                              [](B b, S) {
                                  auto d = std::make_unique<hw::FwCfg>("fw_cfg", b.address_map);
                                  d->add_file("etc/short", {1, 2, 3});
                                  d->add_file("etc/long", std::vector<u8>(70'000, 0x5a));
                                  return d;
                              }),
        on_a_board<hw::I440fx>("i440fx",
                               [](B b, S) {
                                   return std::make_unique<hw::I440fx>(
                                       "i440fx", b.address_map, b.ram, region("rom", 256 << 10));
                               }),
        on_a_board<hw::I8042>("i8042",
                              [](B b, S s) {
                                  return std::make_unique<hw::I8042>("i8042", b.irq.line(1),
                                                                     b.irq.line(12), s);
                              }),
        on_a_board<hw::I8259Pair>(
            "i8259", [](B b, S) { return std::make_unique<hw::I8259Pair>("pic", b.irq.line(0)); }),
        on_a_board<hw::IoApic>(
            "io_apic", [](B, S s) { return std::make_unique<hw::IoApic>("ioapic", s.bus); }),
        on_a_board<hw::LocalApic>("local_apic",
                                  [](B b, S s) {
                                      return std::make_unique<hw::LocalApic>("lapic0", 0u, s.bus,
                                                                             b.clock, s);
                                  }),
        on_a_board<hw::PciHost>(
            "pci_host",
            [](B b, S s) { return std::make_unique<hw::PciHost>("pci", b.address_map, s); }),
        on_a_board<hw::Piix3>(
            "piix3", [](B b, S s) { return std::make_unique<hw::Piix3>("piix3", b.irq, s); }),
        on_a_board<hw::Piix4Pm>("piix4_pm",
                                [](B b, S s) {
                                    return std::make_unique<hw::Piix4Pm>("pm", b.address_map,
                                                                         b.clock, b.irq.line(9), s);
                                }),
        on_a_board<hw::Pit>(
            "pit", [](B b, S) { return std::make_unique<hw::Pit>("pit", b.clock, b.irq.line(0)); }),
        on_a_board<hw::Rtc>("rtc",
                            [](B b, S) {
                                return std::make_unique<hw::Rtc>("rtc", b.clock, b.irq.line(8),
                                                                 leap_day);
                            }),
        on_a_board<hw::Uart16550>("uart_16550",
                                  [](B b, S s) {
                                      return std::make_unique<hw::Uart16550>(
                                          "uart0", hw::Uart16550::Config{}, b.clock, b.irq.line(4),
                                          s.null);
                                  }),
    };
    return all;
}

class Conformance : public ::testing::TestWithParam<Subject> {};

TEST_P(Conformance, reset_is_idempotent) {
    EXPECT_EQ(check_reset_is_idempotent(GetParam()), "");
}
TEST_P(Conformance, windows_take_every_access) {
    EXPECT_EQ(check_windows_take_every_access(GetParam()), "");
}
TEST_P(Conformance, state_survives_save_and_load) {
    EXPECT_EQ(check_state_survives_save_and_load(GetParam()), "");
}
TEST_P(Conformance, a_restored_device_behaves_the_same) {
    EXPECT_EQ(check_a_restored_device_behaves_the_same(GetParam()), "");
}
TEST_P(Conformance, damaged_state_is_refused_or_harmless) {
    EXPECT_EQ(check_damaged_state_is_refused_or_harmless(GetParam()), "");
}
TEST_P(Conformance, noise_ends) {
    EXPECT_EQ(check_noise_ends(GetParam()), "");
}

INSTANTIATE_TEST_SUITE_P(Pc, Conformance, ::testing::ValuesIn(subjects()),
                         [](const auto &p) { return p.param.name; });

} // namespace

void PrintTo(const Subject &s, std::ostream *out) {
    *out << s.name;
}

} // namespace rhea::conformance
