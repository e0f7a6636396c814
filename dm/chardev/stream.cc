#include "dm/chardev/stream.h"

#include <algorithm>
#include <chrono>
#include <poll.h>
#include <unistd.h>

#include "dm/core/log.h"

namespace rhea::chardev {

namespace {
constexpr usize output_capacity = 64 << 10;
constexpr usize read_ahead = 64 << 10;
constexpr auto patience = std::chrono::seconds(1);

bool readable(int fd) noexcept {
    pollfd p{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&p, 1, 0) > 0;
}
} // namespace

StreamBackend::StreamBackend(loop::Loop &loop, const Setup &setup)
    : loop_(loop), setup_(setup), output_wanted_(loop), idle_(loop), output_kick_(output_wanted_),
      input_wanted_(loop), input_room_(loop), input_kick_(input_wanted_), writers_(loop),
      readers_(loop), inputs_(loop) {
    output_.with([&](Output &o) {
        o.ring.resize(output_capacity);
        o.gone = setup_.out < 0;
    });
    if (setup_.out >= 0)
        writers_.spawn(run_output());
}

StreamBackend::~StreamBackend() {
    detach();
    writers_.cancel();
    static_cast<void>(writers_.join()); // ended by being cancelled
    while (output_kick_.posted.load() || input_kick_.posted.load())
        loop_.turn(false); // they are members, and still in the loop's queue
    if (setup_.owned) {
        if (setup_.in >= 0)
            ::close(setup_.in);
        if (setup_.out >= 0 && setup_.out != setup_.in)
            ::close(setup_.out);
        if (setup_.kept >= 0)
            ::close(setup_.kept);
    }
}

void StreamBackend::attach(CharFrontend &frontend) {
    VERIFY(!first_.frontend);
    first_.frontend = &frontend;
    readers_.spawn(run_delivery());
    if (setup_.in >= 0)
        inputs_.spawn(run_input());
}

void StreamBackend::restart_input() {
    if (!first_.frontend || setup_.in < 0 || inputs_.empty())
        return; // not begun, or at its end
    inputs_.cancel();
    inputs_.spawn(run_input());
}

void StreamBackend::detach() noexcept {
    inputs_.cancel();
    readers_.cancel();
    static_cast<void>(inputs_.join()); // failed as cancelled
    static_cast<void>(readers_.join());
    first_.frontend = nullptr;
}

void StreamBackend::kick(Kick &k) noexcept {
    if (!k.posted.exchange(true, std::memory_order_acq_rel))
        loop_.post(k);
}

// --- output

usize StreamBackend::enqueue(Output &o, std::span<const u8> bytes) noexcept {
    if (o.gone)
        return bytes.size();
    const usize n = std::min(bytes.size(), o.ring.size() - o.count);
    const usize tail = (o.head + o.count) % o.ring.size();
    const usize first = std::min(n, o.ring.size() - tail);
    std::copy_n(bytes.begin(), first, o.ring.begin() + std::ptrdiff_t(tail));
    std::copy_n(bytes.begin() + std::ptrdiff_t(first), n - first, o.ring.begin());
    o.count += n;
    return n;
}

usize StreamBackend::write(std::span<const u8> bytes) noexcept {
    usize n = 0;
    bool start = false;
    output_.with([&](Output &o) {
        n = enqueue(o, bytes);
        if (setup_.lossy)
            n = bytes.size();
        o.refused |= n < bytes.size();
        start = o.count && !std::exchange(o.draining, true);
    });
    if (start)
        kick(output_kick_);
    return n;
}

bool StreamBackend::write_waiting(std::span<const u8> bytes) noexcept {
    for (;;) {
        bytes = bytes.subspan(write(bytes));
        if (bytes.empty())
            return true;
        auto o = output_.lock();
        const u64 before = o->written;
        if (!progress_.wait_for(o.lock(), patience,
                                [&] { return o->written != before || o->gone; }))
            return false;
    }
}

/// The longest run of bytes that lies together; empty: the device has to kick again.
std::span<const u8> StreamBackend::next_output() noexcept {
    return output_.with([](Output &o) -> std::span<const u8> {
        if (!o.count) {
            o.draining = false;
            return {};
        }
        return std::span(o.ring).subspan(o.head, std::min(o.count, o.ring.size() - o.head));
    });
}

void StreamBackend::written(usize n, bool gone) noexcept {
    bool tell = false;
    output_.with([&](Output &o) {
        o.gone |= gone;
        if (o.gone)
            n = o.count;
        o.head = (o.head + n) % o.ring.size();
        o.count -= n;
        o.written += n;
        tell = std::exchange(o.refused, false);
    });
    progress_.notify_all();
    for (const Reader *r : {&first_, &second_})
        if (tell && r->frontend)
            r->frontend->writable();
}

loop::Task<> StreamBackend::run_output() {
    for (;;) {
        const std::span<const u8> part = next_output();
        if (part.empty()) {
            idle_.set();
            co_await output_wanted_.wait();
            continue;
        }
        const auto r = co_await loop_.write(setup_.out, part).caught();
        if (r) {
            written(usize(*r), false);
        } else if (r.error().code == EAGAIN) { // somebody else made the description non-blocking
            co_await loop_.poll(setup_.out, POLLOUT);
        } else if (r.error().code == ECANCELED) {
            co_return;
        } else if (r.error().code != EINTR) {
            if (r.error().code != EPIPE)
                RHEA_LOG(warning, "%s: output is lost from here on: %s", setup_.name.c_str(),
                         to_string(r.error()).c_str());
            written(0, true);
            idle_.set();
            co_return;
        }
    }
}

loop::Task<> StreamBackend::wait_idle() {
    while (output_.with([](Output &o) { return o.count != 0; }))
        co_await idle_.wait();
}

void StreamBackend::flush() {
    static_cast<void>(loop_.block_on(wait_idle()));
}

// --- input

void StreamBackend::resume_input() noexcept {
    kick(input_kick_);
}

void StreamBackend::command(Escape::Command command) noexcept {
    if (command == Escape::Command::quit)
        setup_.quit();
    if (command == Escape::Command::help)
        write({reinterpret_cast<const u8 *>(Escape::help.data()), Escape::help.size()});
    if (command == Escape::Command::change && second_.frontend) {
        to_second_ = !to_second_;
        if (CharFrontend *const now = (to_second_ ? second_ : first_).frontend)
            now->shown();
    }
}

void StreamBackend::typed(std::span<const u8> bytes) noexcept {
    for (const u8 byte : bytes) {
        const Escape::Key key = setup_.escape ? escape_.type(byte) : Escape::Key{byte};
        if (key.data)
            (to_second_ && second_.frontend ? second_ : first_).typed_ahead.push_back(*key.data);
        if (key.command != Escape::Command::none)
            command(key.command);
    }
}

void StreamBackend::deliver(Reader &r) noexcept {
    std::array<u8, 256> part;
    while (r.frontend && !r.typed_ahead.empty()) {
        const usize n = std::min({r.typed_ahead.size(), part.size(), r.frontend->room()});
        if (!n)
            return;
        const auto end = r.typed_ahead.begin() + std::ptrdiff_t(n);
        std::copy(r.typed_ahead.begin(), end, part.begin());
        r.typed_ahead.erase(r.typed_ahead.begin(), end);
        r.frontend->receive(std::span(part).first(n));
        if (r.typed_ahead.size() < read_ahead)
            input_room_.set();
    }
}

loop::Task<> StreamBackend::run_delivery() {
    for (bool told = false;;) {
        deliver(first_);
        deliver(second_);
        if (ended_ && first_.typed_ahead.empty() && !std::exchange(told, true))
            first_.frontend->closed();
        co_await input_wanted_.wait();
    }
}

loop::Task<> StreamBackend::run_input() {
    std::array<u8, 4096> buffer;
    for (;;) {
        while (first_.typed_ahead.size() + second_.typed_ahead.size() >= read_ahead)
            co_await input_room_.wait();
        // Terminals cannot be read without blocking a kernel worker: wait for input first.
        co_await loop_.poll(setup_.in, POLLIN);
        // A change of the terminal's settings wakes too, and a read begun then would miss what is
        // typed later.
        if (!readable(setup_.in))
            continue;
        const auto r = co_await loop_.read(setup_.in, buffer).caught();
        if (!r && (r.error().code == EAGAIN || r.error().code == EINTR))
            continue;
        if (!r && r.error().code == ECANCELED)
            co_return;
        if (!r || *r == 0) { // closed or hung up: the guest gets no more input
            ended_ = true;
            input_wanted_.set();
            co_return;
        }
        typed(std::span(buffer).first(usize(*r)));
        input_wanted_.set();
    }
}

} // namespace rhea::chardev
