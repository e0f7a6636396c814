// 8042 keyboard controller with a PS/2 keyboard and mouse, as a PC has it at ports 60h and 64h.
//
// Facts: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard and auxiliary
// device controller"; Intel 82371SB (PIIX3) for what port 92h has in common with it. Owned by the
// board; input comes by key() and move() on any thread.
//
// Bytes come as fast as the guest reads them; each one is an edge of its interrupt. The A20 bit of
// the output port is kept and read back, see Piix3.
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "hw/input/ps2.h"
#include "hw/machine/events.h"

#include <array>

namespace rhea::hw {

struct I8042State {
    Ps2KeyboardState keyboard{};
    Ps2MouseState mouse{};
    Ps2Queue responses{};   // the controller's own answers
    u8 command_byte = 0x41; // translation on, keyboard interrupt on
    u8 pending_command = 0; // whose data byte is expected at port 60h
    u8 output_port = 0x03;  // not in reset, A20 on
    u8 data = 0;
    bool full = false, from_mouse = false; // the output buffer
    bool last_was_command = false, break_prefix = false, self_tested = false;
    std::array<u8, 31> ram{}; // 21h to 3Fh
    static constexpr auto fields() {
        using S = I8042State;
        return describe<S>(Field<&S::keyboard>{}, Field<&S::mouse>{}, Field<&S::responses>{},
                           Field<&S::command_byte>{}, Field<&S::pending_command>{},
                           Field<&S::output_port>{}, Field<&S::data>{}, Field<&S::full>{},
                           Field<&S::from_mouse>{}, Field<&S::last_was_command>{},
                           Field<&S::break_prefix>{}, Field<&S::self_tested>{}, Field<&S::ram>{});
    }
};

class I8042 : public StateDevice<I8042State> {
public:
    I8042(std::string name, IrqLine irq1, IrqLine irq12, MachineEvents &events) noexcept;

    std::string_view type() const noexcept override { return "i8042"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    // Input, any thread, no device's lock held. A key is its bytes in scan code set 2.
    bool key(std::span<const u8> codes) noexcept;
    void move(i32 dx, i32 dy, i32 dz, u8 buttons) noexcept;

private:
    void put(u8 byte, bool mouse) noexcept;
    void refill() noexcept;
    u8 translate(u8 byte, bool &hold) noexcept;
    void command(u8 byte) noexcept;
    void argument(u8 of, u8 byte) noexcept;
    void write_output_port(u8 value) noexcept;
    u64 read_data(u64 at, unsigned size) noexcept;
    void write_data(u64 at, unsigned size, u64 value) noexcept;
    u64 read_status(u64 at, unsigned size) noexcept;
    void write_command(u64 at, unsigned size, u64 value) noexcept;

    IrqLine irq1_, irq12_;
    MachineEvents &events_;
    Ps2Keyboard keyboard_;
    Ps2Mouse mouse_;
    MethodTarget<&I8042::read_data, &I8042::write_data> data_;
    MethodTarget<&I8042::read_status, &I8042::write_command> command_;
    std::array<Window, 2> windows_;
};

} // namespace rhea::hw
