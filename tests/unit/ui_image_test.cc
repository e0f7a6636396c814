// Pictures as files.
#include "dm/core/endian.h"
#include "dm/ui/image.h"

#include <cstdio>
#include <gtest/gtest.h>
#include <string>
#include <zlib.h>

namespace rhea::ui {
namespace {

Surface two_by_two() {
    Surface s;
    s.resize(2, 2);
    s.pixels = {0x010203, 0xffffff, 0x000000, 0xff8000};
    return s;
}

TEST(UiImage, ppm_is_a_head_and_three_bytes_a_pixel) {
    const auto bytes = encode_ppm(two_by_two());
    const std::string expected("P6\n2 2\n255\n\x01\x02\x03\xff\xff\xff\0\0\0\xff\x80\0", 23);
    EXPECT_EQ(std::string(bytes.begin(), bytes.end()), expected);
}

TEST(UiImage, png_chunks_have_their_sums_and_the_rows_unpack) {
    const auto bytes = encode_png(two_by_two());
    ASSERT_GT(bytes.size(), 57u);
    EXPECT_EQ(load_be<u64>(bytes.data()), 0x89504e470d0a1a0au);
    std::string types;
    std::vector<u8> rows(14);
    for (std::size_t at = 8; at < bytes.size();) {
        const u32 size = load_be<u32>(&bytes[at]);
        ASSERT_LE(at + 12 + size, bytes.size());
        EXPECT_EQ(load_be<u32>(&bytes[at + 8 + size]),
                  static_cast<u32>(crc32(0, &bytes[at + 4], size + 4)));
        const std::string type(bytes.begin() + static_cast<long>(at) + 4,
                               bytes.begin() + static_cast<long>(at) + 8);
        types += type + ' ';
        if (type == "IHDR") {
            EXPECT_EQ(load_be<u64>(&bytes[at + 8]), 0x0000000200000002u);
        } else if (type == "IDAT") {
            uLongf length = rows.size();
            ASSERT_EQ(uncompress(rows.data(), &length, &bytes[at + 8], size), Z_OK);
            ASSERT_EQ(length, rows.size());
        }
        at += 12 + size;
    }
    EXPECT_EQ(types, "IHDR IDAT IEND ");
    EXPECT_EQ(rows, (std::vector<u8>{0, 1, 2, 3, 255, 255, 255, 0, 0, 0, 0, 255, 128, 0}));
}

TEST(UiImage, file_that_cannot_be_written_is_an_error_that_names_it) {
    const auto done = write_png(two_by_two(), "/nowhere/at/all.png");
    ASSERT_FALSE(done);
    EXPECT_NE(done.error().what.find("/nowhere/at/all.png"), std::string::npos);
}

TEST(UiImage, written_file_replaces_the_old_one_whole) {
    const std::string path = testing::TempDir() + "rhea-image-test.ppm";
    ASSERT_TRUE(write_ppm(two_by_two(), path));
    ASSERT_TRUE(write_ppm(two_by_two(), path));
    std::FILE *file = std::fopen(path.c_str(), "rb");
    ASSERT_NE(file, nullptr);
    char text[64];
    EXPECT_EQ(std::fread(text, 1, sizeof text, file), 23u);
    std::fclose(file);
    EXPECT_EQ(std::remove(path.c_str()), 0);
}

} // namespace
} // namespace rhea::ui
