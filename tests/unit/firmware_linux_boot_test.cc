#include "hw/firmware/linux_boot.h"

#include "dm/core/config_error.h"
#include "dm/core/endian.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

using Bytes = std::vector<u8>;
constexpr u64 mib = u64{1} << 20;

/// A bzImage that holds nothing but its header: what a loader looks at.
struct FakeKernel {
    u16 version = 0x020f;
    u64 code_size = 0x3000;
    u64 preferred = 16 * mib;
    u32 init_size = 4 * mib;
    u32 initrd_max = 0x7fffffff;
    u32 command_line_max = 255;

    Bytes bytes() const {
        constexpr usize setup = 4 * 512 + 512;
        Bytes b(setup + code_size);
        b[0x1f1] = 4;
        store_le<u32>(&b[0x1f4], u32((code_size + 15) / 16));
        store_le<u16>(&b[0x1fe], 0xaa55);
        b[0x200] = 0xeb;
        b[0x201] = 0x66;
        std::memcpy(&b[0x202], "HdrS", 4);
        store_le<u16>(&b[0x206], version);
        b[0x211] = 1;
        store_le<u32>(&b[0x22c], initrd_max);
        store_le<u32>(&b[0x238], command_line_max);
        store_le<u64>(&b[0x258], preferred);
        store_le<u32>(&b[0x260], init_size);
        for (usize i = 0; i < code_size; ++i)
            b[setup + i] = u8(i * 7 + 1);
        return b;
    }
};

class LinuxBootTest : public testing::Test {
protected:
    LinuxBootTest() {
        folder_ = (std::filesystem::temp_directory_path() / "rhea-boot-XXXXXX").string();
        if (!::mkdtemp(folder_.data()))
            throw std::runtime_error("mkdtemp");
    }
    ~LinuxBootTest() override { std::filesystem::remove_all(folder_); }

    std::string file(const std::string &name, const Bytes &b) {
        std::ofstream(folder_ + "/" + name, std::ios::binary)
            .write(reinterpret_cast<const char *>(b.data()), std::streamsize(b.size()));
        return folder_ + "/" + name;
    }
    LinuxEntry load(const LinuxBoot &boot, u64 ram_size) {
        ram_ = RamRegion::create("ram", ram_size).value();
        mapping_ = map_.map_ram(0, ram_);
        return load_linux(map_, boot, {ram_size, 0}, make_acpi_tables({}));
    }
    std::string refusal(const LinuxBoot &boot, u64 ram_size = 64 * mib) {
        try {
            load(boot, ram_size);
        } catch (const ConfigError &e) {
            return e.what();
        }
        return "(loaded)";
    }
    u8 *at(u64 address) { return ram_->host() + address; }

    std::string folder_;
    AddressMap map_;
    std::shared_ptr<RamRegion> ram_;
    Mapping mapping_;
};

