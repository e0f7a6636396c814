#include "dm/time/clock.h"
#include "dm/core/result.h"
#include "dm/time/timer.h"
#include <ctime>

namespace rhea {

namespace {
Time host_now() noexcept {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return Time{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}
} // namespace

bool Clock::Earlier::operator()(const Timer *a, const Timer *b) const noexcept {
    const Time x = a->deadline(), y = b->deadline();
    return x != y ? x < y : a->sequence_ < b->sequence_;
}

Clock::~Clock() {
    VERIFY(armed_.empty());
}

void Clock::set_deadline_listener(DeadlineListener *listener) noexcept {
    std::lock_guard guard(mutex_);
    listener_ = listener;
}

void Clock::tell_listener() noexcept {
    std::lock_guard guard(mutex_);
    if (listener_)
        listener_->deadline_changed();
}

Time Clock::next_deadline() const noexcept {
    std::lock_guard guard(mutex_);
    return armed_.empty() ? never : (*armed_.begin())->deadline();
}

void Clock::arm(Timer &timer, Time at) noexcept {
    std::lock_guard guard(mutex_);
    const Time before = timer.deadline();
    if (before == at)
        return;
    if (before != never)
        armed_.erase(&timer);
    ++timer.arming_;
    timer.deadline_.store(at, std::memory_order_relaxed);
    if (at == never)
        return;
    timer.sequence_ = ++sequence_;
    armed_.insert(&timer);
    if (*armed_.begin() == &timer && listener_)
        listener_->deadline_changed();
}

void Clock::forget(Timer &timer) noexcept {
    std::unique_lock lock(mutex_);
    if (timer.deadline() != never)
        armed_.erase(&timer);
    timer.deadline_.store(never, std::memory_order_relaxed);
    ++timer.arming_;
    fired_.wait(lock, [&] { return !timer.firing_; });
}

void Clock::run_due() noexcept {
    run_until(now(), false);
}

void Clock::run_until(Time limit, bool again) noexcept {
    std::unique_lock lock(mutex_);
    u64 last_sequence = sequence_;
    // A timer that arms itself for a time that is past, again and again, must not hold us here:
    // such firings wait for the next call once there were this many at one time.
    constexpr unsigned most_at_once = 1000;
    unsigned at_once = 0;
    Time current = never;
    auto next = [&]() -> Timer * {
        for (Timer *t : armed_) {
            if (t->deadline() > limit)
                break;
            if ((again && at_once < most_at_once) || t->sequence_ <= last_sequence ||
                (again && t->deadline() > current))
                return t;
        }
        return nullptr;
    };
    while (Timer *timer = next()) {
        // The timer stays armed until its device's lock is held: whoever cancels it under that lock
        // before then has cancelled it.
        const u64 arming = timer->arming_;
        const Time deadline = timer->deadline();
        if (current == never || deadline > current) {
            current = deadline;
            at_once = 0;
            if (again)
                last_sequence = sequence_;
        } else {
            ++at_once;
        }
        timer->firing_ = true;
        lock.unlock();
        on_deadline(deadline);
        auto fire = [&] {
            lock.lock();
            const bool still = timer->arming_ == arming;
            if (still) {
                armed_.erase(timer);
                timer->deadline_.store(never, std::memory_order_relaxed);
                ++timer->arming_;
            }
            lock.unlock();
            if (still)
                timer->fire_();
        };
        if (timer->owner_)
            timer->owner_->enter(fire);
        else
            fire();
        lock.lock();
        timer->firing_ = false;
        fired_.notify_all();
    }
}

Time HostClock::now() const noexcept {
    for (;;) {
        const u64 before = version_.load(std::memory_order_acquire);
        const bool running = running_.load(std::memory_order_acquire);
        const Time offset = offset_.load(std::memory_order_acquire);
        const Time now = running ? host_now() + offset : offset;
        if (!(before & 1) && version_.load(std::memory_order_acquire) == before)
            return now;
    }
}

i64 HostClock::host_ns_until_deadline() const noexcept {
    if (!running())
        return -1;
    const Time next = next_deadline();
    if (next == never)
        return -1;
    const Time left = next - now();
    return left > 0 ? left : 0;
}

void HostClock::stop() noexcept {
    std::lock_guard guard(state_mutex_);
    if (!running())
        return;
    const Time at = now();
    version_.fetch_add(1, std::memory_order_acq_rel);
    running_.store(false, std::memory_order_release);
    offset_.store(at, std::memory_order_release);
    version_.fetch_add(1, std::memory_order_acq_rel);
}

void HostClock::resume() noexcept {
    {
        std::lock_guard guard(state_mutex_);
        if (running())
            return;
        const Time offset = offset_.load(std::memory_order_acquire) - host_now();
        version_.fetch_add(1, std::memory_order_acq_rel);
        offset_.store(offset, std::memory_order_release);
        running_.store(true, std::memory_order_release);
        version_.fetch_add(1, std::memory_order_acq_rel);
    }
    tell_listener();
}

void HostClock::set(Time now) noexcept {
    std::lock_guard guard(state_mutex_);
    VERIFY(!running());
    offset_.store(now, std::memory_order_release);
}

i64 ManualClock::host_ns_until_deadline() const noexcept {
    return -1;
}

void ManualClock::on_deadline(Time at) noexcept {
    if (at > now())
        now_.store(at, std::memory_order_release);
}

void ManualClock::advance(Time ns) noexcept {
    advance_to(later(now(), ns));
}

void ManualClock::advance_to(Time at) noexcept {
    run_until(at, true);
    if (at > now())
        now_.store(at, std::memory_order_release);
}

bool ManualClock::advance_to_next() noexcept {
    const Time next = next_deadline();
    if (next == never)
        return false;
    advance_to(next);
    return true;
}

} // namespace rhea
