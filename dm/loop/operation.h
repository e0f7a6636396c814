#pragma once
// Operation: one request to the kernel's ring, as something to await. Made by Loop::read and its
// like.
//
// `co_await loop.read(...)` yields the kernel's non-negative answer; an error fails the task with
// the errno and the operation's name. `co_await loop.read(...).caught()` yields the Result instead.
// The buffer belongs to the caller and stays until the operation ended, which cancelling only
// hastens.
#include <coroutine>

#include "dm/core/types.h"
#include "dm/loop/task.h"

namespace rhea::loop {

class Loop;

class Operation : public Cancellable {
public:
    /// What goes into the submission entry; names as in io_uring_enter(2).
    struct Request {
        u8 opcode = 0;
        int fd = -1;
        u64 addr = 0;
        u32 len = 0;
        u64 off = 0;
        u32 flags = 0;         // the opcode's own: open, accept, poll events ...
        const char *what = ""; // for the message
    };
    Operation(Loop &loop, const Request &r) : loop_(loop), request_(r) {}

    bool await_ready() const noexcept { return false; }
    template <class P> bool await_suspend(std::coroutine_handle<P> h) noexcept {
        waiter_ = h;
        promise_ = &h.promise();
        fails_ = true;
        return begin();
    }
    /// Bytes, a new descriptor, or 0.
    int await_resume() const noexcept { return result_; }

    class Caught;
    inline Caught caught() const;

    void cancel() noexcept override;

protected:
    friend class Loop;
    bool begin() noexcept;
    void complete(int result) noexcept;
    Error error() const;

    Loop &loop_;
    Request request_;
    struct Duration { // as the kernel reads it: struct __kernel_timespec
        long long seconds = 0, nanoseconds = 0;
    } duration_;
    int result_ = 0;
    bool fails_ = true;
    bool in_kernel_ = false;
    std::coroutine_handle<> waiter_;
    Promise *promise_ = nullptr;
};

class Operation::Caught : public Operation {
public:
    explicit Caught(const Operation &o) : Operation(o) {}
    template <class P> bool await_suspend(std::coroutine_handle<P> h) noexcept {
        waiter_ = h;
        promise_ = &h.promise();
        fails_ = false;
        return begin();
    }
    Result<int> await_resume() const {
        if (result_ < 0)
            return tl::unexpected(error());
        return result_;
    }
};
Operation::Caught Operation::caught() const {
    return Caught(*this);
}

} // namespace rhea::loop