bool has(const std::string &text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

TEST_F(LinuxBootTest, kernel_initrd_and_command_line_are_where_boot_params_says) {
    const Bytes kernel = FakeKernel{}.bytes();
    const Bytes initrd(12345, 0xab);
    const LinuxEntry e = load({file("k", kernel), file("i", initrd), "console=ttyS0"}, 64 * mib);

    EXPECT_EQ(e.eip, 0x100000u);
    EXPECT_EQ(std::memcmp(at(e.eip), &kernel[2560], 0x3000), 0);
    const u8 *params = at(e.esi);
    EXPECT_EQ(std::memcmp(params + 0x202, "HdrS", 4), 0);
    EXPECT_EQ(params[0x210], 0xff);
    EXPECT_STREQ(reinterpret_cast<char *>(at(load_le<u32>(params + 0x228))), "console=ttyS0");
    const u32 initrd_at = load_le<u32>(params + 0x218);
    EXPECT_EQ(load_le<u32>(params + 0x21c), 12345u);
    EXPECT_GE(initrd_at, 20 * mib);
    EXPECT_EQ(std::memcmp(at(initrd_at), initrd.data(), initrd.size()), 0);
    EXPECT_EQ(std::memcmp(at(load_le<u64>(params + 0x70)), "RSD PTR ", 8), 0);
    EXPECT_EQ(load_le<u64>(at(e.gdt_base + 0x10)), 0x00cf9b000000ffffu);
    EXPECT_EQ(e.gdt_limit, 31);
}

TEST_F(LinuxBootTest, memory_map_is_sorted_disjoint_and_ends_with_ram) {
    const LinuxEntry e = load({file("k", FakeKernel{}.bytes()), "", ""}, 64 * mib);
    const u8 *params = at(e.esi);
    u64 end = 0, usable = 0;
    for (u8 i = 0; i < params[0x1e8]; ++i) {
        const u8 *entry = params + 0x2d0 + 20 * i;
        EXPECT_GE(load_le<u64>(entry), end);
        end = load_le<u64>(entry) + load_le<u64>(entry + 8);
        if (load_le<u32>(entry + 16) == 1)
            usable += load_le<u64>(entry + 8);
    }
    EXPECT_LE(usable, 64 * mib);
    EXPECT_GT(usable, 63 * mib);
}

TEST_F(LinuxBootTest, initrd_stays_below_the_kernels_limit) {
    FakeKernel k;
    k.initrd_max = 0x1ffffff; // 32 MiB
    const LinuxEntry e = load({file("k", k.bytes()), file("i", Bytes(mib)), ""}, 64 * mib);
    EXPECT_LE(load_le<u32>(at(e.esi) + 0x218) + mib, 32 * mib);
}

TEST_F(LinuxBootTest, what_is_no_kernel_is_named) {
    EXPECT_TRUE(has(refusal({folder_ + "/none", "", ""}), "-kernel " + folder_ + "/none: No such"));
    EXPECT_TRUE(has(refusal({folder_, "", ""}), "is a directory"));
    EXPECT_TRUE(has(refusal({file("e", {}), "", ""}), "empty"));
    EXPECT_TRUE(has(refusal({file("t", Bytes(5000, 'x')), "", ""}), "no boot header"));
    EXPECT_TRUE(has(refusal({file("elf", {0x7f, 'E', 'L', 'F', 1, 2, 3, 4}), "", ""}), "ELF"));
    EXPECT_TRUE(has(refusal({file("gz", {0x1f, 0x8b, 8, 0, 0}), "", ""}), "gzip"));
    EXPECT_TRUE(has(refusal({"/proc/self/mem", "", ""}), "/proc/self/mem"));
}

TEST_F(LinuxBootTest, every_truncation_of_a_kernel_is_refused) {
    const Bytes whole = FakeKernel{}.bytes();
    for (usize n = 0; n + 16 < whole.size(); n += n < 0x300 ? 1 : 97) {
        const std::string said =
            refusal({file("k", Bytes(whole.begin(), whole.begin() + std::ptrdiff_t(n))), "", ""});
        EXPECT_TRUE(said.starts_with("-kernel ")) << n << ": " << said;
    }
}

TEST_F(LinuxBootTest, header_full_of_ones_is_refused) {
    Bytes b = FakeKernel{}.bytes();
    std::fill(b.begin() + 0x212, b.begin() + 0x268, u8{0xff});
    EXPECT_NE(refusal({file("k", b), "", ""}), "(loaded)");
    b = FakeKernel{}.bytes();
    std::fill(b.begin() + 0x1f1, b.begin() + 0x1f8, u8{0xff});
    EXPECT_NE(refusal({file("k", b), "", ""}), "(loaded)");
}

TEST_F(LinuxBootTest, too_little_memory_says_how_much_is_needed) {
    const std::string said = refusal({file("k", FakeKernel{}.bytes()), "", ""}, 16 * mib);
    EXPECT_TRUE(has(said, "needs at least 21 MiB")) << said;
    EXPECT_TRUE(has(said, "has 16 MiB")) << said;
}

TEST_F(LinuxBootTest, initrd_that_does_not_fit_says_how_much_is_needed) {
    const std::string kernel = file("k", FakeKernel{}.bytes());
    const std::string said = refusal({kernel, file("i", Bytes(20 * mib)), ""}, 32 * mib);
    EXPECT_TRUE(has(said, "-initrd ")) << said;
    EXPECT_TRUE(has(said, "at least 41 MiB")) << said;
    EXPECT_TRUE(has(refusal({kernel, file("empty", {}), ""}), "empty"));
    EXPECT_TRUE(has(refusal({kernel, folder_ + "/none", ""}), "-initrd "));
}

TEST_F(LinuxBootTest, command_line_longer_than_the_kernel_takes_is_refused) {
    const std::string kernel = file("k", FakeKernel{}.bytes());
    EXPECT_TRUE(has(refusal({kernel, "", std::string(256, 'a')}), "-append"));
    EXPECT_EQ(refusal({kernel, "", std::string(255, 'a')}), "(loaded)");
}

TEST_F(LinuxBootTest, old_kernel_is_refused) {
    FakeKernel k;
    k.version = 0x0203;
    EXPECT_TRUE(has(refusal({file("k", k.bytes()), "", ""}), "too old"));
}

} // namespace
} // namespace rhea::hw
