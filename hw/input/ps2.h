// What a PS/2 device is to its controller: bytes go in, bytes come out of a bounded queue. And the
// two devices: the keyboard and the mouse.
//
// Facts: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard (101- and
// 102-key)" and "Auxiliary device"; Microsoft's IntelliMouse extension (the wheel). Plain state
// machines, used under the controller's lock.
#pragma once
#include "dm/core/describe.h"
#include "dm/core/types.h"

#include <array>
#include <span>

namespace rhea::hw {

struct Ps2Queue {
    std::array<u8, 32> data{};
    u8 head = 0, count = 0;
    static constexpr auto fields() {
        using S = Ps2Queue;
        return describe<S>(Field<&S::data>{}, Field<&S::head>{.max = 31},
                           Field<&S::count>{.max = 32});
    }
    bool empty() const noexcept { return !count; }
    usize room() const noexcept { return data.size() - count; }
    void push(u8 byte) noexcept {
        if (count < data.size())
            data[(head + count++) & 31u] = byte;
    }
    u8 pop() noexcept {
        const u8 byte = data[head];
        head = (head + 1) & 31;
        --count;
        return byte;
    }
    void clear() noexcept { head = count = 0; }
};

struct Ps2KeyboardState {
    Ps2Queue queue{};
    u8 argument_of = 0; // the command whose argument byte is expected
    bool scanning = true;
    u8 scan_set = 2, leds = 0, rate = 0x2b, last_sent = 0;
    static constexpr auto fields() {
        using S = Ps2KeyboardState;
        return describe<S>(Field<&S::queue>{}, Field<&S::argument_of>{}, Field<&S::scanning>{},
                           Field<&S::scan_set>{.max = 3}, Field<&S::leds>{}, Field<&S::rate>{},
                           Field<&S::last_sent>{});
    }
};

struct Ps2MouseState {
    Ps2Queue queue{};
    u8 argument_of = 0;
    bool reporting = false, remote = false, wrap = false, double_scaling = false;
    u8 resolution = 2, rate = 100, id = 0, last_sent = 0;
    std::array<u8, 3> rates{}; // the last three sample rates: the wheel's secret knock
    i32 dx = 0, dy = 0, dz = 0;
    u8 buttons = 0, told_buttons = 0;
    static constexpr auto fields() {
        using S = Ps2MouseState;
        return describe<S>(Field<&S::queue>{}, Field<&S::argument_of>{}, Field<&S::reporting>{},
                           Field<&S::remote>{}, Field<&S::wrap>{}, Field<&S::double_scaling>{},
                           Field<&S::resolution>{.max = 3}, Field<&S::rate>{}, Field<&S::id>{},
                           Field<&S::last_sent>{}, Field<&S::rates>{}, Field<&S::dx>{.max = 0xffff},
                           Field<&S::dy>{.max = 0xffff}, Field<&S::dz>{.max = 0xffff},
                           Field<&S::buttons>{}, Field<&S::told_buttons>{});
    }
};

class Ps2Keyboard {
public:
    explicit Ps2Keyboard(Ps2KeyboardState &state) noexcept : s(state) {}
    void write(u8 byte) noexcept;
    u8 take() noexcept { return s.last_sent = s.queue.pop(); }
    // One key's bytes in scan code set 2, all or none; false: no room or not scanning.
    bool key(std::span<const u8> codes) noexcept;

private:
    void reset_defaults() noexcept;
    void argument(u8 command, u8 byte) noexcept;
    Ps2KeyboardState &s;
};

class Ps2Mouse {
public:
    explicit Ps2Mouse(Ps2MouseState &state) noexcept : s(state) {}
    void write(u8 byte) noexcept;
    u8 take() noexcept { return s.last_sent = s.queue.pop(); }
    // Movement in counts (y up), wheel steps, and the buttons that are down (bit 0 left, 1 right,
    // 2 middle); kept until there is room to tell.
    void move(i32 dx, i32 dy, i32 dz, u8 buttons) noexcept;
    // Queues a report if something is to be told and there is room.
    void report() noexcept;

private:
    void reset_defaults() noexcept;
    void argument(u8 command, u8 byte) noexcept;
    void packet() noexcept;
    Ps2MouseState &s;
};

} // namespace rhea::hw
