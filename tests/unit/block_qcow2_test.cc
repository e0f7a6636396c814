// qcow2 and the opening of images: chains, formats, snapshots, lengths; and what qemu-img thinks of
// our images, and we of its.
#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <random>
#include <unistd.h>

#include "block/memory_node.h"
#include "block/open.h"
#include "block/qcow2/compress.h"
#include "block/qcow2/image.h"
#include "block/vectors.h"
#include "dm/config/typed.h"
#include "dm/core/config_error.h"

namespace rhea::block {
namespace {

using qcow2::CreateOptions;
using qcow2::Image;

class Qcow2 : public testing::Test {
protected:
    Qcow2() {
        char name[] = "/tmp/rhea-qcow2-XXXXXX";
        directory_ = mkdtemp(name);
    }
    ~Qcow2() override { std::filesystem::remove_all(directory_); }

    std::string path(const char *name) const { return directory_ + "/" + name; }
    void create(const std::string &file, const CreateOptions &o) {
        const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        std::unique_ptr<Node> node = FileNode::adopt(loop_, fd, file, {.growable = true}).value();
        const auto r = loop_.block_on(Image::create(loop_, node, o));
        ASSERT_TRUE(r) << to_string(r.error());
    }
    CreateOptions sized(u64 size) {
        CreateOptions o;
        o.size = size;
        return o;
    }
    std::string raw(const char *name, u64 length, u8 fill) {
        std::ofstream out(path(name), std::ios::binary);
        out << std::string(length, static_cast<char>(fill));
        return path(name);
    }
    std::unique_ptr<Node> open(const std::string &file, bool read_only = false,
                               const char *format = "") {
        OpenOptions o;
        o.format = format;
        o.file.read_only = read_only;
        o.warn = false;
        auto r = open_image(loop_, file, o);
        EXPECT_TRUE(r) << to_string(r.error());
        return r ? std::move(*r) : nullptr;
    }
    std::vector<u8> read(Node &node, u64 at, u64 n) {
        std::vector<u8> v(n, 0xee);
        const auto r = loop_.block_on(node.read(at, std::span<u8>(v)));
        EXPECT_TRUE(r) << to_string(r.error());
        return v;
    }
    void write(Node &node, u64 at, u64 n, u8 value) {
        const std::vector<u8> v(n, value);
        const auto r = loop_.block_on(node.write(at, std::span<const u8>(v)));
        ASSERT_TRUE(r) << to_string(r.error());
    }
    void expect_clean(Node &node) {
        const auto r =
            loop_.block_on(static_cast<Image &>(node).check(qcow2::Repair::nothing)).value();
        EXPECT_EQ(r.corruptions, 0u) << r.messages.front();
        EXPECT_EQ(r.leaks, 0u) << r.messages.front();
    }
    static bool all(const std::vector<u8> &v, u8 value) {
        return std::ranges::all_of(v, [&](u8 x) { return x == value; });
    }

