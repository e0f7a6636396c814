// The pair of 8259A interrupt controllers of a PC, cascaded on IR2 of the first, with the
// edge/level control registers of the PIIX3.
//
// Facts: Intel 8259A data sheet (231468); Intel 82371SB (PIIX3), 2.5.4 (ELCR, 4D0h and 4D1h).
// Owned by the board. Inputs come in by set_line() on any thread, a vCPU takes a vector by
// acknowledge() on its own thread; both take the pair's lock, which is below every device's.
//
// Chosen where chips differ: in edge mode a request stays latched when its input falls again before
// it is acknowledged (a real chip answers with IR7, and an interrupt would be lost when the host is
// late); ICW1's level bit is ignored, since the PIIX3 has the ELCR in its place.
#pragma once
#include "accel/irqchip_state.h"
#include "dm/device/device.h"
#include "dm/irq/line.h"

#include <array>

namespace rhea::hw {

class I8259Pair : public StateDevice<accel::I8259PairState>, public IrqSink {
public:
    // `output`: INTR, high while there is something to acknowledge.
    I8259Pair(std::string name, IrqLine output) noexcept;

    std::string_view type() const noexcept override { return "i8259"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    // IR0 to IR15 as a PC counts them; IR2 is the cascade and is ignored.
    void set_line(u32 number, bool level) noexcept override;
    // The INTA cycles: the vector to deliver. With nothing pending any more, IR7's ("spurious").
    u8 acknowledge() noexcept;

    void settle() noexcept override;

private:
    using Chip = accel::I8259State;
    static constexpr unsigned cascade = 2;

    State reset_state() const noexcept override;
    unsigned requested(unsigned chip) const noexcept;
    void set_input(unsigned chip, unsigned level, bool high) noexcept;
    unsigned serve(unsigned chip) noexcept;
    void end_of_interrupt(unsigned chip, u8 command) noexcept;
    void initialise(unsigned chip, u8 icw1) noexcept;
    u64 read_chip(unsigned chip, u64 at) noexcept;
    void write_chip(unsigned chip, u64 at, u8 value) noexcept;

    u64 read_master(u64 at, unsigned) noexcept { return read_chip(0, at); }
    void write_master(u64 at, unsigned, u64 v) noexcept { write_chip(0, at, static_cast<u8>(v)); }
    u64 read_slave(u64 at, unsigned) noexcept { return read_chip(1, at); }
    void write_slave(u64 at, unsigned, u64 v) noexcept { write_chip(1, at, static_cast<u8>(v)); }
    u64 read_elcr(u64 at, unsigned) noexcept { return s.chip[at & 1].elcr; }
    void write_elcr(u64 at, unsigned, u64 value) noexcept;

    IrqLine output_;
    MethodTarget<&I8259Pair::read_master, &I8259Pair::write_master> master_;
    MethodTarget<&I8259Pair::read_slave, &I8259Pair::write_slave> slave_;
    MethodTarget<&I8259Pair::read_elcr, &I8259Pair::write_elcr> elcr_;
    std::array<Window, 3> windows_;
};

} // namespace rhea::hw
