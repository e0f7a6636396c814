#include "hw/machine/pc.h"

#include "dm/core/config_error.h"
#include "dm/core/endian.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/char/debugcon.h"
#include "hw/char/uart_16550.h"
#include "hw/display/vga.h"
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

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace rhea::hw {

namespace {

constexpr u64 four_gib = u64{1} << 32;
constexpr u64 rom_unit = 0x2'0000, largest_rom = u64{8} << 20;

std::string mib(u64 bytes) {
    return std::to_string(bytes >> 20) + " MiB";
}

std::shared_ptr<RamRegion> make_region(std::string name, u64 size, const char *option) {
    auto made = RamRegion::create(std::move(name), size);
    if (!made)
        throw ConfigError(std::string(option) + ": " + mib(size) +
                          " cannot be had: " + to_string(made.error()));
    return std::move(*made);
}

} // namespace

// Where an ISA interrupt goes: to the 8259 pair and to the IO-APIC, IRQ 0 to its input 2. Wired-or
// of the ISA devices' own lines, the PCI ones that are routed to it, and the SCI.
class IsaInterrupts final : public IrqSink {
public:
    IsaInterrupts(IrqSink &pics, IrqSink &io_apic) noexcept {
        for (u32 n = 0; n < 16; ++n) {
            split_[n].emplace(IrqLine{pics, n}, IrqLine{io_apic, n == 0 ? 2 : n});
            shared_[n].emplace(n == 2 ? IrqLine{} : split_[n]->input());
        }
    }
    IrqLine device(u32 irq) noexcept { return shared_[irq & 15]->input(next_[irq & 15]++); }
    // As the PCI side drives it.
    void set_line(u32 irq, bool level) noexcept override { shared_[irq & 15]->input(0).set(level); }

private:
    std::array<std::optional<SplitLine<2>>, 16> split_;
    std::array<std::optional<SharedLine>, 16> shared_;
    std::array<u32, 16> next_{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
};

// The devices, in the order in which they depend on each other.
struct Pc::Board {
    Board() : pics("pic", bus.intr_input()), io_apic("ioapic", bus), isa(pics, io_apic) {
        bus.attach(pics);
    }

    ApicBus bus;
    I8259Pair pics;
    IoApic io_apic;
    IsaInterrupts isa;
    std::vector<std::unique_ptr<LocalApic>> local_apics;
    std::array<std::optional<SharedLine>, 4> pirq;
    std::array<u32, 4> next_pirq{};
    std::vector<std::unique_ptr<Device>> devices;

    template <class D, class... A> D &add(A &&...a) {
        auto made = std::make_unique<D>(std::forward<A>(a)...);
        D &device = *made;
        devices.push_back(std::move(made));
        return device;
    }
};

Pc::Pc(const PcConfig &config, const PcEnvironment &environment)
    : environment_(environment), has_firmware_(!config.firmware.empty()) {
    if (config.ram_size < smallest_ram || config.ram_size > largest_ram ||
        config.ram_size % page_size)
        throw ConfigError("-m: " + std::to_string(config.ram_size) +
                          " bytes of memory: from 1 MiB to 512 GiB in steps of 4 KiB are possible");
    if (config.cpus < 1 || config.cpus > most_cpus)
        throw ConfigError("-smp: " + std::to_string(config.cpus) + " CPUs: 1 to " +
                          std::to_string(most_cpus) + " are possible");
    if (config.firmware.size() > largest_rom)
        throw ConfigError("-bios: the firmware has " + std::to_string(config.firmware.size()) +
                          " bytes, more than " + mib(largest_rom));
    ram_ = make_region("ram", config.ram_size, "-m");
    // The image ends where the ROM does.
    const u64 image = config.firmware.size();
    rom_ = make_region("firmware", std::max(rom_unit, (image + rom_unit - 1) / rom_unit * rom_unit),
                       "-bios");
    std::memset(rom_->host(), 0xff, rom_->size());
    std::copy(config.firmware.begin(), config.firmware.end(),
              rom_->host() + (rom_->size() - image));

    board_ = std::make_unique<Board>();
    lay_out_memory();
    make_devices(config);
    describe_to_firmware(config);
    make_vcpus(config);
}

Pc::~Pc() {
    pause();
    for (auto &apic : board_->local_apics)
        apic->attach(nullptr);
    vcpus_.clear();
    mappings_.clear();
}

// ------------------------------------------------------------------------------- putting together

void Pc::lay_out_memory() {
    AddressMap &map = environment_.map;
    const u64 size = ram_->size();
    low_ram_ = size < largest_low_ram ? size : low_ram_of_large;
    mappings_.push_back(map.map_ram(0, ram_, u64{0}, u64{0xa'0000}));
    if (low_ram_ > 0x10'0000)
        mappings_.push_back(map.map_ram(0x10'0000, ram_, u64{0x10'0000}, low_ram_ - 0x10'0000));
    if (size > low_ram_)
        mappings_.push_back(map.map_ram(four_gib, ram_, low_ram_, size - low_ram_));
    mappings_.push_back(map.map_rom(four_gib - rom_->size(), rom_, 0, rom_->size()));
}

void Pc::plug(Device &device) {
    for (const Window &w : device.windows())
        if (w.base != Window::unplaced)
            mappings_.push_back(environment_.map.map(w.space, w.base, w.size, *w.target));
    devices_.push_back(&device);
}

void Pc::make_devices(const PcConfig &config) {
    Board &b = *board_;
    AddressMap &map = environment_.map;
    Clock &clock = environment_.clock;
    MachineEvents &events = environment_.events;

    plug(b.pics);
    plug(b.io_apic);
    for (unsigned n = 0; n < config.cpus; ++n) {
        b.local_apics.push_back(
            std::make_unique<LocalApic>("lapic" + std::to_string(n), n, b.bus, clock, events));
        plug(*b.local_apics.back());
    }
    plug(b.add<PciHost>("pci-host", map, events));
    host_bridge_ = &b.add<I440fx>("pci.0.0", map, ram_, rom_);
    plug(*host_bridge_);
    auto &piix3 = b.add<Piix3>("pci.1.0", b.isa, events);
    plug(piix3);
    ide_ = &b.add<Piix3Ide>("pci.1.1", map, b.isa.device(14), b.isa.device(15), config.ide);
    plug(*ide_);
    for (u32 n = 0; n < 4; ++n)
        b.pirq[n].emplace(IrqLine{piix3, n});
    power_ = &b.add<Piix4Pm>("pci.1.3", map, clock, b.isa.device(Piix4Pm::sci), events);
    plug(*power_);
    plug(b.add<DmaPair>("dma"));
    plug(b.add<Pit>("pit", clock, b.isa.device(0)));
    rtc_ = &b.add<Rtc>("rtc", clock, b.isa.device(8), config.calendar_ns);
    plug(*rtc_);
    input_ = &b.add<I8042>("i8042", b.isa.device(1), b.isa.device(12), events);
    plug(*input_);
    fw_cfg_ = &b.add<FwCfg>("fw_cfg", map);
    plug(*fw_cfg_);
    if (config.vga) {
        auto &vga = b.add<Vga>("pci.2.0",
                               Vga::Config{.slot = 2,
                                           .memory = config.vga->memory,
                                           .rom = config.vga->rom,
                                           .width = config.vga->width,
                                           .height = config.vga->height},
                               map, clock);
        plug(vga);
        display_ = &vga;
    }

    constexpr std::array<std::pair<u16, u8>, 4> com{
        {{0x3f8, 4}, {0x2f8, 3}, {0x3e8, 4}, {0x2e8, 3}}};
    for (unsigned n = 0; n < com.size(); ++n)
        if (config.serial[n])
            plug(b.add<Uart16550>("serial" + std::to_string(n),
                                  Uart16550::Config{.port = com[n].first}, clock,
                                  b.isa.device(com[n].second), *config.serial[n]));
    for (usize n = 0; n < config.debug_consoles.size(); ++n) {
        const auto &c = config.debug_consoles[n];
        if (!c.backend)
            throw ConfigError("isa-debugcon: it needs a character device (chardev=ID)");
        plug(b.add<DebugConsole>("debugcon" + std::to_string(n),
                                 DebugConsole::Config{.port = c.port}, *c.backend));
    }
    if (config.debug_exit)
        plug(b.add<DebugExit>("debug-exit",
                              DebugExit::Config{config.debug_exit->port, config.debug_exit->size},
                              events));
    fill_cmos(config);
}

void Pc::make_vcpus(const PcConfig &config) {
    for (unsigned n = 0; n < config.cpus; ++n) {
        vcpus_.push_back(environment_.engine.create_vcpu({.index = n, .model = config.cpu_model},
                                                         *board_->local_apics[n]));
        board_->local_apics[n]->attach(vcpus_.back().get());
    }
}

// What firmware without fw_cfg's files looks for in the CMOS RAM: the memory sizes as AT firmware
// leaves them, how many CPUs will answer, and the boot order.
void Pc::fill_cmos(const PcConfig &config) {
    const auto put = [this](u8 at, u64 value, unsigned bytes) {
        for (unsigned i = 0; i < bytes; ++i)
            rtc_->set_byte(static_cast<u8>(at + i), static_cast<u8>(value >> 8 * i));
    };
    const u64 extended = std::min<u64>((low_ram_ - (u64{1} << 20)) >> 10, 0xffff);
    const u64 above_16m = low_ram_ > u64{16} << 20 ? (low_ram_ - (u64{16} << 20)) >> 16 : 0;
    const u64 above_4g = (ram_->size() - low_ram_) >> 16;
    put(0x15, 640, 2);
    put(0x17, extended, 2);
    put(0x30, extended, 2);
    put(0x34, std::min<u64>(above_16m, 0xffff), 2);
    put(0x5b, std::min<u64>(above_4g, 0xff'ffff), 3);
    put(0x5f, config.cpus - 1, 1);
    put(0x14, 0x06, 1); // equipment: a coprocessor, a PS/2 mouse
    put_disks();
    boot_order_ = config.boot_order;
    put_boot_order(config.boot_order); // checks it
    if (!config.boot_once.empty())
        put_boot_order(config.boot_once);
}

void Pc::put_boot_order(const std::string &letters) {
    u8 order[3] = {};
    usize n = 0;
    for (const char c : letters) {
        constexpr std::string_view kinds = "acdn";
        const auto kind = kinds.find(c);
        if (kind == kinds.npos)
            throw ConfigError(
                "-boot: '" + std::string(1, c) +
                "' is no device; a (floppy), c (disk), d (CD-ROM) and n (network) are");
        if (n < 3)
            order[n++] = static_cast<u8>(kind + 1);
    }
    rtc_->set_byte(0x3d, static_cast<u8>(order[1] << 4 | order[0]));
    rtc_->set_byte(0x38, static_cast<u8>(order[2] << 4 | 1)); // bit 0: no floppy signature check
}

// The disks as AT firmware notes them: the types of the first two (12h, both "47, see below"), and
// for all four how firmware is to translate their geometry (39h; 0: not at all, 1: by LBA).
void Pc::put_disks() {
    constexpr u8 own_type = 47, many_heads = 0x08;
    u8 types = 0, translation = 0;
    for (unsigned n = 0; n < 4; ++n) {
        const IdeDrive &drive = ide_->drive(n);
        if (!drive.present() || drive.cdrom())
            continue;
        const auto g = drive.geometry();
        translation |= static_cast<u8>((g.cylinders > 1024 ? 1 : 0) << 2 * n);
        if (n >= 2)
            continue;
        types |= static_cast<u8>(n == 0 ? 0xf0 : 0x0f);
        rtc_->set_byte(static_cast<u8>(0x19 + n), own_type);
        const u8 low = static_cast<u8>(g.cylinders), high = static_cast<u8>(g.cylinders >> 8);
        const u8 table[] = {low, high, static_cast<u8>(g.heads),  0xff, 0xff, many_heads,
                            low, high, static_cast<u8>(g.sectors)};
        for (unsigned i = 0; i < std::size(table); ++i)
            rtc_->set_byte(static_cast<u8>(0x1b + 9 * n + i), table[i]);
    }
    rtc_->set_byte(0x12, types);
    rtc_->set_byte(0x39, translation);
}

void Pc::describe_to_firmware(const PcConfig &config) {
    FwCfg &fw = *fw_cfg_;
    fw.add_u64(FwCfg::ram_size, ram_->size());
    fw.add_u16(FwCfg::nographic, !config.graphics);
    fw.add_u16(FwCfg::nb_cpus, static_cast<u16>(config.cpus));
    fw.add_u16(FwCfg::max_cpus, static_cast<u16>(config.cpus));
    fw.add_u16(FwCfg::boot_menu, config.boot_menu);
    fw.add_u32(FwCfg::irq0_override, 1);

    // Address ranges as firmware is to report them (INT 15h, E820h): what is RAM.
    constexpr u32 ram_type = 1;
    constexpr usize entry_size = 20;
    std::vector<u8> table;
    const auto add = [&](u64 base, u64 size) {
        const usize at = table.size();
        table.resize(at + entry_size);
        store_le<u64>(&table[at], base);
        store_le<u64>(&table[at + 8], size);
        store_le<u32>(&table[at + 16], ram_type);
    };
    add(0, low_ram_);
    if (ram_->size() > low_ram_)
        add(four_gib, ram_->size() - low_ram_);
    fw.add_file("etc/e820", std::move(table));
}

void Pc::add_fw_cfg_file(std::string name, std::vector<u8> bytes) {
    fw_cfg_->add_file(std::move(name), std::move(bytes));
}

void Pc::add_rom(u64 address, std::vector<u8> bytes) {
    if (!write_ram(address, bytes))
        throw ConfigError("a ROM of " + std::to_string(bytes.size()) +
                          " bytes does not fit into memory at its address");
    roms_.push_back({address, std::move(bytes)});
}

bool Pc::write_ram(u64 address, std::span<const u8> bytes) noexcept {
    const u64 size = bytes.size();
    const bool high = address >= four_gib;
    const u64 end = high ? ram_->size() - low_ram_ : low_ram_; // of this stretch of RAM
    const u64 at = high ? address - four_gib : address;
    if (at > end || size > end - at)
        return false;
    const u64 offset = high ? low_ram_ + at : at;
    std::copy(bytes.begin(), bytes.end(), ram_->host() + offset);
    ram_->written(offset, size);
    return true;
}

// ------------------------------------------------------------------------------------ its life

void Pc::power_on() {
    for (Device *device : devices_)
        device->reset();
    if (placed_) // once= was for the first boot
        put_boot_order(boot_order_);
    for (auto &vcpu : vcpus_) {
        vcpu->reset();
        if (vcpu->index() == 0)
            continue;
        accel::X86State state = vcpu->state(); // an application processor waits to be started
        state.wait_for_sipi = true;
        vcpu->set_state(state);
    }
    if (!has_firmware_) {
        host_bridge_->open_shadow();
        ide_->enable_channels();
    }
    for (const Rom &rom : roms_)
        write_ram(rom.address, rom.bytes);
    if (loader_)
        loader_->place(*this);
    placed_ = true;
}

void Pc::run() {
    if (running_)
        return;
    if (!placed_)
        power_on();
    running_ = true;
    if (environment_.host_clock)
        environment_.host_clock->resume();
    for (auto &vcpu : vcpus_)
        vcpu->run();
}

void Pc::pause() {
    if (!running_)
        return;
    for (auto &vcpu : vcpus_)
        vcpu->pause();
    if (environment_.host_clock)
        environment_.host_clock->stop();
    running_ = false;
}

void Pc::reset() {
    const bool was_running = running_;
    pause();
    power_on();
    if (was_running)
        run();
}

void Pc::press_power_button() noexcept {
    power_->press_power_button();
}

namespace {
struct ClockState {
    i64 now = 0; // guest nanoseconds
    static constexpr auto fields() {
        return describe<ClockState>(Field<&ClockState::now>{.max = u64{1} << 62});
    }
};
} // namespace

void Pc::save(state::Writer &out) {
    // What was due when the clock stopped belongs to the saved past: no edge may be left between
    // two devices' sections.
    environment_.clock.run_due();
    const ClockState clock{environment_.clock.now()};
    out.section("clock", "clock", 1, [&](state::FieldWriter &f) { f.fields(clock); });
    for (Device *device : devices_)
        device->save(out);
}

Result<> Pc::load(const state::Reader &in) {
    ClockState clock;
    TRY(in.section("clock", "clock", 1, [&](state::FieldReader &f) { f.fields(clock); }));
    if (clock.now < 0)
        return fail(EINVAL, "saved state of 'clock': a time before the machine was made");
    environment_.clock.set(clock.now);
    for (Device *device : devices_)
        if (auto done = device->load(in); !done)
            return done;
    placed_ = true;
    return {};
}

// --------------------------------------------------------------------------------- for plugging in

IrqLine Pc::isa_irq(unsigned irq) noexcept {
    return board_->isa.device(irq);
}

// The board's wiring: the lines turn by one from slot to slot, so that neighbours do not share.
IrqLine Pc::pci_irq(unsigned slot, unsigned pin) noexcept {
    const unsigned n = (slot + pin + 2) & 3; // slot 1, INTA# is PIRQ A
    return board_->pirq[n]->input(board_->next_pirq[n]++);
}

MsiSink &Pc::msi() noexcept {
    return board_->bus;
}

} // namespace rhea::hw