    loop::Loop loop_;
    std::string directory_;
};

TEST_F(Qcow2, write_over_a_backing_file_keeps_its_neighbours_and_the_base) {
    raw("base", 1 << 20, 0x11);
    auto o = sized(2 << 20);
    o.backing_file = "base"; // relative to the overlay
    o.backing_format = "raw";
    create(path("top"), o);
    {
        auto top = open(path("top"));
        write(*top, 100'000, 1000, 0x22);
        ASSERT_TRUE(loop_.block_on(top->close()));
    }
    auto top = open(path("top"), true);
    ASSERT_TRUE(top->backing());
    EXPECT_TRUE(all(read(*top, 0, 100'000), 0x11));
    EXPECT_TRUE(all(read(*top, 100'000, 1000), 0x22));
    EXPECT_TRUE(all(read(*top, 101'000, (1 << 20) - 101'000), 0x11));
    EXPECT_TRUE(all(read(*top, 1 << 20, 1 << 20), 0)); // the base is shorter
    EXPECT_TRUE(all(read(*top->backing(), 0, 1 << 20), 0x11));
}

TEST_F(Qcow2, discard_and_zeroes_hide_the_backing_file) {
    raw("base", 1 << 20, 0x11);
    auto o = sized(1 << 20);
    o.backing_file = path("base");
    o.backing_format = "raw";
    create(path("top"), o);
    auto top = open(path("top"));

    ASSERT_TRUE(loop_.block_on(top->write_zeroes(70'000, 200'000, true)));
    ASSERT_TRUE(loop_.block_on(top->discard(512 << 10, 128 << 10)));

    EXPECT_TRUE(all(read(*top, 0, 70'000), 0x11));
    EXPECT_TRUE(all(read(*top, 70'000, 200'000), 0));
    EXPECT_TRUE(all(read(*top, 270'000, (512 << 10) - 270'000), 0x11));
    EXPECT_TRUE(all(read(*top, 512 << 10, 128 << 10), 0));
    expect_clean(*top);
}

TEST_F(Qcow2, growing_shows_zeroes_and_not_a_longer_base_nor_what_was_cut_off) {
    raw("base", 1 << 20, 0x11);
    auto o = sized(300 << 10);
    o.backing_file = path("base");
    o.backing_format = "raw";
    create(path("top"), o);
    auto top = open(path("top"));
    write(*top, 250 << 10, 50 << 10, 0x33);

    ASSERT_TRUE(loop_.block_on(top->truncate(260 << 10)));
    ASSERT_TRUE(loop_.block_on(top->truncate(u64{1} << 30)));

    EXPECT_EQ(top->length(), u64{1} << 30);
    EXPECT_TRUE(all(read(*top, 250 << 10, 10 << 10), 0x33));
    EXPECT_TRUE(all(read(*top, 260 << 10, 2 << 20), 0));
    expect_clean(*top);
}

TEST_F(Qcow2, snapshot_keeps_its_content_and_comes_back) {
    create(path("a"), sized(4 << 20));
    auto a = open(path("a"));
    auto &image = static_cast<Image &>(*a);
    write(*a, 0, 300'000, 1);
    ASSERT_TRUE(loop_.block_on(image.snapshot_create("one", 5, 6)));
    write(*a, 100'000, 300'000, 2);
    ASSERT_TRUE(loop_.block_on(image.snapshot_create("two", 7, 8)));
    ASSERT_TRUE(loop_.block_on(image.discard(0, 4 << 20)));

    ASSERT_TRUE(loop_.block_on(image.snapshot_apply("one")));
    EXPECT_TRUE(all(read(*a, 0, 300'000), 1));
    EXPECT_TRUE(all(read(*a, 300'000, 100'000), 0));
    expect_clean(*a);
    ASSERT_TRUE(loop_.block_on(image.snapshot_apply("2"))); // by id
    EXPECT_TRUE(all(read(*a, 0, 100'000), 1));
    EXPECT_TRUE(all(read(*a, 100'000, 300'000), 2));
    ASSERT_TRUE(loop_.block_on(image.snapshot_delete("one")));
    ASSERT_TRUE(loop_.block_on(image.snapshot_delete("two")));
    EXPECT_TRUE(all(read(*a, 100'000, 300'000), 2));
    EXPECT_TRUE(image.snapshots().empty());
    EXPECT_EQ(loop_.block_on(image.snapshot_apply("one")).error().code, ENOENT);
    expect_clean(*a);
}

TEST_F(Qcow2, compressed_clusters_of_both_kinds_are_read_and_overwritten) {
    for (const auto kind : {qcow2::Compression::zlib, qcow2::Compression::zstd}) {
        auto o = sized(1 << 20);
        o.compression = kind;
        create(path("a"), o);
        auto a = open(path("a"));
        auto &image = static_cast<Image &>(*a);
        qcow2::Compressor compressor(kind);
        for (u64 i = 0; i < 16; ++i) {
            const std::vector<u8> data(65536, static_cast<u8>(i + 1));
            std::vector<u8> out(65536);
            const usize n = compressor.compress(data, out);
            ASSERT_GT(n, 0u);
            ASSERT_TRUE(loop_.block_on(
                image.write_compressed(i * 65536, std::span<const u8>(out).first(n))));
        }
        write(*a, 70'000, 100, 0xaa); // into the second

        for (u64 i = 2; i < 16; ++i)
            EXPECT_TRUE(all(read(*a, i * 65536, 65536), static_cast<u8>(i + 1))) << i;
        EXPECT_TRUE(all(read(*a, 65536, 70'000 - 65536), 2));
        EXPECT_TRUE(all(read(*a, 70'000, 100), 0xaa));
        EXPECT_TRUE(all(read(*a, 70'100, 131072 - 70'100), 2));
        expect_clean(*a);
    }
}

TEST_F(Qcow2, opening_two_terabytes_needs_little_memory_and_the_far_end_works) {
    create(path("a"), sized(u64{2} << 40));
    auto a = open(path("a"));
    write(*a, (u64{2} << 40) - 4096, 4096, 0x77);
    EXPECT_TRUE(all(read(*a, (u64{2} << 40) - 4096, 4096), 0x77));
    EXPECT_LT(static_cast<Image &>(*a).metadata_bytes(), 100'000u);
    EXPECT_LT(std::filesystem::file_size(path("a")), 2u << 20);
    expect_clean(*a);
}

TEST_F(Qcow2, second_writer_of_an_image_is_refused) {
    create(path("a"), sized(1 << 20));
    auto a = open(path("a"));
    const auto second = open_image(loop_, path("a"), {});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().code, EAGAIN);
}

TEST_F(Qcow2, chain_that_leads_back_is_refused) {
    auto o = sized(1 << 20);
    o.backing_format = "qcow2";
    o.backing_file = "b";
    create(path("a"), o);
    o.backing_file = "a";
    create(path("b"), o);
    OpenOptions options;
    options.file.read_only = true;
    EXPECT_EQ(open_image(loop_, path("a"), options).error().code, ELOOP);
}

TEST_F(Qcow2, features_that_are_not_served_are_refused_by_name) {
    create(path("a"), sized(1 << 20));
    const auto with = [&](u64 at, u8 value) {
        std::filesystem::copy_file(path("a"), path("b"),
                                   std::filesystem::copy_options::overwrite_existing);
        std::fstream f(path("b"), std::ios::in | std::ios::out | std::ios::binary);
        f.seekp(static_cast<std::streamoff>(at));
        f.put(static_cast<char>(value));
        f.close();
        const auto r = open_image(loop_, path("b"), {});
        return r ? std::string("opened") : r.error().what;
    };
    EXPECT_NE(with(79, 4).find("external data file"), std::string::npos);
    EXPECT_NE(with(35, 1).find("encrypted"), std::string::npos);
    EXPECT_NE(with(72, 1).find("features"), std::string::npos);
    EXPECT_NE(with(79, 2).find("marked corrupt"), std::string::npos);
    EXPECT_NE(with(23, 30).find("cluster_bits"), std::string::npos);
    EXPECT_EQ(with(79, 0), "opened");
}

TEST_F(Qcow2, probed_raw_cannot_be_turned_into_another_format) {
    const std::string file = raw("disk", 1 << 20, 0);
    auto node = open(file);
    std::vector<u8> sector(512);
    store_be<u32>(sector.data(), qcow2::magic);
    store_be<u32>(sector.data() + 4, 3);

    const auto refused = loop_.block_on(node->write(0, std::span<const u8>(sector)));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, EPERM);
    EXPECT_TRUE(loop_.block_on(node->write(512, std::span<const u8>(sector))));
    node.reset();
    node = open(file, false, "raw"); // stated: the guest's business
    EXPECT_TRUE(loop_.block_on(node->write(0, std::span<const u8>(sector))));
}

TEST_F(Qcow2, snapshot_drive_leaves_the_image_as_it_was) {
    raw("disk", 1 << 20, 0x44);
    auto o = config::parse_options<DriveOptions>("file=" + path("disk") +
                                                 ",format=raw,snapshot=on,cache=unsafe");
    {
        auto node = open_drive(loop_, o);
        write(*node, 1000, 5000, 0x55);
        EXPECT_TRUE(all(read(*node, 1000, 5000), 0x55));
        EXPECT_TRUE(all(read(*node, 6000, 5000), 0x44));
        ASSERT_TRUE(loop_.block_on(node->close()));
    }
    EXPECT_TRUE(all(read(*open(path("disk"), true), 0, 1 << 20), 0x44));
}

TEST_F(Qcow2, drive_options_that_make_no_sense_are_named) {
    const auto message = [&](const std::string &text) -> std::string {
        try {
            open_drive(loop_, config::parse_options<DriveOptions>(text));
            return "accepted";
        } catch (const ConfigError &e) {
            return e.what();
        }
    };
    raw("disk", 4096, 0);
    const std::string file = "file=" + path("disk");
    EXPECT_NE(message(file + ",cache=nonne").find("did you mean 'none'"), std::string::npos);
    EXPECT_NE(message(file + ",format=qcow").find("did you mean 'qcow2'"), std::string::npos);
    EXPECT_NE(message(file + ",aio=fast").find("io_uring"), std::string::npos);
    EXPECT_NE(message(file + "x,format=raw").find("No such file"), std::string::npos);
    EXPECT_NE(message("format=raw").find("file="), std::string::npos);
    EXPECT_EQ(message(file + ",format=raw,aio=threads,discard=unmap"), "accepted");
}

// --- with qemu-img

class Qcow2Interchange : public Qcow2 {
protected:
    void SetUp() override {
        if (run("command -v qemu-img") != 0)
            GTEST_SKIP() << "no qemu-img (Debian package qemu-utils)";
    }
    static int run(const std::string &command) {
        return std::system((command + " >/dev/null 2>&1").c_str());
    }
    /// A raw file of 8 MiB with random pieces in it.
    std::string source() {
        std::mt19937 random(17);
        std::vector<u8> data(8 << 20);
        for (int i = 0; i < 40; ++i) {
            const usize at = random() % (data.size() - 40'000), n = random() % 40'000;
            const bool text = i % 2;
            for (usize k = 0; k < n; ++k)
                data[at + k] = static_cast<u8>(text ? "text "[k % 5] : static_cast<int>(random()));
        }
        std::ofstream out(path("source"), std::ios::binary);
        out.write(reinterpret_cast<const char *>(data.data()), static_cast<i64>(data.size()));
        return path("source");
    }
};

TEST_F(Qcow2Interchange, images_that_qemu_img_wrote_read_the_same) {
    const std::string from = source();
    auto original = open(from, true, "raw");
    const auto expected = read(*original, 0, original->length());
    for (const char *options :
         {"", "-o compat=0.10", "-o cluster_size=512", "-o cluster_size=2M", "-c",
          "-c -o compression_type=zstd", "-o refcount_bits=1", "-o refcount_bits=64",
          "-o extended_l2=on", "-o lazy_refcounts=on", "-o preallocation=metadata"}) {
        ASSERT_EQ(run("qemu-img convert -f raw -O qcow2 " + std::string(options) + " " + from +
                      " " + path("theirs")),
                  0)
            << options;
        auto theirs = open(path("theirs"), true, "qcow2");
        ASSERT_TRUE(theirs) << options;
        EXPECT_TRUE(read(*theirs, 0, theirs->length()) == expected) << options;
        expect_clean(*theirs);
    }
}

TEST_F(Qcow2Interchange, images_that_we_wrote_are_clean_and_read_the_same_there) {
    const std::string from = source();
    const auto data = read(*open(from, true, "raw"), 0, 8 << 20);
    for (const u64 cluster : {u64{512}, u64{4096}, u64{65536}, u64{2} << 20})
        for (const u32 bits : {1u, 16u, 64u}) {
            auto o = sized(8 << 20);
            o.cluster_size = cluster;
            o.refcount_bits = bits;
            create(path("ours"), o);
            {
                auto ours = open(path("ours"));
                std::mt19937 random(5);
                for (u64 at = 0; at < data.size();) {
                    const u64 n = std::min<u64>(1 + random() % 300'000, data.size() - at);
                    const auto piece = std::span<const u8>(data).subspan(at, n);
                    ASSERT_TRUE(loop_.block_on(is_zero(piece) ? ours->write_zeroes(at, n, true)
                                                              : ours->write(at, piece)));
                    at += n;
                }
                if (bits > 1) {
                    auto &image = static_cast<Image &>(*ours);
                    ASSERT_TRUE(loop_.block_on(image.snapshot_create("s", 1, 1)));
                    ASSERT_TRUE(loop_.block_on(image.discard(1 << 20, 3 << 20)));
                    ASSERT_TRUE(loop_.block_on(image.snapshot_apply("s")));
                }
                ASSERT_TRUE(loop_.block_on(ours->close()));
            }
            EXPECT_EQ(run("qemu-img check " + path("ours")), 0) << cluster << ' ' << bits;
            EXPECT_EQ(run("qemu-img compare -f raw -F qcow2 " + from + " " + path("ours")), 0)
                << cluster << ' ' << bits;
        }
}

TEST_F(Qcow2Interchange, lock_keeps_qemu_img_out) {
    create(path("a"), sized(1 << 20));
    auto a = open(path("a"));
    EXPECT_NE(run("qemu-img resize " + path("a") + " 2M"), 0);
    a.reset();
    EXPECT_EQ(run("qemu-img resize " + path("a") + " 2M"), 0);
}

} // namespace
} // namespace rhea::block
