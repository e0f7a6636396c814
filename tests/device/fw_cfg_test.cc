// fw_cfg through its ports and its DMA interface.
#include "dm/core/config_error.h"
#include "dm/core/endian.h"
#include "dm/device/bench.h"
#include "hw/fw_cfg/fw_cfg.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

struct Config : testing::Test {
    Config() { bench.plug(fw); }
    std::string read(u16 key, usize size) {
        bench.out16(0x510, key);
        std::string out;
        while (out.size() < size)
            out += static_cast<char>(bench.in8(0x511));
        return out;
    }
    // Runs a DMA command from a structure at 1000h; what its control word becomes.
    u32 dma(u32 control, u32 length, u64 address) {
        u8 *at = bench.ram->host() + 0x1000;
        store_be<u32>(at, control);
        store_be<u32>(at + 4, length);
        store_be<u64>(at + 8, address);
        bench.out32(0x514, 0);
        bench.out32(0x518, byte_swap(u32{0x1000}));
        return load_be<u32>(at);
    }

    Bench bench;
    FwCfg fw{"fw_cfg", bench.address_map};
};

TEST_F(Config, it_has_the_signature_and_both_interfaces) {
    EXPECT_EQ(read(FwCfg::signature, 4), "QEMU");
    EXPECT_EQ(read(FwCfg::id, 4), std::string("\3\0\0\0", 4));
    EXPECT_EQ(byte_swap(bench.in32(0x514)), 0x51454d55u);
    EXPECT_EQ(byte_swap(bench.in32(0x518)), 0x20434647u);
}

TEST_F(Config, an_item_reads_as_zeros_after_its_end_and_one_that_is_not_there_always) {
    fw.add_u16(FwCfg::nb_cpus, 0x0102);
    EXPECT_EQ(read(FwCfg::nb_cpus, 4), std::string("\2\1\0\0", 4));
    EXPECT_EQ(read(0x1234, 2), std::string("\0\0", 2));
}

TEST_F(Config, selecting_starts_an_item_over) {
    fw.add_string(FwCfg::cmdline_data, "console=ttyS0");
    EXPECT_EQ(read(FwCfg::cmdline_data, 3), "con");
    EXPECT_EQ(read(FwCfg::cmdline_data, 14), std::string("console=ttyS0\0", 14));
}

TEST_F(Config, the_directory_lists_files_in_the_order_of_their_names) {
    fw.add_file("etc/zebra", {1, 2, 3});
    fw.add_file("etc/ant", {4});
    const std::string dir = read(FwCfg::file_directory, 4 + 2 * 64);
    EXPECT_EQ(load_be<u32>(dir.data()), 2u);
    EXPECT_STREQ(dir.data() + 4 + 8, "etc/ant");
    EXPECT_STREQ(dir.data() + 4 + 64 + 8, "etc/zebra");
    EXPECT_EQ(load_be<u32>(dir.data() + 4 + 64), 3u);
    const u16 key = load_be<u16>(dir.data() + 4 + 64 + 4);
    EXPECT_EQ(read(key, 3), "\1\2\3");
    fw.add_file("etc/zebra", {9}); // replaced, at the same number
    EXPECT_EQ(read(key, 1), "\x9");
}

TEST_F(Config, dma_reads_an_item_and_fills_up_with_zeros) {
    fw.add_file("etc/x", {'a', 'b', 'c'});
    std::memset(bench.ram->host() + 0x2000, 0xee, 8);
    EXPECT_EQ(dma(u32{FwCfg::first_file} << 16 | 0x0a, 5, 0x2000), 0u);
    EXPECT_EQ(bench.read64(0x2000), 0xeeeeee0000636261u);
}

TEST_F(Config, dma_skips_and_goes_on) {
    fw.add_file("etc/x", {'a', 'b', 'c', 'd'});
    EXPECT_EQ(dma(u32{FwCfg::first_file} << 16 | 0x0c, 2, 0), 0u);
    EXPECT_EQ(dma(0x02, 1, 0x2000), 0u);
    EXPECT_EQ(bench.read8(0x2000), 'c');
    EXPECT_EQ(bench.in8(0x511), 'd');
}

TEST_F(Config, dma_refuses_writes_and_what_is_no_ram) {
    fw.add_file("etc/x", {'a'});
    EXPECT_EQ(dma(u32{FwCfg::first_file} << 16 | 0x18, 1, 0x2000), 1u);
    EXPECT_EQ(dma(u32{FwCfg::first_file} << 16 | 0x0a, 1, 0xf000'0000), 1u);
    EXPECT_EQ(dma(0x02, 0xffff'ffff, 0x2000), 1u); // runs out of RAM, and ends
    bench.out32(0x514, 0xffff'ffff);               // a structure that is nowhere
    bench.out32(0x518, 0xffff'ffff);
}

TEST_F(Config, names_that_do_not_fit_are_refused) {
    EXPECT_THROW(fw.add_file(std::string(56, 'x'), {}), ConfigError);
    EXPECT_THROW(fw.add_file("", {}), ConfigError);
    fw.add_file(std::string(55, 'x'), {1});
    EXPECT_NE(fw.file(std::string(55, 'x')), nullptr);
    EXPECT_EQ(fw.file("nothing"), nullptr);
}

} // namespace
} // namespace rhea::hw
