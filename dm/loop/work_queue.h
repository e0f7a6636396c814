#pragma once
// WorkQueue: what any thread hands to a loop. Lock-free: many producers push, the loop takes
// everything at once.
//
// A Work is owned by whoever made it and must stay put until it has run; run() may delete it.
#include <atomic>
#include <type_traits>
#include <utility>

namespace rhea::loop {

class Work {
public:
    virtual void run() noexcept = 0;

protected:
    ~Work() = default;

private:
    friend class WorkQueue;
    Work *next_ = nullptr;
};

/// A Work that holds a callable and deletes itself when it has run.
template <class F> class PostedCall final : public Work {
public:
    explicit PostedCall(F f) : call_(std::move(f)) {}
    void run() noexcept override {
        call_();
        delete this;
    }

private:
    F call_;
};

class WorkQueue {
public:
    /// Any thread. True if the queue was empty: then the consumer must be woken.
    bool push(Work &w) noexcept {
        Work *head = head_.load(std::memory_order_relaxed);
        do
            w.next_ = head;
        while (!head_.compare_exchange_weak(head, &w)); // sequentially consistent: see Loop::turn
        return head == nullptr;
    }

    bool empty() const noexcept { return head_.load() == nullptr; }

    /// The consumer: runs what is there, in the order of pushing. True if there was anything.
    bool run_all() noexcept {
        Work *stack = head_.exchange(nullptr, std::memory_order_acquire);
        Work *queue = nullptr;
        while (stack)
            stack = std::exchange(stack->next_, std::exchange(queue, stack));
        const bool any = queue != nullptr;
        while (queue) {
            Work *const w = queue;
            queue = w->next_; // before run(), which may free or push it again
            w->run();
        }
        return any;
    }

private:
    std::atomic<Work *> head_{nullptr};
};

} // namespace rhea::loop
