#include "dm/chardev/stream.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <unistd.h>

namespace rhea::chardev {
namespace {

struct Pipe {
    Pipe() {
        if (::pipe2(ends, O_CLOEXEC) != 0)
            throw std::runtime_error("pipe2");
    }
    ~Pipe() {
        close_reader();
        close_writer();
    }
    void close_reader() { drop(ends[0]); }
    void close_writer() { drop(ends[1]); }
    static void drop(int &fd) {
        if (fd >= 0)
            ::close(fd);
        fd = -1;
    }
    int reader() const { return ends[0]; }
    int writer() const { return ends[1]; }
    int ends[2];
};

std::span<const u8> bytes(std::string_view s) {
    return {reinterpret_cast<const u8 *>(s.data()), s.size()};
}

/// A device with a receive FIFO of `capacity` bytes, which the test empties.
struct Port final : CharFrontend {
    usize room() noexcept override { return capacity - fifo.size(); }
    void receive(std::span<const u8> b) noexcept override {
        overrun |= b.size() > room();
        fifo.append(b.begin(), b.end());
    }
    void writable() noexcept override { ++writable_calls; }
    std::string take() { return std::exchange(fifo, {}); }

    usize capacity = 16;
    std::string fifo;
    bool overrun = false;
    int writable_calls = 0;
};

void turn_a_little(loop::Loop &loop) {
    for (int i = 0; i < 20; ++i)
        loop.turn(false);
}

std::string read_everything(int fd) {
    std::string s;
    char part[4096];
    for (ssize_t n; (n = ::read(fd, part, sizeof part)) > 0;)
        s.append(part, usize(n));
    return s;
}

TEST(Stream, output_larger_than_queue_and_pipe_arrives_whole_and_in_order) {
    loop::Loop loop;
    Pipe p;
    Port port;
    std::string text, got;
    for (int i = 0; text.size() < 500'000; ++i)
        text += std::to_string(i) + '\n';
    std::thread reader([&] { got = read_everything(p.reader()); });
    {
        StreamBackend s(loop, {.name = "t", .out = p.writer()});
        s.attach(port);
        std::string_view rest = text;
        while (!rest.empty()) {
            const int before = port.writable_calls;
            const usize n = s.write(bytes(rest));
            rest.remove_prefix(n);
            while (!rest.empty() && port.writable_calls == before)
                loop.turn(true);
        }
        s.flush();
    }
    p.close_writer();
    reader.join();
    EXPECT_EQ(got, text);
    EXPECT_GT(port.writable_calls, 0);
}

TEST(Stream, queue_is_bounded_when_nobody_reads) {
    loop::Loop loop;
    Pipe p;
    Port port;
    StreamBackend s(loop, {.name = "t", .out = p.writer()});
    s.attach(port);
    const std::string block(4096, 'x');
    usize taken = 0;
    for (int i = 0; i < 1000; ++i) {
        taken += s.write(bytes(block));
        loop.turn(false);
    }
    EXPECT_LE(taken, usize{64 << 10} * 2 + 4096); // ours and the pipe's
    EXPECT_EQ(s.write(bytes(block)), 0u);
}

TEST(Stream, write_waiting_gives_up_when_the_reader_is_stuck_and_succeeds_when_it_reads) {
    loop::Loop loop;
    Pipe p;
    Port port;
    const std::string much(256 << 10, 'x');
    bool stuck = true, reading = false;
    std::string got;
    std::thread reader;
    {
        StreamBackend s(loop, {.name = "t", .out = p.writer()});
        s.attach(port);
        std::thread device([&] {
            stuck = s.write_waiting(bytes(much));
            reader = std::thread([&] { got = read_everything(p.reader()); });
            reading = s.write_waiting(bytes("the end"));
            loop.stop();
        });
        loop.run();
        device.join();
        s.flush();
    }
    p.close_writer();
    reader.join();
    EXPECT_FALSE(stuck);
    EXPECT_TRUE(reading);
    EXPECT_TRUE(got.ends_with("xthe end"));
}

TEST(Stream, output_to_a_closed_pipe_is_discarded) {
    ::signal(SIGPIPE, SIG_IGN);
    loop::Loop loop;
    Pipe p;
    Port port;
    StreamBackend s(loop, {.name = "t", .out = p.writer()});
    s.attach(port);
    p.close_reader();
    s.write(bytes("lost"));
    s.flush();
    const std::string much(256 << 10, 'x');
    EXPECT_EQ(s.write(bytes(much)), much.size());
}

TEST(Stream, input_waits_for_room_and_loses_nothing) {
    loop::Loop loop;
    Pipe p;
    Port port;
    StreamBackend s(loop, {.name = "t", .in = p.reader()});
    s.attach(port);
    std::string text, got;
    for (int i = 0; i < 3000; ++i)
        text += char('a' + i % 26);
    ASSERT_EQ(::write(p.writer(), text.data(), text.size()), ssize_t(text.size()));
    for (int i = 0; i < 10'000 && got.size() < text.size(); ++i) {
        loop.turn(false);
        if (port.room() == 0) {
            got += port.take();
            s.resume_input();
        } else if (got.size() + port.fifo.size() == text.size()) {
            got += port.take();
        }
    }
    EXPECT_EQ(got, text);
    EXPECT_FALSE(port.overrun);
}

TEST(Stream, end_of_input_ends_the_input_without_spinning) {
    loop::Loop loop;
    Pipe p;
    Port port;
    StreamBackend s(loop, {.name = "t", .in = p.reader()});
    s.attach(port);
    ASSERT_EQ(::write(p.writer(), "z", 1), 1);
    p.close_writer();
    turn_a_little(loop);
    EXPECT_EQ(port.take(), "z");

    // The loop has nothing left to wake it but this timer.
    int turns = 0;
    bool due = false;
    auto body = [](loop::Loop &l, bool &flag) -> loop::Task<> {
        co_await l.sleep(20'000'000);
        flag = true;
    };
    loop::TaskGroup group(loop);
    group.spawn(body(loop, due));
    for (; !due; ++turns)
        loop.turn(true);
    EXPECT_TRUE(group.join());
    EXPECT_LE(turns, 3);
}

TEST(Stream, closed_descriptor_is_no_input) {
    loop::Loop loop;
    Pipe p;
    Port port;
    const int closed = ::dup(p.reader());
    ::close(closed);
    StreamBackend s(loop, {.name = "t", .in = closed});
    s.attach(port);
    turn_a_little(loop);
    EXPECT_EQ(port.take(), "");
}

struct Quit {
    void quit() { ++calls; }
    int calls = 0;
};

TEST(Stream, escape_quits_even_while_the_guest_does_not_listen) {
    loop::Loop loop;
    Pipe p;
    Port port;
    port.capacity = 0;
    Quit q;
    StreamBackend s(
        loop,
        {.name = "t", .in = p.reader(), .escape = true, .quit = Callback::to<&Quit::quit>(&q)});
    s.attach(port);
    ASSERT_EQ(::write(p.writer(), "typed ahead\001x", 13), 13);
    turn_a_little(loop);
    EXPECT_EQ(q.calls, 1);
}

TEST(Stream, detached_device_is_not_called_any_more) {
    loop::Loop loop;
    Pipe p;
    Port port;
    StreamBackend s(loop, {.name = "t", .in = p.reader()});
    s.attach(port);
    loop.turn(false);
    s.detach();
    ASSERT_EQ(::write(p.writer(), "z", 1), 1);
    turn_a_little(loop);
    EXPECT_EQ(port.take(), "");
}

std::string through(Escape &e, std::string_view typed, std::string &commands) {
    std::string out;
    for (const char c : typed) {
        const auto key = e.type(u8(c));
        if (key.data)
            out += char(*key.data);
        if (key.command == Escape::Command::quit)
            commands += 'x';
        if (key.command == Escape::Command::help)
            commands += 'h';
    }
    return out;
}

TEST(Escape, keys) {
    Escape e;
    std::string commands;
    EXPECT_EQ(through(e, "ab", commands), "ab");
    EXPECT_EQ(through(e, "\001\001x", commands), "\001x");
    EXPECT_EQ(commands, "");
    EXPECT_EQ(through(e, "\001hx\001x", commands), "x");
    EXPECT_EQ(commands, "hx");
    EXPECT_EQ(through(e, "\001qz", commands), "z"); // unknown: swallowed
    EXPECT_EQ(through(e, "\001", commands), "");    // split over two reads
    EXPECT_EQ(through(e, "X", commands), "");
    EXPECT_EQ(commands, "hxx");
}

} // namespace
} // namespace rhea::chardev
