// isa-debugcon: a port that writes every byte to a character back end and reads as a constant, by
// which firmware knows that it is there.
//
// Any thread; a write waits for the back end, since the guest cannot be told to.
#pragma once
#include "dm/chardev/chardev.h"
#include "dm/device/device.h"

#include <array>

namespace rhea::hw {

struct NoState {
    static constexpr auto fields() { return describe<NoState>(); }
};

class DebugConsole : public PlainDevice<NoState> {
public:
    struct Config {
        u16 port = 0xe9;
        u8 readback = 0xe9;
    };
    DebugConsole(std::string name, const Config &config, chardev::CharBackend &backend) noexcept;

    std::string_view type() const noexcept override { return "isa-debugcon"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    u64 read(u64 at, unsigned size) noexcept override;
    void write(u64 at, unsigned size, u64 value) noexcept override;
    void write_run(u64 at, unsigned size, const u8 *data, u32 count, i32 step) noexcept override;

private:
    const u8 readback_;
    chardev::CharBackend &backend_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
