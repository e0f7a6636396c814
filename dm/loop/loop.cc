#include "dm/loop/loop.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dm/core/config_error.h"

namespace rhea::loop {

namespace {

// user_data of the two kinds of entry that are no Operation. Operations are aligned, so these are
// no addresses of any.
constexpr u64 data_ignored = 0;
constexpr u64 data_wake = 1;

u32 clamp_length(usize n) {
    return u32(std::min<usize>(n, 0x7fff'f000));
} // as read(2) does

std::string why_no_ring(int code) {
    switch (code) {
    case ENOSYS: return "this kernel has no io_uring (5.11 or newer is needed)";
    case EPERM:
    case EACCES:
        return "io_uring is forbidden here (by a seccomp filter, or sysctl "
               "kernel.io_uring_disabled)";
    case ENOMEM: return "io_uring: out of locked memory (raise ulimit -l)";
    default: return std::string("io_uring: ") + std::strerror(code);
    }
}

} // namespace

Loop::Loop(unsigned entries) : ring_(std::make_unique<io_uring>()) {
    // Completions wait until the thread enters the kernel anyway instead of interrupting it; older
    // kernels refuse the flag.
    int r = io_uring_queue_init(entries, ring_.get(), IORING_SETUP_COOP_TASKRUN);
    if (r == -EINVAL)
        r = io_uring_queue_init(entries, ring_.get(), 0);
    if (r < 0)
        throw ConfigError(why_no_ring(-r));
    event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_ < 0 || !(ring_->features & IORING_FEAT_EXT_ARG)) {
        const int code = event_ < 0 ? errno : ENOSYS;
        if (event_ >= 0)
            ::close(event_);
        io_uring_queue_exit(ring_.get());
        throw ConfigError(why_no_ring(code));
    }
}

Loop::~Loop() {
    while (queue_.run_all())
        ;
    drive(nullptr);
    VERIFY(in_flight_ == 0);
    io_uring_queue_exit(ring_.get());
    ::close(event_);
}

void Loop::run() {
    while (!stopping_.exchange(false))
        turn(true);
}

void Loop::stop() noexcept {
    stopping_.store(true);
    wake();
}

void Loop::wake() noexcept {
    if (!sleeping_.exchange(false))
        return;
    // The count is never read: the multishot poll reports each write, and 2^64 writes do not
    // happen.
    const u64 one = 1;
    [[maybe_unused]] const auto n = ::write(event_, &one, sizeof one);
}

void Loop::drive(Clock *clock) noexcept {
    if (clock_)
        clock_->set_deadline_listener(nullptr);
    clock_ = clock;
    if (clock_)
        clock_->set_deadline_listener(this);
}

void Loop::turn(bool wait) {
    flush_backlog();
    if (!wake_armed_)
        wake_armed_ = arm_wake();
    if (wait) {
        // First say so, then look: whoever pushes after the look sees the flag and writes.
        sleeping_.store(true);
        wait = queue_.empty() && !stopping_.load();
    }
    sleep_in_kernel(wait);
    sleeping_.store(false);
    reap();
    if (clock_)
        clock_->run_due();
    queue_.run_all();
}

void Loop::sleep_in_kernel(bool wait) noexcept {
    if (wait && backlog_.empty() && io_uring_cq_ready(ring_.get()) == 0) {
        const i64 left = clock_ ? clock_->host_ns_until_deadline() : -1;
        if (left < 0) {
            io_uring_submit_and_wait(ring_.get(), 1);
            return;
        }
        if (left > 0) {
            io_uring_cqe *cqe = nullptr;
            __kernel_timespec t{left / 1'000'000'000, left % 1'000'000'000};
            io_uring_submit_and_wait_timeout(ring_.get(), &cqe, 1, &t, nullptr);
            return;
        }
    }
    // Also without submissions: with COOP_TASKRUN, completions appear when we enter the kernel.
    io_uring_submit_and_get_events(ring_.get());
}

void Loop::reap() noexcept {
    // A batch is copied out first: what completes may submit, which may enter the kernel and add
    // completions.
    std::array<io_uring_cqe *, 64> batch;
    struct Done {
        u64 data;
        int result;
    };
    std::array<Done, 64> done;
    while (const unsigned n = io_uring_peek_batch_cqe(ring_.get(), batch.data(), batch.size())) {
        for (unsigned i = 0; i < n; ++i) {
            done[i] = {batch[i]->user_data, batch[i]->res};
            if (batch[i]->user_data == data_wake && !(batch[i]->flags & IORING_CQE_F_MORE))
                wake_armed_ = false;
        }
        io_uring_cq_advance(ring_.get(), n);
        for (unsigned i = 0; i < n; ++i) {
            if (done[i].data == data_ignored || done[i].data == data_wake)
                continue;
            --in_flight_;
            reinterpret_cast<Operation *>(done[i].data)->complete(done[i].result);
        }
    }
}

bool Loop::arm_wake() noexcept {
    io_uring_sqe *sqe = io_uring_get_sqe(ring_.get());
    if (!sqe)
        return false;
    io_uring_prep_poll_multishot(sqe, event_, POLLIN);
    io_uring_sqe_set_data64(sqe, data_wake);
    return true;
}

bool Loop::enter(const Entry &e) noexcept {
    io_uring_sqe *sqe = io_uring_get_sqe(ring_.get());
    if (!sqe) {
        io_uring_submit(ring_.get());
        sqe = io_uring_get_sqe(ring_.get());
        if (!sqe)
            return false;
    }
    Operation &op = *e.operation;
    if (e.cancel) {
        io_uring_prep_cancel64(sqe, reinterpret_cast<u64>(&op), 0);
        io_uring_sqe_set_data64(sqe, data_ignored);
        return true;
    }
    const Operation::Request &r = op.request_;
    std::memset(sqe, 0, sizeof *sqe);
    sqe->opcode = r.opcode;
    sqe->fd = r.fd;
    sqe->addr = r.opcode == IORING_OP_TIMEOUT ? reinterpret_cast<u64>(&op.duration_) : r.addr;
    sqe->len = r.len;
    sqe->off = r.off;
    sqe->open_flags = r.flags;
    io_uring_sqe_set_data64(sqe, reinterpret_cast<u64>(&op));
    return true;
}

void Loop::submit(Operation &op) noexcept {
    ++in_flight_;
    if (!backlog_.empty() || !enter({&op, false}))
        backlog_.push_back({&op, false});
}

void Loop::submit_cancel(Operation &op) noexcept {
    // Behind the operation itself if that still waits in the backlog, so the order is right.
    if (!backlog_.empty() || !enter({&op, true}))
        backlog_.push_back({&op, true});
}

void Loop::flush_backlog() noexcept {
    usize done = 0;
    while (done < backlog_.size() && enter(backlog_[done]))
        ++done;
    backlog_.erase(backlog_.begin(), backlog_.begin() + std::ptrdiff_t(done));
}

// --- Operation

Error Operation::error() const {
    return Error{-result_, request_.what};
}

bool Operation::begin() noexcept {
    TaskContext *const context = promise_->context;
    if (context && context->cancelled) {
        result_ = -ECANCELED;
        if (!fails_)
            return false;
        promise_->error.emplace(error());
        Promise::complete(promise_);
        return true;
    }
    if (context)
        context->waiting = this;
    loop_.submit(*this);
    return true;
}

void Operation::complete(int result) noexcept {
    // The process was stopped and goes on: that is nobody's business but ours.
    if (result == -EINTR && !(promise_->context && promise_->context->cancelled))
        return loop_.submit(*this);
    if (promise_->context)
        promise_->context->waiting = nullptr;
    result_ = request_.opcode == IORING_OP_TIMEOUT && result == -ETIME ? 0 : result;
    if (fails_ && result_ < 0) {
        promise_->error.emplace(error());
        Promise::complete(promise_);
    } else {
        waiter_.resume();
    }
}

void Operation::cancel() noexcept {
    loop_.submit_cancel(*this);
}

// --- the operations

namespace {
u64 address(const void *p) {
    return reinterpret_cast<u64>(p);
}
} // namespace

Operation Loop::read(int fd, std::span<u8> into, u64 at) {
    return {*this,
            {IORING_OP_READ, fd, address(into.data()), clamp_length(into.size()), at, 0, "read"}};
}
Operation Loop::write(int fd, std::span<const u8> from, u64 at) {
    return {*this,
            {IORING_OP_WRITE, fd, address(from.data()), clamp_length(from.size()), at, 0, "write"}};
}
Operation Loop::readv(int fd, std::span<const iovec> into, u64 at) {
    return {*this, {IORING_OP_READV, fd, address(into.data()), u32(into.size()), at, 0, "read"}};
}
Operation Loop::writev(int fd, std::span<const iovec> from, u64 at) {
    return {*this, {IORING_OP_WRITEV, fd, address(from.data()), u32(from.size()), at, 0, "write"}};
}
Operation Loop::receive(int fd, std::span<u8> into, int flags) {
    return {*this,
            {IORING_OP_RECV, fd, address(into.data()), clamp_length(into.size()), 0, u32(flags),
             "receive"}};
}
Operation Loop::send(int fd, std::span<const u8> from, int flags) {
    return {*this,
            {IORING_OP_SEND, fd, address(from.data()), clamp_length(from.size()), 0,
             u32(flags) | MSG_NOSIGNAL, "send"}};
}
Operation Loop::accept(int fd) {
    return {*this, {IORING_OP_ACCEPT, fd, 0, 0, 0, SOCK_CLOEXEC, "accept"}};
}
Operation Loop::connect(int fd, const sockaddr &to, u32 length) {
    return {*this, {IORING_OP_CONNECT, fd, address(&to), 0, length, 0, "connect"}};
}
Operation Loop::poll(int fd, unsigned events) {
    return {*this, {IORING_OP_POLL_ADD, fd, 0, 0, 0, events, "poll"}};
}
Operation Loop::open(int directory, const char *path, int flags, unsigned mode) {
    return {*this,
            {IORING_OP_OPENAT, directory, address(path), mode, 0, u32(flags) | O_CLOEXEC, "open"}};
}
Operation Loop::close(int fd) {
    return {*this, {IORING_OP_CLOSE, fd, 0, 0, 0, 0, "close"}};
}
Operation Loop::sync(int fd, bool data_only) {
    return {*this, {IORING_OP_FSYNC, fd, 0, 0, 0, data_only ? IORING_FSYNC_DATASYNC : 0u, "fsync"}};
}
Operation Loop::allocate(int fd, int mode, u64 offset, u64 length) {
    return {*this, {IORING_OP_FALLOCATE, fd, length, u32(mode), offset, 0, "fallocate"}};
}
Operation Loop::sleep(i64 nanoseconds) {
    Operation op{*this, {IORING_OP_TIMEOUT, -1, 0, 1, 0, 0, "sleep"}};
    const i64 n = std::max<i64>(nanoseconds, 0);
    op.duration_ = {n / 1'000'000'000, n % 1'000'000'000};
    return op;
}

Task<> write_all(Loop &loop, int fd, std::span<const u8> from, u64 at) {
    while (!from.empty()) {
        const int n = co_await loop.write(fd, from, at);
        if (n == 0)
            co_await raise(EIO, "write: no progress");
        from = from.subspan(usize(n));
        if (at != Loop::at_cursor)
            at += u64(n);
    }
}

Task<> read_all(Loop &loop, int fd, std::span<u8> into, u64 at) {
    while (!into.empty()) {
        const int n = co_await loop.read(fd, into, at);
        if (n == 0)
            co_await raise(EIO, "read: end of file");
        into = into.subspan(usize(n));
        if (at != Loop::at_cursor)
            at += u64(n);
    }
}

} // namespace rhea::loop
