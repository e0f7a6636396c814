#include "hw/char/debugcon.h"

namespace rhea::hw {

DebugConsole::DebugConsole(std::string name, const Config &config,
                           chardev::CharBackend &backend) noexcept
    : PlainDevice(std::move(name), {.max_size = 1}), readback_(config.readback),
      backend_(backend), windows_{Window{"port", Space::port, config.port, 1, this}} {}

u64 DebugConsole::read(u64, unsigned) noexcept {
    return readback_;
}

void DebugConsole::write(u64, unsigned, u64 value) noexcept {
    const u8 byte = static_cast<u8>(value);
    backend_.write_waiting({&byte, 1});
}

void DebugConsole::write_run(u64 at, unsigned size, const u8 *data, u32 count, i32 step) noexcept {
    if (size == 1 && step == 1)
        backend_.write_waiting({data, count});
    else
        Target::write_run(at, size, data, count, step);
}

} // namespace rhea::hw
