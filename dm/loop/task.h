#pragma once
// Task<T>: a coroutine on a Loop, and what joins it to whoever waits for it.
//
// A task starts when it is awaited or handed to a TaskGroup, runs on its loop's thread alone, and
// is owned by the Task object: destroying that destroys the coroutine's frame, which is allowed
// only before it starts and after it ended. Awaiting a task yields its value; if it fails, the task
// that awaits fails too, without running further, until one on the way up asked for the Result by
// `co_await task.caught()`. The locals of a failed task live until its Task object goes.
//
// Rules that g++ 12 imposes: parameters are references or trivially destructible (checked below:
// GCC destroys others twice), one co_await per statement, no closure or aggregate temporary inside
// it, none in a statement expression. Symmetric transfer is no reliable tail call there, so
// await_suspend returns void or bool and completion without suspension is noticed by `starting`: a
// million inline completions use one stack frame.
#include <cerrno>
#include <coroutine>
#include <exception>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "dm/core/result.h"

namespace rhea::loop {

/// What a task is waiting for, as far as cancelling goes: an operation in the kernel, or another
/// group's end.
class Cancellable {
public:
    /// Asks for an early end; the waiting task resumes (with ECANCELED, or its result) from the
    /// loop, not from here.
    virtual void cancel() noexcept = 0;

protected:
    ~Cancellable() = default;
};

/// One tree of tasks, from the one that was spawned down to the one that waits: a single line of
/// control.
struct TaskContext {
    Cancellable *waiting = nullptr;
    bool cancelled =
        false; // sticky: each further operation of this tree ends with ECANCELED at once
};

/// Told that a task ended, from inside the task's last step: it may not destroy the task there.
class Observer {
public:
    virtual void ended() noexcept = 0;

protected:
    ~Observer() = default;
};

struct Promise {
    std::coroutine_handle<> waiter = std::noop_coroutine();
    Promise *upward = nullptr;    // whom our failure fails; null: the waiter wants the Result
    Observer *observer = nullptr; // instead of a waiter, for a task that no task awaits
    TaskContext *context = nullptr;
    std::optional<Error> error;
    bool starting = false; // our starter is still on the stack and will look at `finished`
    bool finished = false;

    /// Ends the task of `p`, failed if it has an error: wakes whoever waits.
    static void complete(Promise *p) noexcept {
        for (;;) {
            p->finished = true;
            if (p->starting)
                return;
            if (!p->error || !p->upward)
                break;
            p->upward->error = std::move(p->error);
            p = p->upward;
        }
        if (p->observer)
            p->observer->ended();
        else
            p->waiter.resume();
    }

    /// Runs a task up to its first wait. True if it ended before that.
    template <class P> static bool start(std::coroutine_handle<P> task, TaskContext *context) {
        Promise &p = task.promise();
        p.context = context;
        p.starting = true;
        task.resume();
        p.starting = false;
        return p.finished;
    }

    struct Final {
        bool await_ready() noexcept { return false; }
        void await_resume() noexcept {}
        template <class P> void await_suspend(std::coroutine_handle<P> h) noexcept {
            complete(&h.promise());
        }
    };
    std::suspend_always initial_suspend() noexcept { return {}; }
    Final final_suspend() noexcept { return {}; }
    // Tasks report by Error; an exception that gets here is a mistake of ours.
    [[noreturn]] void unhandled_exception() noexcept { std::terminate(); }
};

template <class T> struct ValuePromise : Promise {
    std::optional<T> value;
    template <class U> void return_value(U &&v) { value.emplace(std::forward<U>(v)); }
    T take() { return std::move(*value); }
};
template <> struct ValuePromise<void> : Promise {
    void return_void() {}
    void take() {}
};

template <class T = void> class [[nodiscard]] Task {
public:
    struct promise_type : ValuePromise<T> {
        Task get_return_object() {
            return Task{std::coroutine_handle<promise_type>::from_promise(*this)};
        }
    };
    using Handle = std::coroutine_handle<promise_type>;

    Task(Task &&o) noexcept : handle_(std::exchange(o.handle_, nullptr)) {}
    Task &operator=(Task &&o) noexcept {
        std::swap(handle_, o.handle_);
        return *this;
    }
    ~Task() {
        if (handle_)
            handle_.destroy();
    }

    struct Join {
        Handle child;
        bool await_ready() const noexcept { return false; }
        template <class P> bool await_suspend(std::coroutine_handle<P> parent) {
            Promise &c = child.promise();
            Promise &p = parent.promise();
            c.waiter = parent;
            c.upward = &p;
            if (!Promise::start(child, p.context))
                return true;
            if (!c.error)
                return false;
            p.error = std::move(c.error);
            Promise::complete(&p);
            return true;
        }
        T await_resume() { return child.promise().take(); }
    };
    struct Catch {
        Handle child;
        bool await_ready() const noexcept { return false; }
        template <class P> bool await_suspend(std::coroutine_handle<P> parent) {
            child.promise().waiter = parent;
            return !Promise::start(child, parent.promise().context);
        }
        Result<T> await_resume() {
            if (auto &e = child.promise().error)
                return tl::unexpected(std::move(*e));
            if constexpr (std::is_void_v<T>)
                return {};
            else
                return child.promise().take();
        }
    };

    /// The value; a failure fails the awaiting task.
    Join operator co_await() && { return {handle_}; }
    /// The Result. Name the task first: `auto t = f(); auto r = co_await t.caught();`
    Catch caught() & { return {handle_}; }

    bool done() const { return handle_.promise().finished; }
    /// For those who run tasks (TaskGroup, Loop::block_on).
    Handle handle() const { return handle_; }

private:
    explicit Task(Handle h) : handle_(h) {}
    Handle handle_;
};

/// `co_await raise(EINVAL, "bad header")`: fails the task that awaits it.
class Raise {
public:
    Raise(int code, std::string_view what) : code_(code), what_(what) {}
    bool await_ready() const noexcept { return false; }
    template <class P> void await_suspend(std::coroutine_handle<P> h) {
        h.promise().error.emplace(Error{code_, std::string(what_)});
        Promise::complete(&h.promise());
    }
    void await_resume() const noexcept {}

private:
    int code_;
    std::string_view what_; // lives as long as the full expression does
};
inline Raise raise(int code, std::string_view what) {
    return {code, what};
}
inline Raise raise(const Error &e) {
    return {e.code, e.what};
}

template <class A>
concept SafeParameter = std::is_reference_v<A> || std::is_trivially_destructible_v<A>;

} // namespace rhea::loop

template <class T, class... A> struct std::coroutine_traits<rhea::loop::Task<T>, A...> {
    static_assert((rhea::loop::SafeParameter<A> && ...),
                  "coroutine parameters: by reference, or trivially destructible");
    using promise_type = typename rhea::loop::Task<T>::promise_type;
};
