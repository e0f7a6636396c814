#pragma once
// The host CPU as a Machine. The instruction runs in this process with every register as the test
// wants it; the kernel's signal frames are what puts the registers there and what takes them away.
// One at a time in a process, since it owns the fixed window and the handlers of SIGTRAP, SIGSEGV,
// SIGBUS, SIGFPE and SIGILL while it lives. The caller sees to it that the instruction touches
// nothing but the window.

#include "tests/diff/machine.h"

#include <memory>

namespace rhea::dbt::diff {

class Native final : public Machine {
public:
    Native();
    ~Native() override;
    const char *name() const override { return "host"; }
    Output run(const Input &input) override;
    std::span<const u8> data() const override;
    bool has_code32() const { return has_code32_; } // the kernel has compatibility segments

private:
    u8 *alias_ = nullptr; // the window, writable
    std::unique_ptr<u8[]> signal_stack_;
    bool has_code32_ = false;
};

} // namespace rhea::dbt::diff
