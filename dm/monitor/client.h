#pragma once
// Client: one who talks to the monitor, over a character back end. Owned by the Monitor, on the
// main loop's thread. ControlClient speaks JSON, HumanClient has a prompt.
//
// Input that was taken is dealt with by one task, step by step: a command that waits holds up its
// own client alone. Input is asked for again when all of it is dealt with and every answer is in
// the back end's hands.
#include "dm/chardev/chardev.h"
#include "dm/loop/event.h"
#include "dm/loop/task_group.h"
#include "dm/monitor/monitor.h"
#include "dm/monitor/splitter.h"

namespace rhea::monitor {

class Client : public chardev::CharFrontend {
public:
    /// `socket`: what to shut down if it does not read, or -1.
    Client(Monitor &monitor, loop::Loop &loop, chardev::CharBackend &backend, int socket);
    virtual ~Client();
    Client(const Client &) = delete;
    Client &operator=(const Client &) = delete;

    /// After the constructor: says hello and begins.
    void start();
    virtual void event(std::string_view line) = 0;
    /// Everything is with the back end.
    bool sent() const noexcept { return outbox_.empty(); }
    /// The end of its input has been reached and dealt with.
    loop::Event &left() noexcept { return left_; }

    usize room() noexcept override;
    void receive(std::span<const u8> bytes) noexcept override;
    void writable() noexcept override;
    void closed() noexcept override;

protected:
    virtual void hello() = 0;
    /// Deals with some of `input_`: at most one command.
    virtual loop::Task<> step() = 0;
    void send(std::string_view text);

    Monitor &monitor_;
    std::string input_;

private:
    loop::Task<> serve();

    static constexpr usize read_at_once = 16 << 10, most_unsent = 256 << 10;
    chardev::CharBackend &backend_;
    const int socket_;
    std::string outbox_;
    bool closed_ = false, cut_off_ = false;
    loop::Event wanted_, sent_, left_;
    loop::TaskGroup tasks_;
};

class ControlClient final : public Client {
public:
    using Client::Client;
    void event(std::string_view line) override;

private:
    struct Request;
    void hello() override;
    loop::Task<> step() override;
    Request parse(const Splitter::Item &item) const;
    Result<> negotiate(const Json &arguments);
    void reply(const Json &message);

    Splitter splitter_;
    bool negotiated_ = false;
};

class HumanClient final : public Client {
public:
    /// `shared`: the terminal is somebody else's until shown().
    HumanClient(Monitor &monitor, loop::Loop &loop, chardev::CharBackend &backend, int socket,
                bool shared);
    void event(std::string_view) override {}
    void shown() noexcept override;

private:
    void hello() override;
    loop::Task<> step() override;
    /// A key; true: the line is complete.
    bool type(char c);

    static constexpr usize longest_line = 4096;
    const bool shared_;
    bool greeted_ = false;
    std::string line_, echo_;
    u8 escape_ = 0;     // 1: after ESC, 2: inside a control sequence
    char previous_ = 0; // CR LF is one end of line
};

} // namespace rhea::monitor
