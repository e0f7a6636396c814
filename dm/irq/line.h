// IrqLine: one interrupt (or reset, or NMI) line, as the device at its source holds it: two words,
// copied freely.
//
// set() goes straight to the sink, which is lower in the lock order than every device (device, then
// interrupt controller, then vCPU kick), so it may be called with the device's lock held, on any
// thread. A line that leads nowhere is a valid line. The line keeps no level: the sink does, and
// ignores a set() that changes nothing, so that recomputing a level (settle()) never makes an edge.
#pragma once
#include "dm/core/types.h"
#include <mutex>

namespace rhea {

// What a line leads to: an interrupt controller, a router, a probe. Takes its own lock.
class IrqSink {
public:
    virtual void set_line(u32 number, bool level) noexcept = 0;

protected:
    ~IrqSink() = default;
};

class IrqLine {
public:
    constexpr IrqLine() = default;
    constexpr IrqLine(IrqSink &sink, u32 number) noexcept : sink_(&sink), number_(number) {}

    void set(bool level) const noexcept {
        if (sink_)
            sink_->set_line(number_, level);
    }
    void raise() const noexcept { set(true); }
    void lower() const noexcept { set(false); }
    // An edge: up and down again.
    void pulse() const noexcept {
        raise();
        lower();
    }
    explicit operator bool() const noexcept { return sink_; }

private:
    IrqSink *sink_ = nullptr;
    u32 number_ = 0;
};

// A wired-or line: up to 64 sources share one line, which is high while any of them is (PCI INTx,
// the SCI).
//
// Its lock lies between the devices and the interrupt controller: the output changes in the order
// in which the inputs did. Owned by the board; the sources hold input(n). The levels are no saved
// state: each source sets its own again when it is loaded.
class SharedLine final : public IrqSink {
public:
    SharedLine() = default;
    explicit SharedLine(IrqLine output) noexcept : output_(output) {}
    IrqLine input(u32 n) noexcept { return {*this, n}; }

    void set_line(u32 number, bool level) noexcept override {
        std::lock_guard guard(mutex_);
        const u64 source = u64{1} << (number & 63);
        const bool before = high_ != 0;
        high_ = level ? high_ | source : high_ & ~source;
        if (before != (high_ != 0))
            output_.set(high_ != 0);
    }

private:
    std::mutex mutex_;
    IrqLine output_;
    u64 high_ = 0;
};

// One source that drives several lines with the same level (an ISA interrupt that goes to the PIC
// and the IO-APIC).
template <u32 N> class SplitLine final : public IrqSink {
public:
    template <class... L> explicit SplitLine(L... lines) noexcept : outputs_{lines...} {}
    IrqLine input() noexcept { return {*this, 0}; }
    void set_line(u32, bool level) noexcept override {
        for (const IrqLine &l : outputs_)
            l.set(level);
    }

private:
    IrqLine outputs_[N];
};

} // namespace rhea
