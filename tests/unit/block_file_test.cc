// Files as disks: data, zeroes, holes, direct I/O, locks; and Disk, the way in from other threads.
#include <array>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <numeric>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "block/file/file_lock.h"
#include "block/file/file_node.h"
#include "block/memory_node.h"
#include "block/vectors.h"

namespace rhea::block {
namespace {

class BlockFile : public ::testing::Test {
protected:
    BlockFile() {
        char name[] = "/tmp/rhea-block-XXXXXX";
        directory_ = mkdtemp(name);
    }
    ~BlockFile() override { std::filesystem::remove_all(directory_); }

    std::string file(const char *name, usize length) {
        const std::string path = directory_ + "/" + name;
        std::ofstream out(path, std::ios::binary);
        for (usize i = 0; i < length; ++i)
            out.put(static_cast<char>(i * 7 + i / 256));
        return path;
    }
    static u8 expected(u64 i) { return static_cast<u8>(i * 7 + i / 256); }

    loop::Loop loop_;
    std::string directory_;
};

TEST_F(BlockFile, scattered_write_is_read_back_and_neighbours_stay) {
    auto node = FileNode::open(loop_, file("a", 8192), {}).value();
    std::array<u8, 300> a{};
    std::array<u8, 724> b{};
    a.fill(0xaa);
    b.fill(0xbb);
    const iovec v[] = {{a.data(), a.size()}, {b.data(), b.size()}};

    ASSERT_TRUE(loop_.block_on(node->write(1000, ConstVectors(v))));
    std::array<u8, 1026> back{};
    ASSERT_TRUE(loop_.block_on(node->read(999, std::span<u8>(back))));

    EXPECT_EQ(back[0], expected(999));
    EXPECT_TRUE(std::all_of(back.begin() + 1, back.begin() + 301, [](u8 x) { return x == 0xaa; }));
    EXPECT_TRUE(std::all_of(back.begin() + 301, back.end() - 1, [](u8 x) { return x == 0xbb; }));
    EXPECT_EQ(back[1025], expected(2024));
}

TEST_F(BlockFile, length_is_rounded_up_to_a_sector_and_the_rest_reads_as_zero) {
    auto node = FileNode::open(loop_, file("a", 700), {}).value();
    std::array<u8, 1024> back{};
    back.fill(1);

    ASSERT_EQ(node->length(), 1024u);
    ASSERT_TRUE(loop_.block_on(node->read(0, std::span<u8>(back))));

    EXPECT_EQ(back[699], expected(699));
    EXPECT_TRUE(is_zero(std::span<const u8>(back).subspan(700)));
}

TEST_F(BlockFile, requests_outside_or_against_the_mode_are_refused) {
    auto node = FileNode::open(loop_, file("a", 1024), {.read_only = true}).value();
    std::array<u8, 512> b{};

    EXPECT_EQ(loop_.block_on(node->read(513, std::span<u8>(b))).error().code, EINVAL);
    EXPECT_EQ(loop_.block_on(node->read(~u64{0} - 10, std::span<u8>(b))).error().code, EINVAL);
    EXPECT_EQ(loop_.block_on(node->write(0, std::span<const u8>(b))).error().code, EROFS);
    EXPECT_EQ(loop_.block_on(node->discard(0, 512)).error().code, EROFS);
}

TEST_F(BlockFile, zeroes_become_a_hole_that_block_status_tells) {
    auto node = FileNode::open(loop_, file("a", 1 << 20), {}).value();

    ASSERT_TRUE(loop_.block_on(node->write_zeroes(256 << 10, 512 << 10, true)));
    const auto data = loop_.block_on(node->block_status(0, 1 << 20)).value();
    const auto hole = loop_.block_on(node->block_status(256 << 10, 1 << 20)).value();
    std::array<u8, 512> b{};
    b.fill(1);
    ASSERT_TRUE(loop_.block_on(node->read(300 << 10, std::span<u8>(b))));

    EXPECT_FALSE(data.zero);
    EXPECT_EQ(data.length, 256u << 10);
    EXPECT_TRUE(hole.zero);
    EXPECT_EQ(hole.length, 512u << 10);
    EXPECT_TRUE(is_zero(b));
}

TEST_F(BlockFile, direct_io_serves_requests_that_are_not_aligned) {
    const std::string path = file("a", 64 << 10);
    auto opened = FileNode::open(loop_, path, {.direct = true});
    if (!opened)
        GTEST_SKIP() << to_string(opened.error());
    auto &node = *opened;
    std::vector<u8> w(5000, 0xcc), back(9000);

    ASSERT_TRUE(loop_.block_on(node->write(3001, std::span<const u8>(w))));
    ASSERT_TRUE(loop_.block_on(node->read(2000, std::span<u8>(back))));

    for (usize i = 0; i < back.size(); ++i)
        ASSERT_EQ(back[i], i >= 1001 && i < 6001 ? 0xcc : expected(2000 + i)) << i;
    EXPECT_EQ(std::filesystem::file_size(path), 64u << 10);
}

TEST_F(BlockFile, direct_writes_of_neighbours_in_one_block_lose_nothing) {
    auto opened = FileNode::open(loop_, file("a", 16 << 10), {.direct = true});
    if (!opened)
        GTEST_SKIP() << to_string(opened.error());
    auto &node = *opened;
    std::vector<std::array<u8, 100>> parts(40);
    loop::TaskGroup group(loop_);

    for (usize i = 0; i < parts.size(); ++i) {
        parts[i].fill(static_cast<u8>(i + 1));
        group.spawn(node->write(i * 100, std::span<const u8>(parts[i])));
    }
    ASSERT_TRUE(group.join());
    std::vector<u8> back(4000);
    ASSERT_TRUE(loop_.block_on(node->read(0, std::span<u8>(back))));

    for (usize i = 0; i < back.size(); ++i)
        ASSERT_EQ(back[i], i / 100 + 1) << i;
}

TEST_F(BlockFile, second_writer_is_refused_with_the_name_of_the_first) {
    const std::string path = file("a", 4096);
    auto first = FileNode::open(loop_, path, {}).value();

    const auto writer = FileNode::open(loop_, path, {});
    const auto reader = FileNode::open(loop_, path, {.read_only = true});
    const auto lenient = FileNode::open(loop_, path, {.read_only = true, .share_writers = true});

    ASSERT_FALSE(writer);
    EXPECT_EQ(writer.error().code, EAGAIN);
    EXPECT_NE(writer.error().what.find("(pid " + std::to_string(getpid()) + ")"), std::string::npos)
        << writer.error().what;
    EXPECT_FALSE(reader);
    EXPECT_TRUE(lenient); // it said that it does not mind
    first.reset();
    EXPECT_TRUE(FileNode::open(loop_, path, {}));
}

TEST_F(BlockFile, readers_share) {
    const std::string path = file("a", 4096);
    auto first = FileNode::open(loop_, path, {.read_only = true}).value();
    EXPECT_TRUE(FileNode::open(loop_, path, {.read_only = true}));
    EXPECT_FALSE(FileNode::open(loop_, path, {}));
}

TEST_F(BlockFile, missing_files_and_directories_are_refused_by_name) {
    EXPECT_EQ(FileNode::open(loop_, directory_ + "/none", {}).error().code, ENOENT);
    EXPECT_EQ(FileNode::open(loop_, directory_, {.read_only = true}).error().code, EISDIR);
}

TEST(BlockNode, claims_that_exclude_each_other_name_the_holder) {
    MemoryNode node(4096);
    auto first = node.use("the guest", {.write = true}).value();

    const auto second = node.use("the mirror job", {.write = true});
    const auto reader = node.use("a reader", {.share_write = true});

    ASSERT_FALSE(second);
    EXPECT_NE(second.error().what.find("the guest"), std::string::npos);
    EXPECT_TRUE(reader);
}

struct TestRequest final : Request {
    void completed(const Result<> &r) noexcept override {
        code = r ? 0 : r.error().code;
        thread = std::this_thread::get_id();
        done.store(true);
        done.notify_all();
    }
    int code = -1;
    std::thread::id thread;
    std::atomic<bool> done{false};
};

TEST(BlockDisk, request_from_another_thread_completes_on_the_loop) {
    loop::Loop loop;
    auto memory = std::make_unique<MemoryNode>(8192);
    auto &bytes = memory->bytes();
    Disk disk(loop, std::move(memory));
    std::array<u8, 1024> data{};
    data.fill(0x5a);
    TestRequest write, beyond;

    std::thread guest([&] {
        const iovec v{data.data(), data.size()};
        write.kind = Request::Kind::write;
        write.at = 512;
        write.length = data.size();
        write.data = {&v, 1};
        disk.submit(write);
        beyond.kind = Request::Kind::discard;
        beyond.at = 8192;
        beyond.length = 1;
        disk.submit(beyond);
        write.done.wait(false);
        beyond.done.wait(false);
        loop.stop();
    });
    loop.run();
    guest.join();

    EXPECT_EQ(write.code, 0);
    EXPECT_EQ(write.thread, std::this_thread::get_id());
    EXPECT_EQ(bytes[511], 0);
    EXPECT_EQ(bytes[512], 0x5a);
    EXPECT_EQ(beyond.code, EINVAL);
}

TEST(BlockDisk, resize_tells_the_device) {
    loop::Loop loop;
    Disk disk(loop, std::make_unique<MemoryNode>(8192));
    struct Device {
        int calls = 0;
        void resized() { ++calls; }
    } device;
    disk.set_resized(Callback::to<&Device::resized>(&device));

    ASSERT_TRUE(loop.block_on(disk.resize(16384)));

    EXPECT_EQ(disk.length(), 16384u);
    EXPECT_EQ(device.calls, 1);
}

} // namespace
} // namespace rhea::block
