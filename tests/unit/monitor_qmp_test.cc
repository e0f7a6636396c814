// The control protocol over a socket pair, as a client sees it.
#include <array>
#include <csignal>
#include <gtest/gtest.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#include "dm/chardev/stream.h"
#include "dm/monitor/monitor.h"

namespace rhea::monitor {
namespace {

struct Resize {
    std::string device{};
    std::optional<u64> size{};
    static constexpr auto fields() {
        return describe<Resize>(Field<&Resize::device>{}, Field<&Resize::size>{});
    }
};
struct Size {
    u64 new_size = 0;
    static constexpr auto fields() { return describe<Size>(Field<&Size::new_size>{}); }
};

struct Subject {
    explicit Subject(loop::Loop &l) : loop(l) {}
    Result<Size> resize(const Resize &r) {
        ++calls;
        if (r.device != "d0")
            return fail(ENODEV, "no device '" + r.device + "'");
        return Size{r.size.value_or(7)};
    }
    loop::Task<Size> slow(const Nothing &) {
        co_await loop.sleep(20'000'000);
        ++calls;
        co_return Size{1};
    }
    loop::Loop &loop;
    int calls = 0;
};

class Qmp : public ::testing::Test {
protected:
    Qmp() {
        ::signal(SIGPIPE, SIG_IGN); // as the program does
        monitor.add({command<&Subject::resize>("resize", subject, ""),
                     command<&Subject::slow>("slow", subject, "")});
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
        client = ends[0];
        const int listening = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        monitor.listen(listening, "", Monitor::Kind::control, ends[1]);
    }
    ~Qmp() override { hang_up(); }
    void hang_up() {
        if (client >= 0)
            ::close(client);
        client = -1;
    }
    void send(std::string_view s) {
        while (!s.empty()) {
            const auto n = ::send(client, s.data(), s.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n > 0)
                s.remove_prefix(usize(n));
            else if (errno != EAGAIN)
                break;
            turn();
        }
    }
    void turn() {
        loop.turn(false);
        monitor.collect();
    }
    /// The next message; null if none comes.
    Json receive() {
        for (int tries = 0; tries < 2000; ++tries) {
            if (const auto end = unread.find('\n'); end != unread.npos) {
                const Json message = Json::parse(unread.substr(0, end), nullptr, false);
                unread.erase(0, end + 1);
                return message;
            }
            turn();
            std::array<char, 4096> part;
            const auto n = ::recv(client, part.data(), part.size(), MSG_DONTWAIT);
            if (n > 0)
                unread.append(part.data(), usize(n));
            else
                ::usleep(500);
        }
        return nullptr;
    }
    Json ask(std::string_view text) {
        send(text);
        return receive();
    }
    void negotiate() {
        EXPECT_TRUE(receive().contains("QMP"));
        negotiate_only();
    }
    void negotiate_only() {
        EXPECT_TRUE(ask("{\"execute\":\"qmp_capabilities\"}").contains("return"));
    }
    static std::string desc(const Json &m) { return m["error"]["desc"].get<std::string>(); }
    static std::string kind(const Json &m) { return m["error"]["class"].get<std::string>(); }

