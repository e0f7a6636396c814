#include "dm/monitor/client.h"

#include <algorithm>
#include <sys/socket.h>

#include "dm/core/log.h"

namespace rhea::monitor {

Client::Client(Monitor &monitor, loop::Loop &loop, chardev::CharBackend &backend, int socket)
    : monitor_(monitor), backend_(backend), socket_(socket), wanted_(loop), sent_(loop),
      left_(loop), tasks_(loop) {}

Client::~Client() {
    backend_.detach();
    tasks_.cancel();
    static_cast<void>(tasks_.join()); // ended by being cancelled
}

void Client::start() {
    backend_.attach(*this);
    hello();
    tasks_.spawn(serve());
}

void Client::send(std::string_view text) {
    if (cut_off_)
        return;
    outbox_ += text;
    writable();
    if (outbox_.size() <= most_unsent)
        return;
    RHEA_LOG(warning, "monitor: a client that does not read is cut off");
    cut_off_ = true;
    outbox_.clear();
    sent_.set();
    if (socket_ >= 0)
        ::shutdown(socket_, SHUT_RDWR);
}

usize Client::room() noexcept {
    return outbox_.empty() && input_.size() < read_at_once ? read_at_once - input_.size() : 0;
}

void Client::receive(std::span<const u8> bytes) noexcept {
    input_.append(bytes.begin(), bytes.end());
    wanted_.set();
}

void Client::writable() noexcept {
    if (outbox_.empty())
        return;
    const usize n = backend_.write({reinterpret_cast<const u8 *>(outbox_.data()), outbox_.size()});
    outbox_.erase(0, n);
    if (outbox_.empty())
        sent_.set();
}

void Client::closed() noexcept {
    closed_ = true;
    wanted_.set();
}

loop::Task<> Client::serve() {
    for (;;) {
        while (!input_.empty()) {
            while (!outbox_.empty())
                co_await sent_.wait();
            auto one = step();
            co_await std::move(one);
        }
        if (closed_)
            break;
        while (!outbox_.empty())
            co_await sent_.wait();
        backend_.resume_input();
        co_await wanted_.wait();
    }
    left_.set();
}

// --- JSON

struct ControlClient::Request {
    Json id = nullptr;
    bool has_id = false;
    std::string name;
    Json arguments = Json::object();
    const Command *command = nullptr;
    std::optional<Json> problem; // the answer instead of running it
};

namespace {

Json problem(const char *kind, std::string text) {
    return {{"class", kind}, {"desc", std::move(text)}};
}

/// The parser's own words without its numbers: "parse error at line 1, column 5: ...".
std::string parse_problem(const char *what) {
    std::string_view s = what;
    if (const auto end = s.find("] "); s.starts_with('[') && end != s.npos)
        s.remove_prefix(end + 2);
    return "Invalid JSON syntax: " + std::string(s);
}

} // namespace

void ControlClient::hello() {
    reply({{"QMP", {{"version", monitor_.version()}, {"capabilities", Json::array()}}}});
}

void ControlClient::event(std::string_view line) {
    if (negotiated_)
        send(line);
}

void ControlClient::reply(const Json &message) {
    send(message.dump(-1, ' ', false, Json::error_handler_t::replace) + "\r\n");
}

Result<> ControlClient::negotiate(const Json &given) {
    struct Capabilities {
        std::optional<std::vector<std::string>> enable{};
        static constexpr auto fields() {
            return describe<Capabilities>(Field<&Capabilities::enable>{});
        }
    };
    Capabilities c;
    TRY(from_json(given, c, ""));
    if (c.enable && !c.enable->empty())
        return fail(EINVAL, "Capability '" + c.enable->front() + "' is not available");
    negotiated_ = true;
    return {};
}

ControlClient::Request ControlClient::parse(const Splitter::Item &item) const {
    Request r;
    const auto bad = [&r](std::string text) {
        r.problem = problem("GenericError", std::move(text));
        return std::move(r);
    };
    if (!item.problem.empty())
        return bad(std::string(item.problem));
    Json message;
    try {
        message = Json::parse(item.text);
    } catch (const Json::exception &e) {
        return bad(parse_problem(e.what()));
    }
    if (!message.is_object())
        return bad("QMP input must be a JSON object");
    if (const auto id = message.find("id"); id != message.end()) {
        r.id = *id;
        r.has_id = true;
    }
    for (const auto &[key, value] : message.items()) {
        if (key == "id")
            continue;
        if (key == "execute" && value.is_string())
            r.name = value.get<std::string>();
        else if (key == "execute")
            return bad("QMP input member 'execute' must be a string");
        else if (key == "arguments" && value.is_object())
            r.arguments = value;
        else if (key == "arguments")
            return bad("QMP input member 'arguments' must be an object");
        else
            return bad("QMP input member '" + key + "' is unexpected");
    }
    if (!message.contains("execute"))
        return bad("QMP input lacks member 'execute'");
    r.command = monitor_.find(r.name);
    const bool negotiation = r.name == "qmp_capabilities";
    if (!negotiated_ && !negotiation)
        r.problem = problem("CommandNotFound",
                            "Expecting capabilities negotiation with 'qmp_capabilities'");
    else if (negotiated_ && negotiation)
        r.problem = problem("CommandNotFound",
                            "Capabilities negotiation is already complete, command ignored");
    else if (!r.command)
        r.problem = problem("CommandNotFound", "The command " + r.name + " has not been found" +
                                                   monitor_.nearest(r.name));
    return r;
}

loop::Task<> ControlClient::step() {
    std::string_view rest = input_;
    const std::optional<Splitter::Item> item = splitter_.next(rest);
    input_.erase(0, input_.size() - rest.size());
    if (!item)
        co_return;
    const Request request = parse(*item);
    Json message = Json::object();
    if (request.has_id)
        message["id"] = request.id;
    if (request.problem) {
        message["error"] = *request.problem;
    } else if (!request.command->run) { // the negotiation
        if (const Result<> done = negotiate(request.arguments); done)
            message["return"] = Json::object();
        else
            message["error"] = Monitor::error(done.error());
    } else {
        auto task = request.command->run(request.command->object, request.arguments);
        const Result<Json> answer = co_await task.caught();
        if (answer)
            message["return"] = *answer;
        else
            message["error"] = Monitor::error(answer.error());
    }
    reply(message);
}

// --- a prompt

namespace {
constexpr std::string_view prompt = "(rhea) ";
}

HumanClient::HumanClient(Monitor &monitor, loop::Loop &loop, chardev::CharBackend &backend,
                         int socket, bool shared)
    : Client(monitor, loop, backend, socket), shared_(shared) {}

void HumanClient::hello() {
    if (shared_)
        return;
    greeted_ = true;
    send("Rhea monitor; 'help' lists the commands\r\n" + std::string(prompt));
}

void HumanClient::shown() noexcept {
    if (std::exchange(greeted_, true))
        send("\r\n" + std::string(prompt) + line_);
    else
        send("\r\nRhea monitor; 'help' lists the commands, Ctrl-A c leaves\r\n" +
             std::string(prompt));
}

bool HumanClient::type(char c) {
    const char before = std::exchange(previous_, c);
    if (escape_) { // arrows and the like: there is no history
        if (escape_ == 1)
            escape_ = c == '[' || c == 'O' ? 2 : 0;
        else if (c >= 0x40)
            escape_ = 0;
        return false;
    }
    constexpr char backspace = 8, kill_line = 0x15, escape = 0x1b, rubout = 0x7f;
    if (c == '\r' || (c == '\n' && before != '\r')) {
        echo_ += "\r\n";
        return true;
    }
    if (c == escape) {
        escape_ = 1;
    } else if ((c == backspace || c == rubout) && !line_.empty()) {
        line_.pop_back();
        echo_ += "\b \b";
    } else if (c == kill_line) {
        for (; !line_.empty(); line_.pop_back())
            echo_ += "\b \b";
    } else if (static_cast<unsigned char>(c) >= 0x20 && c != rubout &&
               line_.size() < longest_line) {
        line_ += c;
        echo_ += c;
    }
    return false;
}

loop::Task<> HumanClient::step() {
    usize n = 0;
    bool complete = false;
    while (n < input_.size() && !complete)
        complete = type(input_[n++]);
    input_.erase(0, n);
    send(std::exchange(echo_, {}));
    if (!complete)
        co_return;
    const std::string line = std::exchange(line_, {});
    auto task = monitor_.human(line);
    const Result<std::string> text = co_await task.caught();
    std::string out = text ? *text : "Error: " + text.error().what + "\n";
    for (usize at = 0; (at = out.find('\n', at)) != out.npos; at += 2)
        out.replace(at, 1, "\r\n");
    send(out + std::string(prompt));
}

} // namespace rhea::monitor
