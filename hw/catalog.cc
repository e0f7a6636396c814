#include "hw/catalog.h"

#include "dm/config/typed.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/char/debugcon.h"
#include "hw/char/uart_16550.h"
#include "hw/display/vga.h"
#include "hw/fw_cfg/fw_cfg.h"
#include "hw/ide/piix3_ide.h"
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

namespace rhea::hw {

namespace {

// What a device needs besides Resources, and a board gives it. Where it is made from its name alone
// it stands alone: nobody listens to its requests, its character device takes everything.
struct Surroundings {
    struct Nobody final : MachineEvents {
        void reset_requested() noexcept override {}
        void power_off_requested() noexcept override {}
        void exit_requested(u8) noexcept override {}
        void processor_shut_down(unsigned) noexcept override {}
    };
    Nobody events;
    chardev::NullBackend backend;
    ApicBus bus;
};

// Stand for what the device's own surroundings give.
struct Events {};
struct Backend {};
struct Bus {};
MachineEvents &give(Surroundings &s, Events) noexcept {
    return s.events;
}
chardev::CharBackend &give(Surroundings &s, Backend) noexcept {
    return s.backend;
}
ApicBus &give(Surroundings &s, Bus) noexcept {
    return s.bus;
}
template <class T> T &&give(Surroundings &, T &&value) noexcept {
    return std::forward<T>(value);
}

template <class D> class Alone final : private Surroundings, public D {
public:
    template <class... A>
    explicit Alone(A &&...a) : D(give(static_cast<Surroundings &>(*this), std::forward<A>(a))...) {}
};

IrqLine irq(const Resources &r, u32 n) noexcept {
    return {r.irqs, n};
}

struct NoOptions {
    static constexpr auto fields() { return describe<NoOptions>(); }
};
struct UartOptions {
    u16 iobase = 0x3f8;
    u8 irq = 4;
    static constexpr auto fields() {
        return describe<UartOptions>(Field<&UartOptions::iobase>{"first of its eight ports"},
                                     Field<&UartOptions::irq>{"ISA interrupt"});
    }
};
struct DebugConsoleOptions {
    u16 iobase = 0xe9;
    u8 readback = 0xe9;
    static constexpr auto fields() {
        using O = DebugConsoleOptions;
        return describe<O>(Field<&O::iobase>{"its port"}, Field<&O::readback>{"what it reads as"});
    }
};
struct DebugExitOptions {
    u16 iobase = 0x501;
    u16 iosize = 2;
    static constexpr auto fields() {
        using O = DebugExitOptions;
        return describe<O>(Field<&O::iobase>{"first port"}, Field<&O::iosize>{"number of ports"});
    }
};

struct VgaOptions {
    u32 vgamem_mb = 16;
    u32 xres = 1280, yres = 800;
    static constexpr auto fields() {
        using O = VgaOptions;
        return describe<O>(Field<&O::vgamem_mb>{"video memory in MiB"},
                           Field<&O::xres>{"the monitor's width"}, Field<&O::yres>{"and height"});
    }
};

using Made = std::unique_ptr<Device>;
using Name = std::string;
using Options = std::string_view;

void no_options(Options options) {
    config::parse_options<NoOptions>(options);
}

Made make_i440fx(Name name, const Resources &r, Options options) {
    no_options(options);
    auto ram = RamRegion::create(name + " ram", u64{1} << 20);
    auto rom = RamRegion::create(name + " rom", u64{128} << 10);
    if (!ram || !rom)
        throw ConfigError("i440fx: " + to_string(ram ? rom.error() : ram.error()));
    return std::make_unique<I440fx>(std::move(name), r.map, std::move(*ram), std::move(*rom));
}
Made make_vga(Name name, const Resources &r, Options options) {
    const auto o = config::parse_options<VgaOptions>(options);
    const Vga::Config config{
        .memory = u64{o.vgamem_mb} << 20, .rom = {}, .width = o.xres, .height = o.yres};
    return std::make_unique<Vga>(std::move(name), config, r.map, r.clock);
}
Made make_debugcon(Name name, const Resources &, Options options) {
    const auto o = config::parse_options<DebugConsoleOptions>(options);
    return std::make_unique<Alone<DebugConsole>>(
        std::move(name), DebugConsole::Config{o.iobase, o.readback}, Backend{});
}
Made make_debug_exit(Name name, const Resources &, Options options) {
    const auto o = config::parse_options<DebugExitOptions>(options);
    if (!o.iosize || o.iobase + o.iosize > 0x10000)
        throw ConfigError("isa-debug-exit: iobase and iosize go beyond port 0xffff");
    return std::make_unique<Alone<DebugExit>>(std::move(name),
                                              DebugExit::Config{o.iobase, o.iosize}, Events{});
}
Made make_uart(Name name, const Resources &r, Options options) {
    const auto o = config::parse_options<UartOptions>(options);
    if (o.iobase > 0xfff8)
        throw ConfigError("isa-serial: iobase goes beyond port 0xffff");
    return std::make_unique<Alone<Uart16550>>(std::move(name), Uart16550::Config{o.iobase}, r.clock,
                                              irq(r, o.irq), Backend{});
}

// The board's own devices: no options.
template <class D, auto... Arguments>
Made make_plain(Name name, const Resources &r, Options options) {
    no_options(options);
    return std::make_unique<Alone<D>>(std::move(name), Arguments(r)...);
}
constexpr auto map_of = [](const Resources &r) -> AddressMap & { return r.map; };
constexpr auto clock_of = [](const Resources &r) -> Clock & { return r.clock; };
constexpr auto irqs_of = [](const Resources &r) -> IrqSink & { return r.irqs; };
constexpr auto events = [](const Resources &) { return Events{}; };
constexpr auto bus = [](const Resources &) { return Bus{}; };
constexpr auto no_drives = [](const Resources &) { return Piix3Ide::Config{}; };
template <u32 N> constexpr auto line = [](const Resources &r) { return irq(r, N); };
template <auto N> constexpr auto value = [](const Resources &) { return N; };

constexpr DeviceType types[] = {
    {"VGA",
     "standard VGA with Bochs extensions, PCI 1234:1111",
     BusKind::pci,
     make_vga,
     {},
     "vgamem_mb, xres, yres"},
    {"fw_cfg", "what firmware is told by the machine", BusKind::board, make_plain<FwCfg, map_of>},
    {"i440fx", "Intel 82441FX host bridge, PCI function 0:0.0", BusKind::pci, make_i440fx},
    {"i8042", "keyboard controller with keyboard and mouse", BusKind::board,
     make_plain<I8042, line<1>, line<12>, events>},
    {"i8237", "pair of DMA controllers", BusKind::board, make_plain<DmaPair>},
    {"i8254", "interval timer and port 61h", BusKind::board, make_plain<Pit, clock_of, line<0>>},
    {"i8259", "pair of interrupt controllers", BusKind::board, make_plain<I8259Pair, line<16>>},
    {"ioapic", "82093AA I/O APIC", BusKind::board, make_plain<IoApic, bus>},
    {"isa-debug-exit",
     "a write ends the program with a status",
     BusKind::isa,
     make_debug_exit,
     {},
     "iobase, iosize"},
    {"isa-debugcon",
     "a port that writes to a character device",
     BusKind::isa,
     make_debugcon,
     {},
     "iobase, readback"},
    {"isa-serial", "16550A UART", BusKind::isa, make_uart, "uart-16550", "iobase, irq"},
    {"local-apic", "local APIC of the boot processor", BusKind::board,
     make_plain<LocalApic, value<0u>, bus, clock_of, events>},
    {"mc146818", "real-time clock and CMOS RAM", BusKind::board,
     make_plain<Rtc, clock_of, line<8>, value<i64{1'700'000'000'000'000'000}>>},
    {"pci-host", "PCI configuration mechanism 1 and reset control", BusKind::board,
     make_plain<PciHost, map_of, events>},
    {"piix3", "Intel 82371SB PCI to ISA bridge, PCI function 0:1.0", BusKind::pci,
     make_plain<Piix3, irqs_of, events>},
    {"piix3-ide", "Intel 82371SB IDE controller, PCI function 0:1.1", BusKind::pci,
     make_plain<Piix3Ide, map_of, line<14>, line<15>, no_drives>},
    {"piix4-pm", "Intel 82371AB power management, PCI function 0:1.3", BusKind::pci,
     make_plain<Piix4Pm, map_of, clock_of, line<9>, events>},
};
static_assert(sorted_by_name(types));

} // namespace

std::span<const DeviceType> catalog() noexcept {
    return types;
}

} // namespace rhea::hw
