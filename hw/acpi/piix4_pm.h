// The power management function of the Intel 82371AB (PIIX4), PCI function 0:1.3: the ACPI fixed
// registers, general-purpose events, the APM ports, and the SMBus host.
//
// Facts: Intel 82371AB data sheet (290562), chapter 7; ACPI specification, 4.8. Owned by the board.
//
// There is no SMM. What firmware's SMM handler would do on the two values of the SMI command port
// that FADT names (enable_value, disable_value), the function does itself: it hands the power
// management over to the operating system and back (SCI_EN). Firmware sees in DEVACTB that the
// handler is already there.
// The SMBus has a host and no slaves: every transfer ends in "nobody answered".
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "dm/time/frequency.h"
#include "dm/time/timer.h"
#include "hw/machine/events.h"
#include "hw/pci/config.h"

#include <array>

namespace rhea::hw {

struct Piix4PmState {
    PciConfigState config{};
    u16 pm_status = 0, pm_enable = 0, pm_control = 0;
    u16 gpe_status = 0, gpe_enable = 0;
    std::array<u8, 0x28> rest{}; // 10h to 37h of the I/O block: kept, no effect
    bool apm_pending = false;
    u8 apm_command = 0, apm_status = 0;
    u8 smb_status = 0, smb_control = 0, smb_command = 0, smb_address = 0;
    u8 smb_data0 = 0, smb_data1 = 0, smb_index = 0;
    std::array<u8, 32> smb_block{};
    std::array<u8, 7> smb_slave{}; // 08h to 0eh: the slave interface
    i64 timer_seen = 0;            // PM timer ticks up to which TMROF_STS is complete

    static constexpr auto fields() {
        using S = Piix4PmState;
        return describe<S>(
            Field<&S::config>{}, Field<&S::pm_status>{}, Field<&S::pm_enable>{},
            Field<&S::pm_control>{}, Field<&S::gpe_status>{}, Field<&S::gpe_enable>{},
            Field<&S::rest>{}, Field<&S::apm_pending>{}, Field<&S::apm_command>{},
            Field<&S::apm_status>{}, Field<&S::smb_status>{}, Field<&S::smb_control>{},
            Field<&S::smb_command>{}, Field<&S::smb_address>{}, Field<&S::smb_data0>{},
            Field<&S::smb_data1>{}, Field<&S::smb_index>{.max = 31}, Field<&S::smb_block>{},
            Field<&S::smb_slave>{}, Field<&S::timer_seen>{.max = u64{1} << 60});
    }
};

class Piix4Pm : public StateDevice<Piix4PmState> {
public:
    // For whoever writes FADT. Offsets are from PMBA, which firmware sets.
    static constexpr u16 smi_command_port = 0xb2;
    static constexpr u8 enable_value = 0xf1, disable_value = 0xf0;
    static constexpr u16 pm1_event = 0x00, pm1_control = 0x04, pm_timer = 0x08, gpe0 = 0x0c;
    static constexpr u8 gpe0_length = 4;    // status and enable, 2 bytes each
    static constexpr u8 sleep_type_off = 0; // SLP_TYP of \_S5
    static constexpr u8 sci = 9;            // ISA interrupt
    static constexpr Frequency timer_frequency{3'579'545};

    Piix4Pm(std::string name, AddressMap &map, Clock &clock, IrqLine sci_line,
            MachineEvents &events);

    std::string_view type() const noexcept override { return "piix4-pm"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    // Any thread but with no device's lock held: somebody presses the button.
    void press_power_button() noexcept;
    // A general-purpose event 0 to 15: sets its status bit (level: until the guest clears it).
    void raise_gpe(unsigned n) noexcept;
    // The boot without firmware has nobody to set PMBA: this is what firmware would have done.
    void place(u16 pm_base) noexcept;

private:
    void on_reset() noexcept override;
    i64 ticks() const noexcept { return static_cast<i64>(timer_frequency.ticks(clock_.now())); }
    void expired() noexcept {} // settle() does it all
    void write_control(u16 value) noexcept;
    u8 read_pm_byte(u64 at) noexcept;
    u64 read_pm(u64 at, unsigned size) noexcept;
    void write_pm(u64 at, unsigned size, u64 value) noexcept;
    u64 read_apm(u64 at, unsigned size) noexcept;
    void write_apm(u64 at, unsigned size, u64 value) noexcept;
    u64 read_smbus(u64 at, unsigned size) noexcept;
    void write_smbus(u64 at, unsigned size, u64 value) noexcept;

    Clock &clock_;
    IrqLine sci_;
    MachineEvents &events_;
    Timer timer_;
    PciConfig config_;
    MethodTarget<&Piix4Pm::read_pm, &Piix4Pm::write_pm> pm_;
    MethodTarget<&Piix4Pm::read_apm, &Piix4Pm::write_apm> apm_;
    MethodTarget<&Piix4Pm::read_smbus, &Piix4Pm::write_smbus> smbus_;
    Mapping pm_mapping_, smbus_mapping_;
    u32 pm_at_ = 0, smbus_at_ = 0; // where they are shown; 0: nowhere
    std::array<Window, 2> windows_;
};

} // namespace rhea::hw
