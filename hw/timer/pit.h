// 8254 programmable interval timer, with port 61h of the PIIX3 that gates its channel 2.
//
// Facts: Intel 8254 data sheet (231164); Intel 82371SB (PIIX3), 2.5.3 (timer), 2.5.5 (port 61h).
// Owned by the board; the vCPUs' threads access it, the clock's thread fires it.
//
// Channel outputs are computed from the guest's time whenever somebody looks; the timer is armed
// for channel 0 alone, whose OUT is IRQ 0. When the host was late and several of its edges have
// passed, they are one edge, as they would be for an interrupt controller that was not served.
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "dm/time/frequency.h"
#include "dm/time/timer.h"

#include <array>

namespace rhea::hw {

struct PitChannelState {
    u8 control = 0x30; // the last control word's RW, mode and BCD bits
    bool counting = false, gate = true;
    u16 count = 0;      // the initial count in force, as written
    u16 next_count = 0; // waits for the end of a cycle (modes 2, 3) or a trigger (1, 5)
    bool has_next = false;
    i64 start = 0;     // tick at which the counting element was loaded
    i64 switch_at = 0; // tick at which next_count is loaded, modes 2 and 3
    i64 held = 0;      // ticks counted when the gate stopped it, modes 0 and 4
    u8 low_byte = 0;
    bool high_next_write = false, high_next_read = false;
    u8 latched_bytes = 0; // of `latch`, still to be read
    u16 latch = 0;
    bool status_latched = false;
    u8 status = 0;

    static constexpr auto fields() {
        using S = PitChannelState;
        return describe<S>(Field<&S::control>{.max = 0x3f}, Field<&S::counting>{},
                           Field<&S::gate>{}, Field<&S::count>{}, Field<&S::next_count>{},
                           Field<&S::has_next>{}, Field<&S::start>{.max = u64{1} << 60},
                           Field<&S::switch_at>{.max = u64{1} << 60},
                           Field<&S::held>{.max = u64{1} << 60}, Field<&S::low_byte>{},
                           Field<&S::high_next_write>{}, Field<&S::high_next_read>{},
                           Field<&S::latched_bytes>{.max = 2}, Field<&S::latch>{},
                           Field<&S::status_latched>{}, Field<&S::status>{});
    }
};

struct PitState {
    std::array<PitChannelState, 3> channel{};
    u8 port_b = 0; // port 61h, the bits that are written
    i64 seen = 0;  // tick up to which channel 0's edges have been told

    static constexpr auto fields() {
        using S = PitState;
        return describe<S>(Field<&S::channel>{}, Field<&S::port_b>{.max = 0xf},
                           Field<&S::seen>{.max = u64{1} << 60});
    }
};

class Pit : public StateDevice<PitState> {
public:
    static constexpr Frequency frequency{1'193'182};

    Pit(std::string name, Clock &clock, IrqLine irq0) noexcept;

    std::string_view type() const noexcept override { return "i8254"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

private:
    using Channel = PitChannelState;

    State reset_state() const noexcept override;
    i64 tick() const noexcept { return static_cast<i64>(frequency.ticks(clock_.now())); }
    void catch_up(Channel &c, i64 now) noexcept;
    bool out(const Channel &c, i64 now) const noexcept;
    u16 value(const Channel &c, i64 now) const noexcept;
    i64 rises_until(const Channel &c, i64 now) const noexcept;
    i64 next_rise(const Channel &c, i64 now) const noexcept;
    void load_count(Channel &c, u16 count, i64 now) noexcept;
    void set_gate(Channel &c, bool gate, i64 now) noexcept;
    void write_control(u8 word) noexcept;
    void latch_count(Channel &c, i64 now) noexcept;
    u64 read(u64 at, unsigned size) noexcept;
    void write(u64 at, unsigned size, u64 value) noexcept;
    u64 read_port_b(u64 at, unsigned size) noexcept;
    void write_port_b(u64 at, unsigned size, u64 value) noexcept;
    void expired() noexcept {} // settle() does it all

    Clock &clock_;
    IrqLine irq_;
    Timer timer_;
    MethodTarget<&Pit::read, &Pit::write> counters_;
    MethodTarget<&Pit::read_port_b, &Pit::write_port_b> port_b_;
    std::array<Window, 2> windows_;
};

} // namespace rhea::hw
