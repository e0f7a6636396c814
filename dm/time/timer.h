// Timer: calls a member function of its device when the clock reaches a time.
//
//     Timer tick_{clock, *this, Callback::to<&Pit::tick>(this)};
//
// Owned by the device, as a member. It fires on the thread that runs the clock, under the device's
// lock and followed by settle(), as every other way into a device. arm() and cancel() may be called
// on any thread; called with the device's lock held, a cancel or another arm is exact: what was
// armed before does not fire any more. The destructor waits for a firing that is under way, so it
// must not run under the device's lock, nor in the callback.
//
// A deadline is not saved as such: settle() arms it again from the device's state, which has the
// absolute time.
#pragma once
#include "dm/core/callback.h"
#include "dm/mem/target.h"
#include "dm/time/clock.h"

namespace rhea {

class Timer {
public:
    Timer(Clock &clock, Owner &owner, Callback fire) noexcept
        : clock_(clock), owner_(&owner), fire_(fire) {}
    // Of no device: fires with no lock held.
    Timer(Clock &clock, Callback fire) noexcept : clock_(clock), owner_(nullptr), fire_(fire) {}
    ~Timer() { clock_.forget(*this); }
    Timer(const Timer &) = delete;
    Timer &operator=(const Timer &) = delete;

    // At guest time `at` (absolute; the past means as soon as possible), in place of any earlier
    // one; never: cancel.
    void arm(Time at) noexcept { clock_.arm(*this, at); }
    void arm_in(Time ns) noexcept { arm(later(clock_.now(), ns)); }
    void cancel() noexcept { arm(never); }
    Time deadline() const noexcept { return deadline_.load(std::memory_order_relaxed); }
    bool armed() const noexcept { return deadline() != never; }
    Clock &clock() const noexcept { return clock_; }

private:
    friend class Clock;
    Clock &clock_;
    Owner *owner_;
    Callback fire_;
    std::atomic<Time> deadline_{never}; // written under the clock's lock
    u64 sequence_ = 0;                  // the rest too
    u64 arming_ = 0;
    bool firing_ = false;
};

} // namespace rhea