    loop::Loop loop;
    Subject subject{loop};
    Monitor monitor{loop, {1, 2, 3, "test"}};
    int client = -1;
    std::string unread;
};

TEST_F(Qmp, greets_with_version_and_capabilities) {
    const Json hello = receive();
    EXPECT_EQ(hello["QMP"]["version"]["qemu"]["micro"], 3);
    EXPECT_EQ(hello["QMP"]["capabilities"], Json::array());
}

TEST_F(Qmp, nothing_works_before_the_negotiation_and_that_only_once) {
    receive();
    EXPECT_EQ(kind(ask("{\"execute\":\"query-version\"}\n")), "CommandNotFound");
    EXPECT_TRUE(ask("{\"execute\":\"qmp_capabilities\"}").contains("return"));
    EXPECT_EQ(kind(ask("{\"execute\":\"qmp_capabilities\"}")), "CommandNotFound");
    EXPECT_TRUE(ask("{\"execute\":\"query-version\"}").contains("return"));
}

TEST_F(Qmp, a_capability_that_is_not_offered_is_refused) {
    receive();
    const Json m = ask("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}");
    EXPECT_EQ(desc(m), "Capability 'oob' is not available");
}

TEST_F(Qmp, id_of_any_kind_is_echoed_with_answers_and_errors) {
    negotiate();
    EXPECT_EQ(ask("{\"execute\":\"resize\",\"arguments\":{\"device\":\"d0\"},\"id\":[1,{}]}")["id"],
              Json::parse("[1,{}]"));
    EXPECT_EQ(ask("{\"execute\":\"nope\",\"id\":\"x\"}")["id"], "x");
    EXPECT_FALSE(ask("{\"execute\":\"nope\"}").contains("id"));
}

TEST_F(Qmp, several_commands_in_one_packet_and_one_in_several_are_answered_in_order) {
    negotiate();
    send("{\"execute\":\"slow\",\"id\":1}{\"execute\":\"query-version\",\"id\":2} \n\n{\"exe");
    EXPECT_EQ(receive()["id"], 1);
    EXPECT_EQ(receive()["id"], 2);
    send("cute\":\n \"query-version\", \"id\":3}");
    EXPECT_EQ(receive()["id"], 3);
}

TEST_F(Qmp, arguments_and_answers_follow_their_declaration) {
    negotiate();
    const auto resize = [&](const std::string &arguments) {
        return ask("{\"execute\":\"resize\",\"arguments\":" + arguments + "}");
    };
    EXPECT_EQ(resize("{\"device\":\"d0\",\"size\":9}")["return"]["new-size"], 9);
    EXPECT_EQ(desc(resize("{}")), "Parameter 'device' is missing");
    EXPECT_EQ(desc(resize("{\"device\":\"d0\",\"sise\":1}")),
              "Parameter 'sise' is unexpected, did you mean 'size'?");
    EXPECT_NE(desc(resize("{\"device\":5}")).find("expected: a string"), std::string::npos);
    EXPECT_NE(desc(resize("{\"device\":\"d0\",\"size\":-1}")).find("in its range"),
              std::string::npos);
    EXPECT_EQ(kind(resize("{\"device\":\"d1\"}")), "DeviceNotFound");
    EXPECT_EQ(subject.calls, 2);
}

TEST_F(Qmp, unknown_commands_and_members_name_the_nearest) {
    negotiate();
    const Json m = ask("{\"execute\":\"resise\"}");
    EXPECT_EQ(kind(m), "CommandNotFound");
    EXPECT_EQ(desc(m), "The command resise has not been found, did you mean 'resize'?");
    EXPECT_EQ(desc(ask("{\"execute\":\"resize\",\"extra\":1}")),
              "QMP input member 'extra' is unexpected");
    EXPECT_EQ(desc(ask("{\"id\":1}")), "QMP input lacks member 'execute'");
    EXPECT_EQ(desc(ask("[]")), "QMP input must be a JSON object");
}

TEST_F(Qmp, malformed_input_is_one_error_and_the_next_line_works) {
    negotiate();
    for (const char *bad :
         {"garbage {\"execute\":\"stop\"}\n", "{\"execute\" \"x\"}\n", "{\"execute\":\"unended\n",
          "{]\n", "\xff\xfe\n", "{\"execute\":\"\xff\"}\n"}) {
        EXPECT_TRUE(ask(bad).contains("error")) << bad;
        EXPECT_TRUE(ask("{\"execute\":\"query-version\"}\n").contains("return")) << bad;
    }
}

TEST_F(Qmp, depth_and_size_are_bounded) {
    negotiate();
    const Json deep = ask("{\"id\":" + std::string(100'000, '[') + "\n");
    EXPECT_NE(desc(deep).find("64 levels"), std::string::npos);
    const Json large = ask("{\"id\":\"" + std::string(3 << 20, 'x') + "\"}\n");
    EXPECT_NE(desc(large).find("1 MiB"), std::string::npos);
    EXPECT_TRUE(ask("{\"execute\":\"query-version\"}").contains("return"));
}

TEST_F(Qmp, events_come_after_the_negotiation_with_a_timestamp) {
    receive();
    monitor.event("STOP");
    negotiate_only();
    monitor.event("RESET", {{"guest", true}});
    const Json m = receive();
    EXPECT_EQ(m["event"], "RESET");
    EXPECT_EQ(m["data"]["guest"], true);
    EXPECT_GT(m["timestamp"]["seconds"].get<i64>(), 1'500'000'000);
}

TEST_F(Qmp, a_client_that_vanishes_in_a_command_does_not_hinder_it) {
    negotiate();
    send("{\"execute\":\"slow\"}{\"execute\":\"slow\"}{\"exec");
    turn();
    hang_up();
    for (int i = 0; i < 400 && subject.calls < 2; ++i) {
        turn();
        ::usleep(500);
    }
    EXPECT_EQ(subject.calls, 2);
    monitor.event("STOP"); // nobody is there: no matter
}

TEST_F(Qmp, half_closed_clients_get_their_answers) {
    negotiate();
    send("{\"execute\":\"slow\",\"id\":5}");
    ::shutdown(client, SHUT_WR);
    EXPECT_EQ(receive()["id"], 5);
}

TEST_F(Qmp, a_client_that_does_not_read_is_not_listened_to_and_loses_nothing) {
    negotiate();
    constexpr int commands = 20'000;
    std::string all;
    for (int i = 0; i < commands; ++i)
        all += "{\"execute\":\"query-version\",\"id\":" + std::to_string(i) + "}";
    usize sent = 0;
    for (int idle = 0; sent < all.size() && idle < 100;) {
        const auto n = ::send(client, all.data() + sent, all.size() - sent, MSG_DONTWAIT);
        sent += n > 0 ? usize(n) : 0;
        idle = n > 0 ? 0 : idle + 1;
        turn();
    }
    EXPECT_LT(sent, all.size()); // it waits for us
    for (int i = 0; i < commands; ++i) {
        const auto n = sent < all.size()
                           ? ::send(client, all.data() + sent, all.size() - sent, MSG_DONTWAIT)
                           : 0;
        sent += n > 0 ? usize(n) : 0;
        ASSERT_EQ(receive()["id"], i);
    }
}

TEST_F(Qmp, events_for_who_never_reads_end_in_disconnection) {
    negotiate();
    for (int i = 0; i < 20'000; ++i) {
        monitor.event("RESET", {{"guest", true}});
        turn();
    }
    std::string rest;
    std::array<char, 4096> part;
    ssize_t n = -1;
    for (int i = 0; i < 2000 && n != 0; ++i) {
        n = ::recv(client, part.data(), part.size(), MSG_DONTWAIT);
        turn();
    }
    EXPECT_EQ(n, 0);
}

TEST_F(Qmp, human_lines_are_answered_as_text) {
    negotiate();
    const auto human = [&](const std::string &line) {
        return ask("{\"execute\":\"human-monitor-command\",\"arguments\":{\"command-line\":\"" +
                   line + "\"}}")["return"]
            .get<std::string>();
    };
    EXPECT_EQ(human("info version"), "test\n");
    EXPECT_EQ(human("info versoin"),
              "Error: unknown command 'info versoin', did you mean 'info version'?\n");
    EXPECT_EQ(human("help").find("screendump"), std::string::npos); // there is no such command
}

} // namespace
} // namespace rhea::monitor
