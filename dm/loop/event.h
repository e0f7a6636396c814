#pragma once
// Event: what one task sets and another waits for, on one loop's thread. Setting it with nobody
// waiting is remembered, once.
#include "dm/loop/loop.h"

namespace rhea::loop {

class Event {
public:
    explicit Event(Loop &loop) : loop_(loop) {}
    Event(const Event &) = delete;
    Event &operator=(const Event &) = delete;

    void set() noexcept {
        if (waiter_)
            std::exchange(waiter_, nullptr)->schedule();
        else
            set_ = true;
    }

    class Wait final : public Cancellable, public Work {
    public:
        explicit Wait(Event &event) : event_(event) {}
        bool await_ready() const noexcept { return std::exchange(event_.set_, false); }
        template <class P> void await_suspend(std::coroutine_handle<P> h) noexcept {
            waiter_ = h;
            promise_ = &h.promise();
            if (promise_->context->cancelled)
                return fail();
            promise_->context->waiting = this;
            event_.waiter_ = this;
        }
        void await_resume() const noexcept {}

        void cancel() noexcept override {
            event_.waiter_ = nullptr;
            cancelled_ = true;
            schedule();
        }
        void schedule() noexcept {
            promise_->context->waiting = nullptr;
            event_.loop_.later(*this);
        }
        void run() noexcept override {
            if (cancelled_)
                fail();
            else
                waiter_.resume();
        }

    private:
        void fail() noexcept {
            promise_->error.emplace(Error{ECANCELED, "wait"});
            Promise::complete(promise_);
        }

        Event &event_;
        std::coroutine_handle<> waiter_;
        Promise *promise_ = nullptr;
        bool cancelled_ = false;
    };
    /// One waiter at a time.
    Wait wait() noexcept { return Wait(*this); }

private:
    Loop &loop_;
    Wait *waiter_ = nullptr;
    bool set_ = false;
};

} // namespace rhea::loop
