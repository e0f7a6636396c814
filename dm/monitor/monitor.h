#pragma once
// Monitor: what its clients have in common. The commands, the events, and who is connected.
//
// Owned by the program, on the main loop's thread alone. Machine control protocol: JSON messages in
// both directions as management programs speak it ("QMP": greeting, capabilities negotiation,
// execute/arguments/id, return or error, events); and on top of the same commands a small prompt
// for people (human.h). A client is a front end of a character back end: the terminal, or a
// connection that a listening socket took.
//
// A client is answered in the order it asked, and one that does not read its answers is not
// listened to meanwhile. Events for it wait up to 256 KiB; then it is disconnected.
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dm/chardev/chardev.h"
#include "dm/loop/task_group.h"
#include "dm/monitor/command.h"

namespace rhea::chardev {
class StreamBackend;
}

namespace rhea::monitor {

struct Version {
    unsigned major = 0, minor = 0, micro = 0;
    std::string_view package;
};

class Client;

class Monitor {
public:
    Monitor(loop::Loop &loop, Version version);
    ~Monitor();
    Monitor(const Monitor &) = delete;
    Monitor &operator=(const Monitor &) = delete;

    void add(std::vector<Command> commands);
    const std::vector<Command> &commands() const noexcept { return commands_; }
    const Command *find(std::string_view name) const noexcept;
    /// ", did you mean 'query-status'?" or ""
    std::string nearest(std::string_view name) const;
    Json version() const;
    /// What a client gets for a failed command.
    static Json error(const Error &error);

    /// Tells every client that has negotiated.
    void event(std::string_view name, Json data = nullptr);

    enum class Kind : u8 { control, human };
    /// A client for as long as the monitor lives.
    void attach(chardev::CharBackend &backend, Kind kind);
    /// Clients come and go on a listening socket, which the monitor closes; `path`, if it has one,
    /// is removed then. `first`: one that was taken already, or -1.
    void listen(int socket, std::string path, Kind kind, int first = -1);

    /// Outside of any task: lets go of the clients that have left. Call it after turning the loop.
    void collect() noexcept;
    /// Outside of any task, turning the loop: waits until every answer is sent, a second at most.
    void flush();

    /// The human monitor's commands; see human.h.
    loop::Task<std::string> human(std::string_view line);

private:
    friend class Client;
    struct Listener;
    struct Connection;

    Result<Json> query_commands(const Nothing &);
    Result<Json> query_version(const Nothing &);
    struct HumanLine;
    loop::Task<Json> human_monitor_command(const HumanLine &line);

    void connect(int fd, Kind kind);
    loop::Task<> accept_clients(Listener &listener);
    loop::Task<> finish(Connection &connection);
    loop::Task<> wait_sent();

    loop::Loop &loop_;
    const Version version_;
    std::vector<Command> commands_; // sorted by name
    std::list<Listener> listeners_;
    std::list<Connection> connections_;
    loop::TaskGroup tasks_;
};

} // namespace rhea::monitor
