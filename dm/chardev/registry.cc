#include "dm/chardev/registry.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "dm/config/typed.h"
#include "dm/core/config_error.h"
#include "dm/core/log.h"

namespace rhea::chardev {

/// Every key of every kind; which kind takes which is checked in make().
struct CharBackends::Fields {
    std::string id{};
    std::string path{};
    std::string host{};
    std::string port{};
    bool mux = false;
    bool signal = true;
    bool append = false;
    bool server = false;
    bool wait = true;
    bool nodelay = false;
    static constexpr auto fields() {
        using F = Fields;
        return describe<F>(
            Field<&F::id>{.help = "the name that devices refer to"},
            Field<&F::path>{.help = "file, FIFO or socket"}, Field<&F::host>{.help = "TCP host"},
            Field<&F::port>{.help = "TCP port"},
            Field<&F::mux>{.help = "escape keys, Ctrl-A first (stdio)"},
            Field<&F::signal>{.help =
                                  "Ctrl-C ends the program instead of going to the guest (stdio)"},
            Field<&F::append>{.help = "do not empty the file first"},
            Field<&F::server>{.help = "listen instead of connecting"},
            Field<&F::wait>{.help = "wait for the other side before the guest starts"},
            Field<&F::nodelay>{.help = "send small packets at once (TCP)"});
    }
};

namespace {

constexpr std::array<std::string_view, 6> kinds{"stdio", "null", "file", "pipe", "pty", "socket"};

[[noreturn]] void fail_with_errno(const std::string &what) {
    throw ConfigError(what + ": " + std::strerror(errno));
}

bool open_for(int fd, int direction) {
    const int flags = ::fcntl(fd, F_GETFL);
    return flags >= 0 && ((flags & O_ACCMODE) == O_RDWR || (flags & O_ACCMODE) == direction);
}

int listening(int fd, const sockaddr *address, socklen_t length, const std::string &what) {
    const int one = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (::bind(fd, address, length) != 0 || ::listen(fd, 8) != 0) {
        ::close(fd);
        fail_with_errno("cannot listen on " + what);
    }
    return fd;
}

int first_client(int fd, const std::string &what) {
    RHEA_LOG(info, "waiting for a connection on %s", what.c_str());
    int peer;
    do
        peer = ::accept4(fd, nullptr, nullptr, SOCK_CLOEXEC);
    while (peer < 0 && errno == EINTR);
    if (peer < 0)
        fail_with_errno("accept on " + what);
    return peer;
}

int unix_socket(const std::string &path, bool server) {
    sockaddr_un a{};
    a.sun_family = AF_UNIX;
    if (path.size() >= sizeof a.sun_path)
        throw ConfigError("'" + path + "' is too long for a socket (at most " +
                          std::to_string(sizeof a.sun_path - 1) + " bytes)");
    std::memcpy(a.sun_path, path.data(), path.size());
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail_with_errno("socket");
    if (server) {
        ::unlink(path.c_str());
        return listening(fd, reinterpret_cast<sockaddr *>(&a), sizeof a, path);
    }
    if (::connect(fd, reinterpret_cast<sockaddr *>(&a), sizeof a) != 0) {
        ::close(fd);
        fail_with_errno("cannot connect to " + path);
    }
    return fd;
}

int tcp_socket(const std::string &host, const std::string &port, bool server, bool no_delay) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = server ? AI_PASSIVE : 0;
    const std::string where = host + ":" + port;
    if (const int e =
            ::getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found))
        throw ConfigError(where + ": " + ::gai_strerror(e));
    const std::unique_ptr<addrinfo, void (*)(addrinfo *)> owner(found, ::freeaddrinfo);
    int fd = ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        fail_with_errno("socket");
    if (server) {
        fd = listening(fd, found->ai_addr, found->ai_addrlen, where);
    } else if (::connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        ::close(fd);
        fail_with_errno("cannot connect to " + where);
    }
    const int one = no_delay;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

int open_file(const std::string &path, int flags) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (fd < 0)
        fail_with_errno("cannot open '" + path + "'");
    return fd;
}

constexpr const char *no_waiting =
    "wait=off: a device's server waits for its client in this version; leave it out";

/// How a back end is shown in lists.
std::string filename(std::string_view kind, const std::string &path, const std::string &host,
                     const std::string &port) {
    std::string out(kind == "socket" ? path.empty() ? "tcp" : "unix" : kind);
    if (!path.empty())
        out += ":" + path;
    else if (!port.empty())
        out += ":" + host + ":" + port;
    return out;
}

} // namespace

CharBackends::Entry CharBackends::stream(StreamBackend::Setup setup) {
    auto s = std::make_unique<StreamBackend>(loop_, setup);
    StreamBackend *const raw = s.get();
    return {std::move(s), raw};
}

