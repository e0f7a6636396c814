// The pair of 8237A DMA controllers of a PC with the page registers: the register files.
//
// Facts: Intel 8237A data sheet (231466); Intel 82371SB (PIIX3), 2.5.1. Ports 00h (channels 0 to
// 3), C0h (4 to 7, registers at even ports, channel 4 cascades), 80h (page registers; those that
// belong to no channel are plain latches, and the one at 80h is where firmware writes its
// progress).
//
// No device transfers by it yet: a channel's terminal-count bit is never set, requests stay as they
// are.
#pragma once
#include "dm/device/device.h"

#include <array>

namespace rhea::hw {

struct DmaChannelState {
    u16 base_address = 0, base_count = 0, address = 0, count = 0;
    u8 mode = 0;
    static constexpr auto fields() {
        using S = DmaChannelState;
        return describe<S>(Field<&S::base_address>{}, Field<&S::base_count>{}, Field<&S::address>{},
                           Field<&S::count>{}, Field<&S::mode>{});
    }
};

struct DmaControllerState {
    std::array<DmaChannelState, 4> channel{};
    u8 command = 0, status = 0, request = 0, mask = 0x0f, temporary = 0;
    bool high_byte = false; // the byte flip-flop
    static constexpr auto fields() {
        using S = DmaControllerState;
        return describe<S>(Field<&S::channel>{}, Field<&S::command>{}, Field<&S::status>{},
                           Field<&S::request>{.max = 15}, Field<&S::mask>{.max = 15},
                           Field<&S::temporary>{}, Field<&S::high_byte>{});
    }
};

struct DmaPairState {
    std::array<DmaControllerState, 2> controller{};
    std::array<u8, 16> page{};
    static constexpr auto fields() {
        using S = DmaPairState;
        return describe<S>(Field<&S::controller>{}, Field<&S::page>{});
    }
};

class DmaPair : public StateDevice<DmaPairState> {
public:
    explicit DmaPair(std::string name) noexcept;
    std::string_view type() const noexcept override { return "i8237"; }
    std::span<const Window> windows() noexcept override { return windows_; }

private:
    DmaPairState reset_state() const noexcept override;
    u8 read_controller(DmaControllerState &c, unsigned reg) noexcept;
    void write_controller(DmaControllerState &c, unsigned reg, u8 value) noexcept;
    u64 read_low(u64 at, unsigned size) noexcept;
    void write_low(u64 at, unsigned size, u64 value) noexcept;
    u64 read_high(u64 at, unsigned size) noexcept;
    void write_high(u64 at, unsigned size, u64 value) noexcept;
    u64 read_page(u64 at, unsigned size) noexcept;
    void write_page(u64 at, unsigned size, u64 value) noexcept;

    MethodTarget<&DmaPair::read_low, &DmaPair::write_low> low_;
    MethodTarget<&DmaPair::read_high, &DmaPair::write_high> high_;
    // PIIX3 gives port 92h to another register; it lies outside these sixteen.
    MethodTarget<&DmaPair::read_page, &DmaPair::write_page> page_;
    std::array<Window, 3> windows_;
};

} // namespace rhea::hw
