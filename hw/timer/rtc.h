// MC146818 real-time clock with 128 bytes of battery-backed RAM, as a PC has it at ports 70h/71h.
//
// Facts: Motorola MC146818 data sheet; Intel 82371SB (PIIX3), 2.5.6 (ports 70h, 71h). The century
// is byte 32h, as ACPI's FADT says.
//
// Owned by the board. Time is the guest's clock plus an offset that the guest may set; nothing runs
// but for an interrupt that is enabled. A reset keeps time and RAM.
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "dm/time/timer.h"

#include <array>

namespace rhea::hw {

struct RtcState {
    u8 index = 0;
    std::array<u8, 128> ram{}; // time and status registers included, as of `stopped`
    i64 offset = 0;            // calendar time in ns since 1970 = guest time + offset
    i64 seen = 0;              // guest time up to which the flags in register C are complete

    static constexpr auto fields() {
        using S = RtcState;
        return describe<S>(Field<&S::index>{}, Field<&S::ram>{},
                           Field<&S::offset>{.max = 7'300'000'000'000'000'000}, // year 2200
                           Field<&S::seen>{.max = u64{1} << 60});
    }
};

class Rtc : public PlainDevice<RtcState> {
public:
    // `calendar_ns`: nanoseconds since 1970 at guest time 0, in the zone that the guest expects.
    Rtc(std::string name, Clock &clock, IrqLine irq8, i64 calendar_ns) noexcept;

    std::string_view type() const noexcept override { return "mc146818"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    // The board's notes to the firmware, bytes 0Eh to 7Fh; before the guest runs.
    void set_byte(u8 index, u8 value) noexcept;

    u64 read(u64 at, unsigned size) noexcept override;
    void write(u64 at, unsigned size, u64 value) noexcept override;
    void settle() noexcept override;

private:
    State reset_state() const noexcept override;
    bool stopped() const noexcept;
    i64 calendar() const noexcept; // ns since 1970, now
    u8 encode(i64 n) const noexcept;
    i64 decode(u8 byte) const noexcept;
    void show(i64 calendar_ns) noexcept;
    i64 shown() const noexcept;
    bool alarm_at(i64 second) const noexcept;
    void update_flags() noexcept;
    Time period() const noexcept;
    Time next_event() const noexcept;
    u8 read_register(u8 index) noexcept;
    void write_register(u8 index, u8 value) noexcept;
    void write_control(u8 index, u8 value) noexcept;
    void expired() noexcept {} // settle() does it all

    Clock &clock_;
    IrqLine irq_;
    Timer timer_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
