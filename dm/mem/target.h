// Target: what serves the accesses of one window of a device. Owner: the device, which holds the
// lock.
//
// The dispatcher takes the owner's lock, calls the target and then the owner's settle(); a target
// takes no lock of its own. Everything here runs on whichever thread makes the access, and is
// noexcept: a bad access has the outcome that the data sheet gives.
#pragma once
#include "dm/core/types.h"
#include <mutex>

namespace rhea {

class Owner {
public:
    Owner() = default;
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;

    // The device's own lock (BasicLockable). Only the dispatcher, timers, enter() and the machine's
    // own life-cycle calls take it.
    void lock() noexcept {
        mutex_.lock();
        ++locks_held_;
    }
    void unlock() noexcept {
        --locks_held_;
        mutex_.unlock();
    }
    // Does this thread hold any device's lock? Then it must not wait for other threads.
    static bool any_held() noexcept { return locks_held_ != 0; }

    // Recomputes outputs (interrupt levels, armed timers) from the state; called with the lock held
    // after every access, timer, back-end completion, reset and load.
    virtual void settle() noexcept {}

    // fn() with the lock held, then settle(): how back ends come in.
    template <class Fn> void enter(Fn &&fn) {
        std::lock_guard guard(*this);
        fn();
        settle();
    }

protected:
    ~Owner() = default;

private:
    static inline thread_local constinit unsigned locks_held_ = 0;
    std::mutex mutex_;
};

class Target {
public:
    // What the hardware takes in one cycle. An access that is wider is split into little-endian
    // pieces; one that is not aligned to its size is split into aligned pieces unless `unaligned`
    // is set.
    struct Traits {
        u8 max_size = 4; // 1, 2, 4 or 8 bytes
        bool unaligned = false;
    };

    Target(Owner &owner, const char *name) noexcept : owner_(owner), name_(name) {}
    Target(Owner &owner, const char *name, Traits traits) noexcept
        : owner_(owner), name_(name), traits_(traits) {}
    Target(const Target &) = delete;
    Target &operator=(const Target &) = delete;

    // `at` is the offset in the window, `size` at most traits().max_size. A value is zero-extended;
    // bits above the size are ignored by the caller on reads and are zero on writes.
    virtual u64 read(u64 at, unsigned size) noexcept = 0;
    virtual void write(u64 at, unsigned size, u64 value) noexcept = 0;

    // A run at one offset (string I/O): `count` items of `size` bytes, `step` bytes apart. Override
    // to move a whole buffer at once; the default does one access after another, with settle() in
    // between (after the last one the dispatcher does that).
    virtual void read_run(u64 at, unsigned size, u8 *data, u32 count, i32 step) noexcept;
    virtual void write_run(u64 at, unsigned size, const u8 *data, u32 count, i32 step) noexcept;

    Owner &owner() const noexcept { return owner_; }
    const char *name() const noexcept { return name_; }
    Traits traits() const noexcept { return traits_; }

protected:
    ~Target() = default;

private:
    Owner &owner_;
    const char *name_;
    Traits traits_;
};

} // namespace rhea