CharBackends::Entry CharBackends::make_stdio(const Fields &f, const std::string &label) {
    if (std::exchange(stdio_used_, true))
        throw ConfigError(
            "standard input and output are in use already; one back end can have them");
    terminal_ = std::make_unique<Terminal>(f.signal);
    // A descriptor that the caller has closed may be anything by now, but not open for this.
    Entry e = stream({.name = label,
                      .in = open_for(STDIN_FILENO, O_RDONLY) ? STDIN_FILENO : -1,
                      .out = open_for(STDOUT_FILENO, O_WRONLY) ? STDOUT_FILENO : -1,
                      .owned = false,
                      .escape = f.mux,
                      .quit = quit_});
    stdio_ = e.stream;
    if (f.mux)
        shared_terminal_ = e.stream;
    return e;
}

void CharBackends::release_terminal() noexcept {
    if (terminal_)
        terminal_->restore();
}

void CharBackends::take_terminal_back() {
    if (!terminal_ || !terminal_->active())
        return;
    terminal_->raw();
    if (stdio_)
        stdio_->restart_input();
}

CharBackends::Entry CharBackends::make(std::string_view kind, const Fields &f,
                                       const std::string &label) {
    const auto need = [&](const std::string &value, const char *key) {
        if (value.empty())
            throw ConfigError(std::string(kind) + " needs " + key + "=");
    };
    if (kind == "stdio")
        return make_stdio(f, label);
    if (kind == "null")
        return {std::make_unique<NullBackend>()};
    if (kind == "file") {
        need(f.path, "path");
        const int mode = O_WRONLY | O_CREAT | (f.append ? O_APPEND : O_TRUNC);
        return stream({.name = label, .out = open_file(f.path, mode), .owned = true});
    }
    if (kind == "pipe") {
        need(f.path, "path");
        if (::access((f.path + ".in").c_str(), F_OK) == 0)
            return stream({.name = label,
                           .in = open_file(f.path + ".in", O_RDWR),
                           .out = open_file(f.path + ".out", O_RDWR),
                           .owned = true});
        const int fd = open_file(f.path, O_RDWR);
        return stream({.name = label, .in = fd, .out = fd, .owned = true});
    }
    if (kind == "pty") {
        const int fd = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (fd < 0 || ::grantpt(fd) != 0 || ::unlockpt(fd) != 0)
            fail_with_errno("pty");
        // The other end stays open here as well, raw: without that, each program that leaves it
        // would hang it up.
        const int other = open_file(::ptsname(fd), O_RDWR | O_NOCTTY);
        termios t{};
        ::tcgetattr(other, &t);
        ::cfmakeraw(&t);
        ::tcsetattr(other, TCSANOW, &t);
        RHEA_LOG(info, "%s is on %s", label.c_str(), ::ptsname(fd));
        return stream(
            {.name = label, .in = fd, .out = fd, .owned = true, .kept = other, .lossy = true});
    }
    if (kind == "socket") {
        if (f.path.empty() && f.port.empty())
            throw ConfigError("socket needs path= (Unix) or port= (TCP)");
        int fd = f.path.empty() ? tcp_socket(f.host, f.port, f.server, f.nodelay)
                                : unix_socket(f.path, f.server);
        if (f.server && !f.wait)
            return {.backend = nullptr, .listening = fd, .path = f.path};
        if (f.server) {
            const int socket = fd;
            fd = first_client(socket, f.path.empty() ? f.host + ":" + f.port : f.path);
            ::close(socket);
        }
        return stream({.name = label, .in = fd, .out = fd, .owned = true});
    }
    const std::string hint = config::did_you_mean(kind, kinds);
    throw ConfigError("unknown kind of back end '" + std::string(kind) + "'" +
                      (hint.empty() ? " (there are: " + config::join(kinds) + ")" : hint));
}

struct CharBackends::Parsed {
    std::string_view kind;
    Fields fields;
};

void CharBackends::add(std::string_view specification) {
    const usize comma = specification.find(',');
    const std::string_view kind = specification.substr(0, comma);
    const auto fields = config::parse_options<Fields>(
        comma == std::string_view::npos ? "" : specification.substr(comma + 1));
    if (fields.id.empty())
        throw ConfigError("id= is missing: " + std::string(kind) + ",id=NAME");
    if (entries_.contains(fields.id))
        throw ConfigError("id '" + fields.id + "' is in use already");
    Entry entry = make(kind, fields, fields.id);
    entry.label = fields.id;
    entry.filename = filename(kind, fields.path, fields.host, fields.port);
    entries_.emplace(fields.id, std::move(entry));
}

