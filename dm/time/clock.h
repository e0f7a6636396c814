// Clock: guest time in nanoseconds, and the timers that wait for it.
//
// HostClock follows the host's monotonic clock while it runs (the guest is paused: stop());
// ManualClock moves when a test or a deterministic run says so. Devices hold a Clock & and Timers
// (timer.h).
//
// now(), and arming timers: any thread. run_due() is called by one thread at a time, the main loop,
// which sleeps until next_deadline() and is told by the listener when that becomes earlier. The
// clock's own lock is a leaf; it is not held while a timer fires.
#pragma once
#include "dm/core/types.h"
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <set>

namespace rhea {

using Time = i64; // guest nanoseconds since the machine was built
inline constexpr Time never = INT64_MAX;

// `at` + `ns`, or never where that would be beyond the end of time: what a guest programs may be.
constexpr Time later(Time at, Time ns) noexcept {
    Time sum = 0;
    return __builtin_add_overflow(at, ns, &sum) ? (ns < 0 ? INT64_MIN : never) : sum;
}

class Timer;

// Told, on the arming thread, that the earliest deadline is earlier than it was (or that the clock
// was resumed). Must not call the clock and must not block: it wakes the loop (an eventfd).
class DeadlineListener {
public:
    virtual void deadline_changed() noexcept = 0;

protected:
    ~DeadlineListener() = default;
};

class Clock {
public:
    Clock() = default;
    virtual ~Clock(); // every timer is gone by then
    Clock(const Clock &) = delete;
    Clock &operator=(const Clock &) = delete;

    virtual Time now() const noexcept = 0;

    // The earliest time for which a timer is armed, or never.
    Time next_deadline() const noexcept;
    // Host nanoseconds from now until next_deadline(): 0 if it is past, negative if there is
    // nothing to wait for (no timer, or the clock does not run by itself).
    virtual i64 host_ns_until_deadline() const noexcept = 0;

    // Continue from a saved time; while it stands still. Fires nothing.
    virtual void set(Time now) noexcept = 0;

    // Fires what is due now, in the order of deadlines (equal ones: in the order of arming), each
    // under its device's lock. A timer that fires and arms itself for the past again fires at the
    // next call, so a call ends.
    void run_due() noexcept;

    void set_deadline_listener(DeadlineListener *listener) noexcept;

protected:
    // Fires timers with a deadline up to `limit`; before each one, on_deadline(its deadline).
    void run_until(Time limit, bool again) noexcept;
    virtual void on_deadline(Time) noexcept {}
    void tell_listener() noexcept;

private:
    friend class Timer;
    struct Earlier {
        bool operator()(const Timer *a, const Timer *b) const noexcept;
    };
    void arm(Timer &timer, Time at) noexcept;
    void forget(Timer &timer) noexcept;

    mutable std::mutex mutex_;
    std::condition_variable fired_;
    std::set<Timer *, Earlier> armed_;
    u64 sequence_ = 0;
    DeadlineListener *listener_ = nullptr;
};

// Follows CLOCK_MONOTONIC from 0; starts stopped, since a machine is built before it runs.
class HostClock final : public Clock {
public:
    Time now() const noexcept override;
    i64 host_ns_until_deadline() const noexcept override;

    void stop() noexcept;
    void resume() noexcept;
    bool running() const noexcept { return running_.load(std::memory_order_acquire); }
    void set(Time now) noexcept override; // while stopped

private:
    // Running: now is the host's time plus the offset. Stopped: now is the offset. Written under
    // state_mutex_ by the thread that pauses the guest, read without a lock: an odd version means
    // that a change is under way.
    std::mutex state_mutex_;
    std::atomic<u64> version_{0};
    std::atomic<bool> running_{false};
    std::atomic<Time> offset_{0};
};

// Moves only by advance() and set(); timers fire on the thread that calls these.
class ManualClock final : public Clock {
public:
    Time now() const noexcept override { return now_.load(std::memory_order_acquire); }
    i64 host_ns_until_deadline() const noexcept override;

    // Moves on by `ns`; each timer that comes due fires with now() at its deadline, also those that
    // are armed on the way.
    void advance(Time ns) noexcept;
    void advance_to(Time at) noexcept;
    // Moves on to the next deadline, if there is one; says whether there was.
    bool advance_to_next() noexcept;
    void set(Time now) noexcept override { now_.store(now, std::memory_order_release); }

private:
    void on_deadline(Time at) noexcept override;
    std::atomic<Time> now_{0};
};

} // namespace rhea
