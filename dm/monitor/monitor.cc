#include "dm/monitor/monitor.h"

#include <algorithm>
#include <chrono>
#include <unistd.h>

#include "dm/chardev/stream.h"
#include "dm/monitor/client.h"

namespace rhea::monitor {

namespace {
constexpr usize most_connections = 16; // on sockets; further ones wait in the socket's queue
}

struct Monitor::Listener {
    Listener(int fd, std::string p, Kind k, loop::Loop &loop)
        : socket(fd), path(std::move(p)), kind(k), room(loop) {}
    int socket;
    std::string path;
    Kind kind;
    loop::Event room;
};

struct Monitor::Connection {
    std::unique_ptr<chardev::StreamBackend> stream; // null: somebody else's back end
    std::unique_ptr<Client> client;                 // goes first
    bool finished = false;
};

struct Monitor::HumanLine {
    std::string command_line;
    std::optional<u64> cpu_index;
    static constexpr auto fields() {
        return describe<HumanLine>(Field<&HumanLine::command_line>{},
                                   Field<&HumanLine::cpu_index>{});
    }
};

Monitor::Monitor(loop::Loop &loop, Version version) : loop_(loop), version_(version), tasks_(loop) {
    add({{"qmp_capabilities", "ends the negotiation"},
         command<&Monitor::query_commands>("query-commands", *this, "the commands there are"),
         command<&Monitor::query_version>("query-version", *this, "the program's version"),
         command<&Monitor::human_monitor_command>("human-monitor-command", *this,
                                                  "a line for the human monitor")});
}

Monitor::~Monitor() {
    tasks_.cancel();
    static_cast<void>(tasks_.join()); // ended by being cancelled
    for (Connection &c : connections_)
        c.client.reset();
    connections_.clear();
    for (const Listener &l : listeners_) {
        ::close(l.socket);
        if (!l.path.empty())
            ::unlink(l.path.c_str());
    }
}

void Monitor::add(std::vector<Command> commands) {
    commands_.insert(commands_.end(), commands.begin(), commands.end());
    std::ranges::sort(commands_, {}, &Command::name);
    VERIFY(std::ranges::adjacent_find(commands_, {}, &Command::name) == commands_.end());
}

const Command *Monitor::find(std::string_view name) const noexcept {
    const auto i = std::ranges::lower_bound(commands_, name, {}, &Command::name);
    return i != commands_.end() && i->name == name ? &*i : nullptr;
}

std::string Monitor::nearest(std::string_view name) const {
    constexpr usize longest = 64; // what is longer is no typing error
    if (name.size() > longest)
        return {};
    std::vector<std::string_view> names;
    for (const Command &c : commands_)
        names.push_back(c.name);
    return config::did_you_mean(name, names);
}

Json Monitor::version() const {
    return {{"qemu", // the protocol's name for whoever speaks it
             {{"major", version_.major}, {"minor", version_.minor}, {"micro", version_.micro}}},
            {"package", version_.package}};
}

Json Monitor::error(const Error &e) {
    return {{"class", e.code == ENODEV ? "DeviceNotFound" : "GenericError"}, {"desc", e.what}};
}

Result<Json> Monitor::query_commands(const Nothing &) {
    Json out = Json::array();
    for (const Command &c : commands_)
        out.push_back({{"name", c.name}});
    return out;
}

Result<Json> Monitor::query_version(const Nothing &) {
    return version();
}

loop::Task<Json> Monitor::human_monitor_command(const HumanLine &line) {
    auto task = human(line.command_line);
    const Result<std::string> text = co_await task.caught();
    co_return Json(text ? *text : "Error: " + text.error().what + "\n");
}

void Monitor::event(std::string_view name, Json data) {
    using namespace std::chrono;
    const auto now = duration_cast<microseconds>(system_clock::now().time_since_epoch()).count();
    Json message{{"event", name},
                 {"timestamp", {{"seconds", now / 1'000'000}, {"microseconds", now % 1'000'000}}}};
    if (!data.is_null())
        message["data"] = std::move(data);
    const std::string line = message.dump(-1, ' ', false, Json::error_handler_t::replace) + "\r\n";
    for (Connection &c : connections_)
        c.client->event(line);
}

// --- who is connected

void Monitor::attach(chardev::CharBackend &backend, Kind kind) {
    Connection &c = connections_.emplace_back();
    if (kind == Kind::control)
        c.client = std::make_unique<ControlClient>(*this, loop_, backend, -1);
    else
        c.client = std::make_unique<HumanClient>(*this, loop_, backend, -1, backend.shared());
    c.client->start();
}

void Monitor::connect(int fd, Kind kind) {
    Connection &c = connections_.emplace_back();
    c.stream = std::make_unique<chardev::StreamBackend>(
        loop_,
        chardev::StreamBackend::Setup{.name = "monitor", .in = fd, .out = fd, .owned = true});
    if (kind == Kind::control)
        c.client = std::make_unique<ControlClient>(*this, loop_, *c.stream, fd);
    else
        c.client = std::make_unique<HumanClient>(*this, loop_, *c.stream, fd, false);
    c.client->start();
    tasks_.spawn(finish(c));
}

loop::Task<> Monitor::finish(Connection &connection) {
    co_await connection.client->left().wait();
    auto sending = connection.stream->drained();
    co_await std::move(sending);
    connection.finished = true;
}

void Monitor::listen(int socket, std::string path, Kind kind, int first) {
    listeners_.emplace_back(socket, std::move(path), kind, loop_);
    if (first >= 0)
        connect(first, kind);
    tasks_.spawn(accept_clients(listeners_.back()));
}

loop::Task<> Monitor::accept_clients(Listener &listener) {
    for (;;) {
        while (connections_.size() >= most_connections)
            co_await listener.room.wait();
        const Result<int> fd = co_await loop_.accept(listener.socket).caught();
        if (fd)
            connect(*fd, listener.kind);
        else if (fd.error().code == ECANCELED)
            co_return;
        else // too many open files, or the client has left already
            co_await loop_.sleep(100'000'000);
    }
}

void Monitor::collect() noexcept {
    const auto gone = [](const Connection &c) { return c.finished; };
    for (Connection &c : connections_)
        if (c.finished)
            c.client.reset();
    if (connections_.remove_if(gone))
        for (Listener &l : listeners_)
            l.room.set();
}

loop::Task<> Monitor::wait_sent() {
    for (int tries = 0; tries < 100; ++tries) {
        bool all = true;
        for (Connection &c : connections_)
            all &= c.client->sent() && (!c.stream || c.stream->idle());
        if (all)
            co_return;
        co_await loop_.sleep(10'000'000);
    }
}

void Monitor::flush() {
    static_cast<void>(loop_.block_on(wait_sent()));
}

} // namespace rhea::monitor
