#include "hw/ide/piix3_ide.h"

#include "dm/core/bits.h"

#include <algorithm>

namespace rhea::hw {

using namespace ata;

namespace {

enum : u8 { IDETIM = 0x40 };
constexpr u8 DECODE_ENABLE = 0x80; // bit 15 of a channel's word
constexpr u64 bus_master_size = 16;

constexpr PciIdentity identity{.vendor = 0x8086,
                               .device = 0x7010,
                               .class_code = 0x01'01'80, // compatible ports, bus master
                               .command_writable = pci::COMMAND_IO | pci::COMMAND_MASTER,
                               .status = 0x0280};

} // namespace

Piix3Ide::Piix3Ide(std::string name, AddressMap &map, IrqLine irq14, IrqLine irq15,
                   const Config &config)
    : StateDevice(std::move(name)), irq_{irq14, irq15},
      config_(*this, "piix3-ide", s.config, identity),
      bus_master_{BusMaster(s.channel[0].bus_master, map), BusMaster(s.channel[1].bus_master, map)},
      drives_{{{{{*this, s.channel[0].drive[0], bus_master_[0], config[0], false},
                 {*this, s.channel[0].drive[1], bus_master_[0], config[1], true}}},
               {{{*this, s.channel[1].drive[0], bus_master_[1], config[2], false},
                 {*this, s.channel[1].drive[1], bus_master_[1], config[3], true}}}}},
      command_blocks_{CommandBlock(*this, 0, "ide 0"), CommandBlock(*this, 1, "ide 1")},
      control_blocks_{ControlBlock(*this, 0, "ide 0 control"),
                      ControlBlock(*this, 1, "ide 1 control")},
      bus_master_ports_(*this, "ide bus master", {.max_size = 1}),
      windows_{Window{"config", Space::pci_config, pci::config_base(1, 1), 0x1000, &config_},
               Window{"ide 0", Space::port, 0x1f0, 8, &command_blocks_[0]},
               Window{"ide 0 control", Space::port, 0x3f6, 1, &control_blocks_[0]},
               Window{"ide 1", Space::port, 0x170, 8, &command_blocks_[1]},
               Window{"ide 1 control", Space::port, 0x376, 1, &control_blocks_[1]}} {
    config_.allow(IDETIM, 0xffff'ffff, 4);
    config_.allow(IDETIM + 4, 0xff, 1); // SIDETIM
    config_.add_bar(map, 4, BarKind::port, bus_master_size, bus_master_ports_);
    for (auto &channel : drives_)
        for (IdeDrive &drive : channel)
            drive.reset(true);
}

void Piix3Ide::on_reset() noexcept {
    const PciConfigState keep = s.config;
    s = State{};
    s.config = keep;
    config_.reset();
    for (auto &channel : drives_)
        for (IdeDrive &drive : channel)
            drive.reset(true);
}

void Piix3Ide::enable_channels() noexcept {
    enter([this] {
        s.config.bytes[IDETIM + 1] |= DECODE_ENABLE;
        s.config.bytes[IDETIM + 3] |= DECODE_ENABLE;
        config_.put_word(pci::COMMAND, config_.word(pci::COMMAND) | pci::COMMAND_IO);
    });
}

void Piix3Ide::settle() noexcept {
    config_.settle();
    for (unsigned n = 0; n < 2; ++n) {
        IdeChannelState &c = s.channel[n];
        const bool level = c.drive[c.selected].irq && !(c.control & nIEN);
        if (level && !c.line)
            bus_master_[n].interrupt();
        c.line = level;
        irq_[n].set(level);
    }
}

bool Piix3Ide::quiet() const noexcept {
    return std::ranges::all_of(
        drives_, [](const auto &c) { return std::ranges::all_of(c, &IdeDrive::quiet); });
}

// ---------------------------------------------------------------------------------- saved state

const char *Piix3Ide::validate(const State &n) const noexcept {
    for (unsigned c = 0; c < 2; ++c)
        for (unsigned d = 0; d < 2; ++d)
            if (const char *wrong = drives_[c][d].validate(n.channel[c].drive[d]))
                return wrong;
    return nullptr;
}

void Piix3Ide::loaded() noexcept {
    for (auto &channel : drives_)
        for (IdeDrive &drive : channel)
            drive.loaded();
}

void Piix3Ide::save_fields(state::FieldWriter &out) const {
    State copy = s;
    for (unsigned c = 0; c < 2; ++c)
        for (unsigned d = 0; d < 2; ++d)
            drives_[c][d].fill_saved(copy.channel[c].drive[d]);
    out.fields(copy);
}

// ------------------------------------------------------------------------------ the channels' side

bool Piix3Ide::decodes(unsigned channel) const noexcept {
    return (config_.word(pci::COMMAND) & pci::COMMAND_IO) &&
           (config_.byte(static_cast<u8>(IDETIM + 2 * channel + 1)) & DECODE_ENABLE);
}

bool Piix3Ide::empty(unsigned channel) const noexcept {
    return !drives_[channel][0].present() && !drives_[channel][1].present();
}

u8 Piix3Ide::status(unsigned channel) noexcept {
    if (s.channel[channel].control & SRST)
        return BSY;
    return s.channel[channel].drive[s.channel[channel].selected].status;
}

u8 Piix3Ide::read_register(unsigned channel, unsigned at) noexcept {
    IdeChannelState &c = s.channel[channel];
    if (!decodes(channel))
        return 0xff;
    if (empty(channel))
        return 0x7f;
    if (!selected(channel).present())
        return 0;
    if (at == 7) {
        c.drive[c.selected].irq = false;
        return status(channel);
    }
    return selected(channel).read_register(at, c.control & HOB);
}

void Piix3Ide::write_register(unsigned channel, unsigned at, u8 value) noexcept {
    IdeChannelState &c = s.channel[channel];
    if (!decodes(channel) || (c.control & SRST))
        return;
    c.control &= static_cast<u8>(~HOB);
    if (at == 7) {
        command(channel, value);
        return;
    }
    if (at == 6)
        c.selected = value & DEV ? 1 : 0;
    for (IdeDrive &drive : drives_[channel])
        if (drive.present())
            drive.write_register(at, value);
}

void Piix3Ide::command(unsigned channel, u8 code) noexcept {
    if (code == EXECUTE_DEVICE_DIAGNOSTIC)
        diagnose(channel);
    else if (selected(channel).present())
        selected(channel).command(code);
}

// Both drives do it, whichever is selected; drive 0 reports, and is selected afterwards.
void Piix3Ide::diagnose(unsigned channel) noexcept {
    IdeChannelState &c = s.channel[channel];
    if (status(channel) & BSY)
        return;
    for (IdeDrive &drive : drives_[channel])
        drive.reset(false);
    c.selected = 0;
    c.drive[0].irq = drives_[channel][0].present();
}

void Piix3Ide::write_control(unsigned channel, u8 value) noexcept {
    IdeChannelState &c = s.channel[channel];
    const bool ends = (c.control & SRST) && !(value & SRST);
    c.control = value & (nIEN | SRST | HOB);
    if (c.control & SRST)
        for (IdeDriveState &drive : c.drive)
            drive.irq = false;
    if (!ends)
        return;
    for (IdeDrive &drive : drives_[channel])
        drive.reset(false);
    c.selected = 0;
}

// ------------------------------------------------------------------------------------------- ports

u64 Piix3Ide::CommandBlock::read(u64 at, unsigned size) noexcept {
    u8 bytes[4] = {0xff, 0xff, 0xff, 0xff};
    if (at == 0) {
        read_run(0, size, bytes, 1, static_cast<i32>(size));
    } else {
        for (unsigned i = 0; i < size && at + i < 8; ++i)
            bytes[i] = device_.read_register(channel_, static_cast<unsigned>(at + i));
    }
    return load_le(bytes, size);
}

void Piix3Ide::CommandBlock::write(u64 at, unsigned size, u64 value) noexcept {
    u8 bytes[4];
    store_le(bytes, size, value);
    if (at == 0) {
        write_run(0, size, bytes, 1, static_cast<i32>(size));
        return;
    }
    for (unsigned i = 0; i < size && at + i < 8; ++i)
        device_.write_register(channel_, static_cast<unsigned>(at + i), bytes[i]);
}

void Piix3Ide::CommandBlock::read_run(u64 at, unsigned size, u8 *data, u32 count,
                                      i32 step) noexcept {
    if (at != 0) {
        Target::read_run(at, size, data, count, step);
        return;
    }
    const bool there = device_.decodes(channel_) && device_.selected(channel_).present();
    if (there && step == static_cast<i32>(size)) {
        device_.selected(channel_).data_in({data, usize{count} * size});
        return;
    }
    for (u32 i = 0; i < count; ++i, data += step)
        if (there)
            device_.selected(channel_).data_in({data, size});
        else
            std::fill_n(data, size, u8{0xff});
}

void Piix3Ide::CommandBlock::write_run(u64 at, unsigned size, const u8 *data, u32 count,
                                       i32 step) noexcept {
    if (at != 0) {
        Target::write_run(at, size, data, count, step);
        return;
    }
    if (!device_.decodes(channel_) || !device_.selected(channel_).present())
        return;
    if (step == static_cast<i32>(size)) {
        device_.selected(channel_).data_out({data, usize{count} * size});
        return;
    }
    for (u32 i = 0; i < count; ++i, data += step)
        device_.selected(channel_).data_out({data, size});
}

u64 Piix3Ide::ControlBlock::read(u64, unsigned) noexcept {
    if (!device_.decodes(channel_))
        return 0xff;
    if (device_.empty(channel_))
        return 0x7f;
    return device_.selected(channel_).present() ? device_.status(channel_) : 0;
}

void Piix3Ide::ControlBlock::write(u64, unsigned, u64 value) noexcept {
    if (device_.decodes(channel_))
        device_.write_control(channel_, static_cast<u8>(value));
}

u64 Piix3Ide::read_bus_master(u64 at, unsigned) noexcept {
    return bus_master_[at >> 3 & 1].read(at & 7);
}

void Piix3Ide::write_bus_master(u64 at, unsigned, u64 value) noexcept {
    const unsigned channel = at >> 3 & 1;
    bus_master_[channel].write(at & 7, static_cast<u8>(value));
    if ((at & 7) == 0 && bus_master_[channel].active())
        for (IdeDrive &drive : drives_[channel])
            drive.run_dma();
}

} // namespace rhea::hw
