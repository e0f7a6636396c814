#include "dm/chardev/registry.h"

#include "dm/core/config_error.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <string>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>

namespace rhea::chardev {
namespace {

std::span<const u8> bytes(std::string_view s) {
    return {reinterpret_cast<const u8 *>(s.data()), s.size()};
}

struct Port final : CharFrontend {
    usize room() noexcept override { return 64; }
    void receive(std::span<const u8> b) noexcept override { got.append(b.begin(), b.end()); }
    std::string got;
};

class CharBackendsTest : public testing::Test {
protected:
    CharBackendsTest() {
        folder_ = (std::filesystem::temp_directory_path() / "rhea-chardev-XXXXXX").string();
        if (!::mkdtemp(folder_.data()))
            throw std::runtime_error("mkdtemp");
    }
    ~CharBackendsTest() override { std::filesystem::remove_all(folder_); }

    std::string refusal(auto &&fn) {
        try {
            fn();
        } catch (const ConfigError &e) {
            return e.what();
        }
        return "(accepted)";
    }
    std::string content(const std::string &path) {
        std::ifstream f(path);
        return {std::istreambuf_iterator<char>(f), {}};
    }
    void turn_until(auto &&done) {
        for (int i = 0; i < 2000 && !done(); ++i) {
            loop_.turn(false);
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    }

    std::string folder_;
    loop::Loop loop_;
    CharBackends backends_{loop_, {}};
};

TEST_F(CharBackendsTest, file_gets_what_the_guest_sends) {
    const std::string path = folder_ + "/a,b.log"; // a comma is written twice in options
    CharBackend *b = backends_.open("file:" + path, "serial0");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ(b->write(bytes("hello")), 5u);
    backends_.flush();
    EXPECT_EQ(content(path), "hello");
}

TEST_F(CharBackendsTest, chardev_file_empties_the_file_unless_it_appends) {
    const std::string path = folder_ + "/log";
    std::ofstream(path) << "before ";
    backends_.add("file,id=a,path=" + path + ",append=on");
    backends_.take("a").write(bytes("more"));
    backends_.flush();
    EXPECT_EQ(content(path), "before more");
    backends_.add("file,id=b,path=" + path);
    EXPECT_EQ(content(path), "");
}

TEST_F(CharBackendsTest, none_is_no_back_end_and_null_takes_everything) {
    EXPECT_EQ(backends_.open("none", "serial0"), nullptr);
    const std::string much(1 << 20, 'x');
    EXPECT_EQ(backends_.open("null", "serial1")->write(bytes(much)), much.size());
}

TEST_F(CharBackendsTest, fifo_carries_bytes_both_ways) {
    for (const char *end : {"/p.in", "/p.out"})
        ASSERT_EQ(::mkfifo((folder_ + end).c_str(), 0600), 0);
    CharBackend *b = backends_.open("pipe:" + folder_ + "/p", "serial0");
    Port port;
    b->attach(port);
    std::ofstream(folder_ + "/p.in") << "to the guest";
    b->write(bytes("from the guest\n"));
    backends_.flush();
    std::ifstream out(folder_ + "/p.out");
    std::string line;
    std::getline(out, line);
    turn_until([&] { return port.got.size() >= 12; });
    b->detach();
    EXPECT_EQ(line, "from the guest");
    EXPECT_EQ(port.got, "to the guest");
}

TEST_F(CharBackendsTest, unix_socket_server_and_client_talk) {
    const std::string path = folder_ + "/s";
    CharBackend *server = nullptr;
    std::thread waiter([&] { server = backends_.open("unix:" + path + ",server", "serial0"); });
    loop::Loop other_loop;
    CharBackends other(other_loop, {});
    CharBackend *client = nullptr;
    for (int i = 0; i < 2000 && !client; ++i)
        try {
            client = other.open("unix:" + path, "serial0");
        } catch (const ConfigError &) { // not listening yet
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        }
    waiter.join();
    ASSERT_NE(client, nullptr);
    Port port;
    server->attach(port);
    client->write(bytes("over the socket"));
    other.flush();
    turn_until([&] { return port.got.size() >= 15; });
    server->detach();
    EXPECT_EQ(port.got, "over the socket");
}

TEST_F(CharBackendsTest, pseudo_terminal_that_nobody_reads_never_stops_the_guest) {
    CharBackend *b = backends_.open("pty", "serial0");
    const std::string line(1000, 'x');
    for (int i = 0; i < 300; ++i) {
        EXPECT_EQ(b->write(bytes(line)), line.size());
        loop_.turn(false);
    }
}

TEST_F(CharBackendsTest, mistakes_are_named) {
    EXPECT_NE(refusal([&] { backends_.add("flie,id=x,path=y"); }).find("did you mean 'file'"),
              std::string::npos);
    EXPECT_NE(refusal([&] { backends_.add("null"); }).find("id="), std::string::npos);
    EXPECT_NE(refusal([&] { backends_.add("file,id=x"); }).find("path="), std::string::npos);
    EXPECT_NE(refusal([&] { backends_.add("null,id=x,pth=1"); }).find("did you mean 'path'"),
              std::string::npos);
    EXPECT_NE(refusal([&] { backends_.open("file:/nonexistent/x", "s"); }).find("/nonexistent/x"),
              std::string::npos);
    EXPECT_NE(refusal([&] { backends_.open("tcp:localhost:1", "s"); }).find("cannot connect"),
              std::string::npos);
    EXPECT_NE(refusal([&] { backends_.open("frobnicate", "s"); }).find("there are: stdio"),
              std::string::npos);
}

TEST_F(CharBackendsTest, a_back_end_has_one_user) {
    backends_.add("null,id=shared");
    EXPECT_NE(refusal([&] { backends_.add("null,id=shared"); }).find("in use"), std::string::npos);
    backends_.open("chardev:shared", "serial0");
    EXPECT_NE(refusal([&] { backends_.take("shared"); }).find("in use"), std::string::npos);
    EXPECT_NE(refusal([&] { backends_.take("shraed"); }).find("did you mean 'shared'"),
              std::string::npos);
    EXPECT_NE(refusal([&] { backends_.take("#0"); }).find("no -chardev"), std::string::npos);
}

TEST_F(CharBackendsTest, the_terminal_has_one_user) {
    backends_.add("stdio,id=a");
    EXPECT_NE(refusal([&] { backends_.open("mon:stdio", "serial0"); }).find("in use"),
              std::string::npos);
}

} // namespace
} // namespace rhea::chardev
