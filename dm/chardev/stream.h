#pragma once
// StreamBackend: a character back end over descriptors: terminal, file, pipe, connected socket.
//
// Lives on the main loop. Output waits in a ring of 64 KiB that the loop writes out; input is read
// ahead up to 64 KiB, so that the escape keys work while the guest does not listen, and handed over
// as the device has room. A terminal can have a second front end, the monitor: Ctrl-A c changes
// which of the two gets what is typed; both may write. End of input ends the input and nothing
// else. When the other side of the output goes away, output is discarded.
#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <string>
#include <vector>

#include "dm/chardev/chardev.h"
#include "dm/chardev/escape.h"
#include "dm/core/callback.h"
#include "dm/core/guarded.h"
#include "dm/loop/event.h"
#include "dm/loop/task_group.h"

namespace rhea::chardev {

class StreamBackend : public CharBackend {
public:
    struct Setup {
        std::string name;   // for messages: "serial0"
        int in = -1;        // -1: no input
        int out = -1;       // -1: output is discarded
        bool owned = false; // close the descriptors in the end
        int kept = -1;      // another one to close with them
        bool lossy =
            false; // a pseudo-terminal that nobody may ever read: what does not fit is lost
        bool escape = false;
        Callback quit{}; // Ctrl-A x; on the loop's thread
    };
    StreamBackend(loop::Loop &loop, const Setup &setup);
    ~StreamBackend() override;

    usize write(std::span<const u8> bytes) noexcept override;
    bool write_waiting(std::span<const u8> bytes) noexcept override;
    void resume_input() noexcept override;
    void attach(CharFrontend &frontend) override;
    void detach() noexcept override;

    /// The loop's thread: waits for input afresh, after the terminal's settings were changed. The
    /// kernel's pending poll is woken by the change, finds nothing, and (seen with Linux 6.18) does
    /// not wake again.
    void restart_input();
    /// The loop's thread, turning the loop: returns when all output has been written or has lost
    /// its reader.
    void flush();
    /// The same as a task of the loop.
    loop::Task<> drained() { return wait_idle(); }
    /// The loop's thread: nothing is waiting to be written.
    bool idle() {
        return output_.with([](Output &o) { return o.count == 0; });
    }
    /// The other side of a terminal with escape keys. It goes before this.
    CharBackend &second() noexcept { return second_side_; }

private:
    class SecondSide final : public CharBackend {
    public:
        explicit SecondSide(StreamBackend &stream) : stream_(stream) {}
        usize write(std::span<const u8> bytes) noexcept override { return stream_.write(bytes); }
        bool write_waiting(std::span<const u8> bytes) noexcept override {
            return stream_.write_waiting(bytes);
        }
        void resume_input() noexcept override { stream_.resume_input(); }
        void attach(CharFrontend &frontend) override { stream_.second_.frontend = &frontend; }
        void detach() noexcept override { stream_.second_ = {}; }
        bool shared() const noexcept override { return true; }

    private:
        StreamBackend &stream_;
    };
    struct Reader {
        CharFrontend *frontend = nullptr;
        std::deque<u8> typed_ahead{};
    };
    struct Output {
        std::vector<u8> ring;
        usize head = 0, count = 0;
        bool draining = false; // the loop knows that there is something
        bool refused = false;  // the device waits for writable()
        bool gone = false;     // nobody reads any more
        u64 written = 0;       // in all: progress, for write_waiting
    };
    class Kick final : public loop::Work {
    public:
        explicit Kick(loop::Event &event) : event_(event) {}
        void run() noexcept override {
            posted.store(false, std::memory_order_release);
            event_.set();
        }
        std::atomic<bool> posted{false};

    private:
        loop::Event &event_;
    };

    usize enqueue(Output &o, std::span<const u8> bytes) noexcept;
    std::span<const u8> next_output() noexcept;
    void written(usize n, bool gone) noexcept;
    void kick(Kick &k) noexcept;
    void typed(std::span<const u8> bytes) noexcept;
    void command(Escape::Command command) noexcept;
    void deliver(Reader &reader) noexcept;

    loop::Task<> run_output();
    loop::Task<> run_input();
    loop::Task<> run_delivery();
    loop::Task<> wait_idle();

    loop::Loop &loop_;
    Setup setup_;
    Reader first_, second_;
    SecondSide second_side_{*this};
    bool to_second_ = false; // what is typed
    bool ended_ = false;     // the input

    Guarded<Output> output_;
    std::condition_variable progress_;
    loop::Event output_wanted_, idle_;
    Kick output_kick_;

    Escape escape_;
    loop::Event input_wanted_, input_room_;
    Kick input_kick_;

    loop::TaskGroup writers_, readers_, inputs_;
};

} // namespace rhea::chardev
