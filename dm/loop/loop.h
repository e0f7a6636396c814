#pragma once
// Loop: one thread's io_uring, and the tasks, timers and posted calls that run on it.
//
// Created, run and destroyed by one thread; nothing but post(), wake() and stop() may be called
// from another. It owns no task: those live in TaskGroups, which are drained before the loop goes.
// It sleeps in the kernel until an operation completes, another thread posts, or a timer of the
// clock that it drives is due.
//
// Where the kernel refuses io_uring (ENOSYS, or EPERM under a seccomp filter or
// kernel.io_uring_disabled) the constructor throws ConfigError saying so: there is no second
// implementation.
#include <array>
#include <atomic>
#include <concepts>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "dm/core/types.h"
#include "dm/loop/operation.h"
#include "dm/loop/task.h"
#include "dm/loop/work_queue.h"
#include "dm/time/clock.h"

struct io_uring;
struct io_uring_cqe;
struct iovec;
struct sockaddr;

namespace rhea::loop {

class Loop final : private DeadlineListener {
public:
    explicit Loop(unsigned entries = 256);
    ~Loop();
    Loop(const Loop &) = delete;
    Loop &operator=(const Loop &) = delete;

    /// Turns until stop().
    void run();
    /// Any thread, and signal handlers: run() returns after its present turn.
    void stop() noexcept;
    /// Runs what is ready; if nothing is and `wait`, sleeps first until something is.
    void turn(bool wait);
    /// Runs the task to its end on this thread, turning meanwhile.
    template <class T> Result<T> block_on(Task<T> task);

    /// Any thread: `w.run()` happens on the loop's thread. Never blocks, allocates nothing.
    void post(Work &w) noexcept {
        if (queue_.push(w))
            wake();
    }
    /// Any thread: the same for a callable, which is kept on the heap.
    template <std::invocable F> void post(F call) {
        post(static_cast<Work &>(*new PostedCall<F>(std::move(call))));
    }
    /// The loop's thread: in the next turn, without waking anybody.
    void later(Work &w) noexcept { queue_.push(w); }
    /// Any thread: makes a sleeping loop turn once, to look at its timers again.
    void wake() noexcept;

    /// The loop's thread: runs this clock's timers from now on; null: none. The clock outlives
    /// that.
    void drive(Clock *clock) noexcept;

    static constexpr u64 at_cursor = ~u64{0}; // for pipes, sockets, terminals

    Operation read(int fd, std::span<u8> into, u64 at = at_cursor);
    Operation write(int fd, std::span<const u8> from, u64 at = at_cursor);
    Operation readv(int fd, std::span<const iovec> into, u64 at = at_cursor);
    Operation writev(int fd, std::span<const iovec> from, u64 at = at_cursor);
    Operation receive(int fd, std::span<u8> into, int flags = 0);
    Operation send(int fd, std::span<const u8> from, int flags = 0);
    /// Yields the new descriptor, close-on-exec.
    Operation accept(int fd);
    Operation connect(int fd, const sockaddr &to, u32 length);
    /// Yields the events that came; `events` as in poll(2).
    Operation poll(int fd, unsigned events);
    Operation open(int directory, const char *path, int flags, unsigned mode = 0);
    Operation close(int fd);
    Operation sync(int fd, bool data_only);
    Operation allocate(int fd, int mode, u64 offset, u64 length);
    /// Nanoseconds of CLOCK_MONOTONIC.
    Operation sleep(i64 nanoseconds);

private:
    friend class Operation;
    struct Entry { // what found no room in the submission ring
        Operation *operation;
        bool cancel;
    };

    void submit(Operation &op) noexcept;
    void submit_cancel(Operation &op) noexcept;
    bool enter(const Entry &e) noexcept;
    void flush_backlog() noexcept;
    bool arm_wake() noexcept;
    void sleep_in_kernel(bool wait) noexcept;
    void reap() noexcept;
    void deadline_changed() noexcept override { wake(); }

    std::unique_ptr<io_uring> ring_;
    WorkQueue queue_;
    std::vector<Entry> backlog_;
    Clock *clock_ = nullptr;
    usize in_flight_ = 0; // operations that have not completed
    int event_ = -1;
    bool wake_armed_ = false;
    std::atomic<bool> sleeping_{false}; // or about to: whoever has news must write to event_
    std::atomic<bool> stopping_{false};
};

/// All of `from`, however many writes it takes.
Task<> write_all(Loop &loop, int fd, std::span<const u8> from, u64 at = Loop::at_cursor);
/// Fills `into`; an earlier end of the file fails with EIO.
Task<> read_all(Loop &loop, int fd, std::span<u8> into, u64 at = Loop::at_cursor);

template <class T> Result<T> Loop::block_on(Task<T> task) {
    struct Flag final : Observer {
        bool done = false;
        void ended() noexcept override { done = true; }
    } flag;
    TaskContext context;
    auto &promise = task.handle().promise();
    promise.observer = &flag;
    if (!Promise::start(task.handle(), &context))
        while (!flag.done)
            turn(true);
    if (promise.error)
        return tl::unexpected(std::move(*promise.error));
    if constexpr (std::is_void_v<T>)
        return {};
    else
        return promise.take();
}

} // namespace rhea::loop
