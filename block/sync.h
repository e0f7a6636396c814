// Lock and RangeLock: mutual exclusion between tasks on one loop's thread.
//
// Waiting is not cancelled: who holds a lock ends its own operations soon. A failed task's locals
// live on until its Task object goes, so there is no guard object: who locks, catches, unlocks and
// then raises.
#pragma once
#include <coroutine>
#include <deque>
#include <list>

#include "dm/core/types.h"
#include "dm/loop/loop.h"

namespace rhea::block {

namespace detail {
/// A task that waits to be resumed from the loop.
class Waiter : public loop::Work {
public:
    void run() noexcept override { handle.resume(); }
    std::coroutine_handle<> handle;

protected:
    ~Waiter() = default;
};
} // namespace detail

class Lock {
public:
    explicit Lock(loop::Loop &loop) : loop_(loop) {}
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;

    class Acquire final : public detail::Waiter {
    public:
        explicit Acquire(Lock &lock) : lock_(lock) {}
        bool await_ready() noexcept { return !std::exchange(lock_.held_, true); }
        void await_suspend(std::coroutine_handle<> h) {
            handle = h;
            lock_.waiting_.push_back(this);
        }
        void await_resume() const noexcept {}

    private:
        Lock &lock_;
    };
    /// `co_await lock.acquire();` First come, first served.
    Acquire acquire() noexcept { return Acquire(*this); }
    void release() noexcept {
        if (waiting_.empty()) {
            held_ = false;
            return;
        }
        Acquire *const next = waiting_.front();
        waiting_.pop_front();
        loop_.later(*next); // and stays held, now by it
    }
    bool held() const noexcept { return held_; }

private:
    loop::Loop &loop_;
    bool held_ = false;
    std::deque<Acquire *> waiting_;
};

/// Ranges of bytes, each shared (overlaps others that are shared) or exclusive.
class RangeLock {
public:
    explicit RangeLock(loop::Loop &loop) : loop_(loop) {}
    RangeLock(const RangeLock &) = delete;
    RangeLock &operator=(const RangeLock &) = delete;

    class Acquire;
    struct Range {
        u64 at, end;
        bool exclusive;
        Acquire *waiter; // null: held
    };
    using Held = std::list<Range>::iterator;

    class Acquire final : public detail::Waiter {
    public:
        Acquire(RangeLock &lock, u64 at, u64 length, bool exclusive) : lock_(lock) {
            range_ =
                lock.ranges_.insert(lock.ranges_.end(), Range{at, at + length, exclusive, nullptr});
        }
        bool await_ready() noexcept { return !lock_.blocked(range_); }
        void await_suspend(std::coroutine_handle<> h) noexcept {
            handle = h;
            range_->waiter = this;
        }
        Held await_resume() const noexcept { return range_; }

    private:
        RangeLock &lock_;
        Held range_;
    };
    /// `const auto held = co_await ranges.acquire(at, n, true);`
    Acquire acquire(u64 at, u64 length, bool exclusive) {
        return Acquire(*this, at, length, exclusive);
    }
    void release(Held held) noexcept {
        ranges_.erase(held);
        for (auto i = ranges_.begin(); i != ranges_.end(); ++i)
            if (i->waiter && !blocked(i))
                loop_.later(*std::exchange(i->waiter, nullptr));
    }

private:
    /// By an earlier one, held or waiting: nobody overtakes.
    bool blocked(Held r) const noexcept {
        for (auto i = ranges_.cbegin(); i != std::list<Range>::const_iterator(r); ++i)
            if (i->at < r->end && r->at < i->end && (i->exclusive || r->exclusive))
                return true;
        return false;
    }
    loop::Loop &loop_;
    std::list<Range> ranges_;
};

} // namespace rhea::block