/// "unix:/tmp/s,server=on,wait=off", "file:log", "mon:stdio".
CharBackends::Parsed CharBackends::parse(std::string_view text) const {
    const auto after = [&](std::string_view prefix) -> std::string {
        return std::string(text.substr(prefix.size()));
    };
    Parsed p{text, {}};
    Fields &f = p.fields;
    if (text == "mon:stdio") {
        p.kind = "stdio";
        f.mux = true;
        f.signal = false;
    } else if (text.starts_with("file:")) {
        p.kind = "file";
        f.path = after("file:");
    } else if (text.starts_with("pipe:")) {
        p.kind = "pipe";
        f.path = after("pipe:");
    } else if (text.starts_with("unix:") || text.starts_with("tcp:")) {
        const bool is_unix = text.starts_with("unix:");
        p.kind = "socket";
        const std::string rest = after(is_unix ? "unix:" : "tcp:");
        const usize comma = rest.find(',');
        const std::string address = rest.substr(0, comma);
        const usize colon = address.rfind(':');
        if (is_unix) {
            f.path = address;
        } else if (colon != std::string::npos) {
            f.host = address.substr(0, colon);
            f.port = address.substr(colon + 1);
        }
        for (const auto &item : config::split(
                 comma == std::string::npos ? "" : std::string_view(rest).substr(comma + 1)))
            if (item.key == "nowait")
                f.wait = false;
            else
                config::parse_into(f, item.key + "=" + item.value);
    }
    return p;
}

CharBackend *CharBackends::open(std::string_view text, const std::string &label) {
    if (text == "none")
        return nullptr;
    if (text.starts_with("chardev:"))
        return &take(text.substr(8));
    const Parsed p = parse(text);
    if (p.fields.server && !p.fields.wait)
        throw ConfigError(no_waiting);
    const std::string id = "#" + std::to_string(unnamed_++); // no id that a user can write
    Entry entry = make(p.kind, p.fields, label);
    entry.taken = true;
    entry.label = label;
    entry.filename = filename(p.kind, p.fields.path, p.fields.host, p.fields.port);
    return entries_.emplace(id, std::move(entry)).first->second.backend.get();
}

CharBackends::Entry &CharBackends::find(std::string_view id) {
    const auto i = entries_.find(id);
    if (i == entries_.end() || id.starts_with('#')) {
        std::vector<std::string_view> known;
        for (const auto &[name, entry] : entries_)
            if (!name.starts_with('#'))
                known.push_back(name);
        throw ConfigError("there is no -chardev with id '" + std::string(id) + "'" +
                          config::did_you_mean(id, known));
    }
    if (std::exchange(i->second.taken, true))
        throw ConfigError("-chardev '" + std::string(id) + "' is in use by another device already");
    return i->second;
}

CharBackend &CharBackends::take(std::string_view id) {
    Entry &entry = find(id);
    if (!entry.backend)
        throw ConfigError(no_waiting);
    return *entry.backend;
}

CharBackends::Endpoint CharBackends::open_endpoint(std::string_view text,
                                                   const std::string &label) {
    if (text.starts_with("chardev:"))
        return take_endpoint(text.substr(8));
    if (text == "none")
        return {};
    Parsed p = parse(text);
    if (p.kind != "socket" || !p.fields.server)
        return {.backend = open(text, label), .path = {}};
    const bool wait = std::exchange(p.fields.wait, false);
    const Entry entry = make(p.kind, p.fields, label);
    const int first = wait ? first_client(entry.listening, std::string(text)) : -1;
    Entry &info = entries_["#" + std::to_string(unnamed_++)];
    info.taken = true;
    info.label = label;
    info.filename = filename(p.kind, p.fields.path, p.fields.host, p.fields.port);
    return {.backend = nullptr, .listening = entry.listening, .first = first, .path = entry.path};
}

CharBackends::Endpoint CharBackends::take_endpoint(std::string_view id) {
    Entry &entry = find(id);
    if (entry.backend)
        return {.backend = entry.backend.get(), .path = {}};
    return {.backend = nullptr,
            .listening = std::exchange(entry.listening, -1),
            .path = std::move(entry.path)};
}

std::vector<CharBackends::Info> CharBackends::list() const {
    std::vector<Info> out;
    for (const auto &[id, entry] : entries_)
        out.push_back({entry.label, entry.filename});
    return out;
}

CharBackend *CharBackends::second_of_terminal() {
    return shared_terminal_ ? &shared_terminal_->second() : nullptr;
}

CharBackends::~CharBackends() {
    for (const auto &[id, entry] : entries_)
        if (entry.listening >= 0)
            ::close(entry.listening);
}

void CharBackends::flush() {
    for (auto &[id, entry] : entries_)
        if (entry.stream)
            entry.stream->flush();
}

} // namespace rhea::chardev
