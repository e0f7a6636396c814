// Guarded<T>: a value that can only be reached with its lock held.
//
// Any thread. The lock is a leaf unless the owner says otherwise: do not call out of the guarded
// section.
#pragma once
#include <mutex>
#include <utility>

namespace rhea {

template <class T, class Mutex = std::mutex> class Guarded {
public:
    // The lock, held; the value is reached through -> and *.
    class Handle {
    public:
        explicit Handle(Guarded &g) : lock_(g.mutex_), value_(&g.value_) {}
        T *operator->() const noexcept { return value_; }
        T &operator*() const noexcept { return *value_; }
        // For a condition variable that waits on the guarded value.
        std::unique_lock<Mutex> &lock() noexcept { return lock_; }

    private:
        std::unique_lock<Mutex> lock_;
        T *value_;
    };

    Guarded() = default;
    template <class... A>
    explicit Guarded(std::in_place_t, A &&...a) : value_{std::forward<A>(a)...} {}
    explicit Guarded(T v) : value_(std::move(v)) {}
    Guarded(const Guarded &) = delete;
    Guarded &operator=(const Guarded &) = delete;

    [[nodiscard]] Handle lock() { return Handle(*this); }

    // fn(T &) with the lock held; returns what it returns.
    template <class Fn> decltype(auto) with(Fn &&fn) {
        std::lock_guard guard(mutex_);
        return std::forward<Fn>(fn)(value_);
    }
    template <class Fn> decltype(auto) with(Fn &&fn) const {
        std::lock_guard guard(mutex_);
        return std::forward<Fn>(fn)(value_);
    }

private:
    mutable Mutex mutex_;
    T value_{};
};

} // namespace rhea
