#include "hw/acpi/piix4_pm.h"

#include "dm/core/bits.h"

#include <algorithm>

namespace rhea::hw {

namespace {

// Configuration (7.1) and I/O registers (7.2).
enum : u8 { PMBA = 0x40, DEVACTB = 0x58, PMREGMISC = 0x80, SMBBA = 0x90, SMBHSTCFG = 0xd2 };
constexpr u8 DEVACTB_APMC_IN_BYTE_3 = 0x02; // bit 25
constexpr u16 PM_TMROF = 0x0001, PM_GBL = 0x0020, PM_PWRBTN = 0x0100, PM_RTC = 0x0400,
              PM_WAK = 0x8000;
constexpr u16 status_clearable = PM_TMROF | 0x0010 | PM_GBL | PM_PWRBTN | PM_RTC | 0x0800 | PM_WAK;
constexpr u16 enable_writable = PM_TMROF | PM_GBL | PM_PWRBTN | PM_RTC;
constexpr u16 CNT_SCI_EN = 0x0001, CNT_SUS_EN = 0x2000;
constexpr u16 control_writable = 0x1c03;
enum : u64 { PMSTS = 0x00, PMEN = 0x02, PMCNTRL = 0x04, PMTMR = 0x08, GPSTS = 0x0c, GPEN = 0x0e };
constexpr u64 pm_size = 0x40, smbus_size = 0x10, rest_base = 0x10;
constexpr i64 timer_half = 0x80'0000; // TMROF_STS: bit 23 changes

// SMBus host (7.3).
enum : u64 {
    SMBHSTSTS,
    SMBSLVSTS,
    SMBHSTCNT,
    SMBHSTCMD,
    SMBHSTADD,
    SMBHSTDAT0,
    SMBHSTDAT1,
    SMBBLKDAT
};
constexpr u8 HSTSTS_DEV_ERR = 0x04, HSTSTS_CLEARABLE = 0x1e, HSTCNT_START = 0x40;

constexpr PciIdentity identity{.vendor = 0x8086,
                               .device = 0x7113,
                               .class_code = 0x06'80'00,
                               .revision = 3,
                               .interrupt_pin = 1,
                               .command_writable = pci::COMMAND_IO,
                               .status = 0x0280};

} // namespace

Piix4Pm::Piix4Pm(std::string name, AddressMap &map, Clock &clock, IrqLine sci_line,
                 MachineEvents &events)
    : StateDevice(std::move(name)), clock_(clock), sci_(sci_line), events_(events),
      timer_(clock, *this, Callback::to<&Piix4Pm::expired>(this)),
      config_(*this, "piix4-pm", s.config, identity), pm_(*this, "acpi registers", {.max_size = 4}),
      apm_(*this, "apm ports", {.max_size = 1}), smbus_(*this, "smbus host", {.max_size = 1}),
      pm_mapping_(map.map(Space::port, 0, pm_size, pm_, 1, false)),
      smbus_mapping_(map.map(Space::port, 0, smbus_size, smbus_, 1, false)),
      windows_{Window{"config", Space::pci_config, pci::config_base(1, 3), 0x1000, &config_},
               Window{"apm", Space::port, smi_command_port, 2, &apm_}} {
    config_.set_byte(PMBA, 1);
    config_.allow(PMBA, 0xffc0, 4);
    config_.allow(0x44, 0xffff'ffff'ffff'ffff, 8); // counters and general-purpose inputs
    config_.allow(0x4c, 0xffff'ffff, 4);
    config_.allow(0x50, 0xffff'ffff'ffff'ffff, 8); // DEVRESD, DEVACTA
    config_.set_byte(DEVACTB + 3, DEVACTB_APMC_IN_BYTE_3);
    config_.allow(DEVACTB, 0xffff'ffff, 4);
    for (u8 at = 0x5c; at < 0x80; at = static_cast<u8>(at + 4)) // device resources
        config_.allow(at, 0xffff'ffff, 4);
    config_.allow(PMREGMISC, 0x01, 1);
    config_.set_byte(SMBBA, 1);
    config_.allow(SMBBA, 0xfff0, 4);
    config_.allow(SMBHSTCFG, 0x0f, 1);
    config_.allow(0xd3, 0xffff'ff, 3); // slave command and shadows
}

void Piix4Pm::on_reset() noexcept {
    const PciConfigState keep = s.config;
    s = State{};
    s.config = keep;
    config_.reset();
    s.timer_seen = ticks();
}

void Piix4Pm::place(u16 pm_base) noexcept {
    enter([&] {
        config_.put_word(PMBA, static_cast<u16>(pm_base | 1));
        s.config.bytes[PMREGMISC] |= 1;
    });
}

void Piix4Pm::settle() noexcept {
    config_.settle();
    // The blocks are decoded by their own enable bits, not by the command register alone (7.1.1).
    const bool pm_on = config_.byte(PMREGMISC) & 1;
    const u32 pm_base = pm_on ? config_.dword(PMBA) & 0xffc0 : 0;
    if (pm_base != pm_at_)
        pm_mapping_.move_and_show(pm_at_ = pm_base, pm_base != 0);
    const bool smbus_on = config_.byte(SMBHSTCFG) & 1;
    const u32 smbus_base = smbus_on ? config_.dword(SMBBA) & 0xfff0 : 0;
    if (smbus_base != smbus_at_)
        smbus_mapping_.move_and_show(smbus_at_ = smbus_base, smbus_base != 0);

    const i64 now = ticks();
    if (now / timer_half > s.timer_seen / timer_half)
        s.pm_status |= PM_TMROF;
    s.timer_seen = std::max(now, s.timer_seen);
    const bool fixed = s.pm_status & s.pm_enable & enable_writable;
    const bool general = s.gpe_status & s.gpe_enable;
    const bool asks = (s.pm_control & CNT_SCI_EN) && (fixed || general);
    sci_.set(asks);
    const bool wants_overflow = (s.pm_enable & PM_TMROF) && !(s.pm_status & PM_TMROF);
    timer_.arm(wants_overflow
                   ? timer_frequency.ns(static_cast<u64>((now / timer_half + 1) * timer_half))
                   : never);
}

void Piix4Pm::press_power_button() noexcept {
    enter([&] { s.pm_status |= PM_PWRBTN; });
}

void Piix4Pm::raise_gpe(unsigned n) noexcept {
    enter([&] { s.gpe_status |= static_cast<u16>(1u << (n & 15)); });
}

void Piix4Pm::write_control(u16 value) noexcept {
    s.pm_control = static_cast<u16>(value & control_writable);
    if (!(value & CNT_SUS_EN))
        return;
    // Soft off is the one sleep that this machine has; DSDT names no other.
    if (bits(value, 12, 10) == sleep_type_off)
        events_.power_off_requested();
}

u8 Piix4Pm::read_pm_byte(u64 at) noexcept {
    const auto half = [at](u16 v) { return static_cast<u8>(v >> 8 * (at & 1)); };
    switch (at & ~u64{1}) {
    case PMSTS: return half(s.pm_status);
    case PMEN: return half(s.pm_enable);
    case PMCNTRL: return half(s.pm_control);
    case GPSTS: return half(s.gpe_status);
    case GPEN: return half(s.gpe_enable);
    default: break;
    }
    if (at >= rest_base && at - rest_base < s.rest.size())
        return s.rest[at - rest_base];
    return 0;
}

u64 Piix4Pm::read_pm(u64 at, unsigned size) noexcept {
    if ((at & ~u64{3}) == PMTMR) // one counter value for all the bytes of an access
        return (static_cast<u64>(ticks()) & 0xff'ffff) >> 8 * (at & 3);
    u64 value = 0;
    for (unsigned i = 0; i < size; ++i)
        value |= u64{read_pm_byte(at + i)} << 8 * i;
    return value;
}

void Piix4Pm::write_pm(u64 at, unsigned size, u64 value) noexcept {
    // As 16-bit registers with byte enables.
    for (unsigned done = 0; done < size;) {
        const u64 here = at + done, reg = here & ~u64{1};
        const unsigned shift = 8 * static_cast<unsigned>(here & 1);
        const unsigned n = shift ? 1 : std::min(2u, size - done);
        const u16 mask = static_cast<u16>(size_mask(n) << shift);
        const u16 in = static_cast<u16>((value >> 8 * done << shift) & mask);
        const auto merge = [&](u16 old) { return static_cast<u16>((old & ~mask) | in); };
        switch (reg) {
        case PMSTS: s.pm_status &= static_cast<u16>(~(in & status_clearable)); break;
        case PMEN: s.pm_enable = merge(s.pm_enable) & enable_writable; break;
        case PMCNTRL: write_control(merge(s.pm_control)); break;
        case GPSTS: s.gpe_status &= static_cast<u16>(~in); break;
        case GPEN: s.gpe_enable = merge(s.gpe_enable); break;
        default:
            for (unsigned i = 0; i < n; ++i)
                if (const u64 index = here + i - rest_base;
                    here + i >= rest_base && index < s.rest.size())
                    s.rest[index] = static_cast<u8>(value >> 8 * (done + i));
            break;
        }
        done += n;
    }
}

u64 Piix4Pm::read_apm(u64 at, unsigned) noexcept {
    return at ? s.apm_status : s.apm_command;
}

void Piix4Pm::write_apm(u64 at, unsigned, u64 value) noexcept {
    if (at) {
        s.apm_status = static_cast<u8>(value);
        return;
    }
    s.apm_command = static_cast<u8>(value);
    if (s.apm_command == enable_value)
        s.pm_control |= CNT_SCI_EN;
    else if (s.apm_command == disable_value)
        s.pm_control &= static_cast<u16>(~CNT_SCI_EN);
}

u64 Piix4Pm::read_smbus(u64 at, unsigned) noexcept {
    switch (at) {
    case SMBHSTSTS: return s.smb_status;
    case SMBSLVSTS: return 0;
    case SMBHSTCNT: // reading it starts a block over
        s.smb_index = 0;
        return s.smb_control;
    case SMBHSTCMD: return s.smb_command;
    case SMBHSTADD: return s.smb_address;
    case SMBHSTDAT0: return s.smb_data0;
    case SMBHSTDAT1: return s.smb_data1;
    case SMBBLKDAT: {
        const u8 value = s.smb_block[s.smb_index];
        s.smb_index = (s.smb_index + 1) & 31;
        return value;
    }
    default: return at < 0x0f ? s.smb_slave[at - 8] : 0;
    }
}

void Piix4Pm::write_smbus(u64 at, unsigned, u64 value) noexcept {
    const u8 byte = static_cast<u8>(value);
    switch (at) {
    case SMBHSTSTS: s.smb_status &= static_cast<u8>(~(byte & HSTSTS_CLEARABLE)); break;
    case SMBSLVSTS: break;
    case SMBHSTCNT:
        s.smb_control = byte & 0x1f;
        if (byte & HSTCNT_START)
            s.smb_status |= HSTSTS_DEV_ERR;
        break;
    case SMBHSTCMD: s.smb_command = byte; break;
    case SMBHSTADD: s.smb_address = byte; break;
    case SMBHSTDAT0: s.smb_data0 = byte; break;
    case SMBHSTDAT1: s.smb_data1 = byte; break;
    case SMBBLKDAT:
        s.smb_block[s.smb_index] = byte;
        s.smb_index = (s.smb_index + 1) & 31;
        break;
    default:
        if (at < 0x0f)
            s.smb_slave[at - 8] = byte;
        break;
    }
}

} // namespace rhea::hw
