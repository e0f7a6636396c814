// Pc: the machine with the i440FX/PIIX3 chip set that people mean by "pc": memory, firmware, the
// board's devices and their wiring, and the life of all of it.
//
// Owned by the program (a composition root), which also owns what Environment names and outlives
// the machine. Configured, run, paused, reset and destroyed on one thread, the main loop's; what
// the guest asks for comes to MachineEvents on other threads, and the owner answers it here. No
// device knows which engine runs the vCPUs.
//
// Guest-physical memory: RAM from 0 up to the hole below 4 GiB, the rest of it from 4 GiB on; the
// hole between 640 KiB and 1 MiB is the host bridge's; the firmware ends at 4 GiB.
#pragma once
#include "accel/accelerator.h"
#include "dm/chardev/chardev.h"
#include "dm/core/result.h"
#include "dm/irq/line.h"
#include "dm/irq/msi.h"
#include "dm/mem/address_space.h"
#include "dm/state/stream.h"
#include "dm/time/clock.h"
#include "hw/ide/piix3_ide.h"
#include "hw/machine/events.h"

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace rhea {
class Device;
namespace ui {
class Console;
}
} // namespace rhea

namespace rhea::hw {

class FwCfg;
class I440fx;
class I8042;
class Pc;
class Piix4Pm;
class Rtc;

struct PcConfig {
    struct Port {
        u16 port = 0;
        u16 size = 1;
        chardev::CharBackend *backend = nullptr;
    };

    struct Vga {
        u64 memory = u64{16} << 20;     // bytes
        u32 width = 1280, height = 800; // the monitor's
        std::vector<u8> rom{};          // what firmware finds its video functions in
    };

    u64 ram_size = u64{128} << 20; // bytes
    unsigned cpus = 1;
    std::string cpu_model = "qemu64";
    std::vector<u8> firmware;       // the ROM's image; empty: none, a kernel is loaded directly
    i64 calendar_ns = 0;            // what the RTC shows at guest time 0, since 1970
    std::string boot_order = "cad"; // a floppy, c disk, d CD-ROM, n network
    std::string boot_once{};        // the order of the first boot, if it is another
    bool boot_menu = false;
    Piix3Ide::Config ide{}; // by channel and unit: 0:0, 0:1, 1:0, 1:1
    bool graphics = true;   // false: firmware is told that nobody looks at a screen
    std::array<chardev::CharBackend *, 4> serial{}; // COM1 to COM4; null: not there
    std::vector<Port> debug_consoles;
    std::optional<Port> debug_exit;
    std::optional<Vga> vga;
};

// What the machine is put into.
struct PcEnvironment {
    AddressMap &map;
    Clock &clock;
    HostClock *host_clock = nullptr; // stopped while the machine is paused, if it is one
    accel::Accelerator &engine;
    MachineEvents &events;
};

// Puts a kernel into memory; see Pc::set_loader.
class BootLoader {
public:
    // After every reset, the first included, with the vCPUs paused and in their reset state.
    virtual void place(Pc &machine) = 0;

protected:
    ~BootLoader() = default;
};

class Pc {
public:
    static constexpr u64 largest_low_ram = 0xe000'0000, low_ram_of_large = 0xc000'0000;
    static constexpr u64 smallest_ram = u64{1} << 20, largest_ram = u64{512} << 30;
    static constexpr unsigned most_cpus = 255; // APIC IDs of the xAPIC

    // Throws ConfigError for a size or number that cannot be, or memory that cannot be had.
    Pc(const PcConfig &config, const PcEnvironment &environment);
    ~Pc();
    Pc(const Pc &) = delete;
    Pc &operator=(const Pc &) = delete;

    // While it is configured, before the first run().
    void add_fw_cfg_file(std::string name, std::vector<u8> bytes);
    // Bytes that are in RAM after every reset. Throws ConfigError if they do not fit.
    void add_rom(u64 address, std::vector<u8> bytes);
    void set_loader(BootLoader *loader) noexcept { loader_ = loader; }

    // The life of it.
    void run();
    // The vCPUs stop; a drive may still be waiting for its disk (ide().quiet()): let the loop of
    // the disks turn until none is before the machine is saved, loaded or destroyed.
    void pause();
    bool running() const noexcept { return running_; }
    void reset(); // leaves it as it was, running or paused
    void press_power_button() noexcept;

    // While paused: the devices and the clock. RAM and vCPUs are their engines' to add.
    void save(state::Writer &out);
    Result<> load(const state::Reader &in);

    u64 low_ram() const noexcept { return low_ram_; } // bytes below 4 GiB
    u64 ram_size() const noexcept { return ram_->size(); }
    RamRegion &ram() noexcept { return *ram_; }
    // While paused, into RAM at a guest-physical address; false if it does not all fit there.
    bool write_ram(u64 address, std::span<const u8> bytes) noexcept;

    unsigned cpus() const noexcept { return static_cast<unsigned>(vcpus_.size()); }
    accel::Vcpu &vcpu(unsigned index) noexcept { return *vcpus_[index]; }
    FwCfg &fw_cfg() noexcept { return *fw_cfg_; }
    Piix3Ide &ide() noexcept { return *ide_; }
    Piix4Pm &power_management() noexcept { return *power_; }
    I8042 &input() noexcept { return *input_; }
    // Null: the machine has no screen.
    ui::Console *display() noexcept { return display_; }
    AddressMap &map() noexcept { return environment_.map; }
    // Wires of the board for what is plugged in later: an ISA interrupt as a device drives it.
    IrqLine isa_irq(unsigned irq) noexcept;
    // INTA# (1) to INTD# (4) of the function in a slot; up to 64 functions share a line.
    IrqLine pci_irq(unsigned slot, unsigned pin) noexcept;
    MsiSink &msi() noexcept;
    std::span<Device *const> devices() const noexcept { return devices_; }

private:
    struct Board;

    void lay_out_memory();
    void make_devices(const PcConfig &config);
    void describe_to_firmware(const PcConfig &config);
    void fill_cmos(const PcConfig &config);
    void put_boot_order(const std::string &order);
    void put_disks();
    void make_vcpus(const PcConfig &config);
    void plug(Device &device);
    void power_on();

    PcEnvironment environment_;
    const bool has_firmware_;
    u64 low_ram_ = 0;
    std::shared_ptr<RamRegion> ram_, rom_;
    struct Rom {
        u64 address;
        std::vector<u8> bytes;
    };
    std::vector<Rom> roms_;
    BootLoader *loader_ = nullptr;
    std::unique_ptr<Board> board_;
    I440fx *host_bridge_ = nullptr;
    FwCfg *fw_cfg_ = nullptr;
    Piix3Ide *ide_ = nullptr;
    Piix4Pm *power_ = nullptr;
    Rtc *rtc_ = nullptr;
    std::string boot_order_;
    I8042 *input_ = nullptr;
    ui::Console *display_ = nullptr;
    std::vector<Device *> devices_; // in the order of their reset
    std::vector<Mapping> mappings_;
    std::vector<std::unique_ptr<accel::Vcpu>> vcpus_;
    bool running_ = false, placed_ = false;
};

} // namespace rhea::hw
