// The IDE function of the Intel 82371SB (PIIX3), PCI function 0:1.1: two channels at their
// compatible ports (1F0h, 3F6h and ISA interrupt 14; 170h, 376h and 15), two drives each, with bus
// mastering by BAR 4.
//
// Facts: Intel 82371SB data sheet (290550), 2.3 (configuration) and 2.6 (bus master); ATA/ATAPI-6
// for the channels. Owned by the board. Registers are served on vCPU threads, the drives' requests
// end on their disks' loop; all of it under the function's one lock.
//
// A channel answers when the I/O space bit of the command register and its decode enable bit are
// set. A drive that is not there reads as zeros beside one that is; on an empty channel nothing
// drives the bus but the pull-down of DD7.
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "hw/ide/drive.h"
#include "hw/pci/config.h"

#include <array>

namespace rhea::hw {

struct IdeChannelState {
    std::array<IdeDriveState, 2> drive{};
    BusMasterState bus_master{};
    u8 selected = 0, control = 0;
    bool line = false; // the interrupt line's level
    static constexpr auto fields() {
        using S = IdeChannelState;
        return describe<S>(Field<&S::drive>{}, Field<&S::bus_master>{},
                           Field<&S::selected>{.max = 1}, Field<&S::control>{}, Field<&S::line>{});
    }
};

struct Piix3IdeState {
    PciConfigState config{};
    std::array<IdeChannelState, 2> channel{};
    static constexpr auto fields() {
        using S = Piix3IdeState;
        return describe<S>(Field<&S::config>{}, Field<&S::channel>{});
    }
};

class Piix3Ide : public StateDevice<Piix3IdeState> {
public:
    // Drive 2 * channel + unit.
    using Config = std::array<IdeDriveConfig, 4>;

    Piix3Ide(std::string name, AddressMap &map, IrqLine irq14, IrqLine irq15, const Config &config);

    std::string_view type() const noexcept override { return "piix3-ide"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    // What firmware does, where there is none: both channels decode.
    void enable_channels() noexcept;
    // No drive waits for its disk. Any thread; it stays so while no vCPU runs.
    bool quiet() const noexcept;
    const IdeDrive &drive(unsigned n) const noexcept { return drives_[n / 2][n % 2]; }

private:
    // The command block: a run at the data register moves whole blocks.
    class CommandBlock final : public Target {
    public:
        CommandBlock(Piix3Ide &device, unsigned channel, const char *name) noexcept
            : Target(device, name, {.max_size = 4, .unaligned = true}), device_(device),
              channel_(channel) {}
        u64 read(u64 at, unsigned size) noexcept override;
        void write(u64 at, unsigned size, u64 value) noexcept override;
        void read_run(u64 at, unsigned size, u8 *data, u32 count, i32 step) noexcept override;
        void write_run(u64 at, unsigned size, const u8 *data, u32 count,
                       i32 step) noexcept override;

    private:
        Piix3Ide &device_;
        const unsigned channel_;
    };
    class ControlBlock final : public Target {
    public:
        ControlBlock(Piix3Ide &device, unsigned channel, const char *name) noexcept
            : Target(device, name, {.max_size = 1}), device_(device), channel_(channel) {}
        u64 read(u64 at, unsigned size) noexcept override;
        void write(u64 at, unsigned size, u64 value) noexcept override;

    private:
        Piix3Ide &device_;
        const unsigned channel_;
    };

    void on_reset() noexcept override;
    const char *validate(const State &) const noexcept override;
    void loaded() noexcept override;
    void save_fields(state::FieldWriter &out) const override;

    bool decodes(unsigned channel) const noexcept;
    bool empty(unsigned channel) const noexcept;
    IdeDrive &selected(unsigned channel) noexcept {
        return drives_[channel][s.channel[channel].selected];
    }
    u8 read_register(unsigned channel, unsigned at) noexcept;
    void write_register(unsigned channel, unsigned at, u8 value) noexcept;
    u8 status(unsigned channel) noexcept;
    void command(unsigned channel, u8 code) noexcept;
    void diagnose(unsigned channel) noexcept;
    void write_control(unsigned channel, u8 value) noexcept;
    u64 read_bus_master(u64 at, unsigned size) noexcept;
    void write_bus_master(u64 at, unsigned size, u64 value) noexcept;

    std::array<IrqLine, 2> irq_;
    PciConfig config_;
    std::array<BusMaster, 2> bus_master_;
    std::array<std::array<IdeDrive, 2>, 2> drives_;
    std::array<CommandBlock, 2> command_blocks_;
    std::array<ControlBlock, 2> control_blocks_;
    MethodTarget<&Piix3Ide::read_bus_master, &Piix3Ide::write_bus_master> bus_master_ports_;
    std::array<Window, 5> windows_;
};

} // namespace rhea::hw
