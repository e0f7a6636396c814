// isa-debug-exit: a write of v ends the program with status 2 v + 1, for guests that are tests.
#pragma once
#include "dm/device/device.h"
#include "hw/machine/events.h"

#include <array>

namespace rhea::hw {

struct DebugExitState {
    static constexpr auto fields() { return describe<DebugExitState>(); }
};

class DebugExit : public PlainDevice<DebugExitState> {
public:
    struct Config {
        u16 port = 0x501;
        u16 size = 2; // ports
    };
    DebugExit(std::string name, const Config &config, MachineEvents &events) noexcept
        : PlainDevice(std::move(name), {.max_size = 4, .unaligned = true}),
          events_(events), windows_{Window{"port", Space::port, config.port, config.size, this}} {}

    std::string_view type() const noexcept override { return "isa-debug-exit"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    u64 read(u64, unsigned) noexcept override { return 0; }
    void write(u64, unsigned, u64 value) noexcept override {
        events_.exit_requested(static_cast<u8>(value << 1 | 1));
    }

private:
    MachineEvents &events_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
