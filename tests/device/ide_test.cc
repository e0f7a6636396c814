// The PIIX3's IDE function with disks and a CD-ROM in memory: transfers, errors, packets, and
// guests that mean no good.
#include "block/memory_node.h"
#include "dm/core/endian.h"
#include "dm/device/bench.h"
#include "hw/ide/piix3_ide.h"
#include "tests/device/conformance.h"

#include <gtest/gtest.h>

#include <numeric>

namespace rhea::hw {
namespace {

using namespace ata;

constexpr u64 disk_sectors = 4000, cd_blocks = 100;
constexpr u64 config = pci::config_base(1, 1);
constexpr u16 bus_master = 0xc000;
constexpr u32 prd_table = 0x10000, dma_buffer = 0x20000;

// A disk whose reads or writes fail from a sector on.
class Failing final : public block::MemoryNode {
public:
    explicit Failing(u64 length) : MemoryNode(length) {}
    u64 bad_from = ~u64{0};

protected:
    block::Task<> do_read(u64 at, block::ConstVectors into) override {
        return at >= bad_from ? refuse() : MemoryNode::do_read(at, into);
    }
    block::Task<> do_write(u64 at, block::ConstVectors from) override {
        return at >= bad_from ? refuse() : MemoryNode::do_write(at, from);
    }

private:
    block::Task<> refuse() { co_await loop::raise(EIO, "a bad place"); }
};

struct Ide : testing::Test {
    Ide() {
        auto node = std::make_unique<Failing>(disk_sectors * 512);
        auto cd_node = std::make_unique<block::MemoryNode>(cd_blocks * 2048);
        disk_node = node.get();
        for (usize i = 0; i < node->bytes().size(); ++i)
            node->bytes()[i] = content(i);
        for (usize i = 0; i < cd_node->bytes().size(); ++i)
            cd_node->bytes()[i] = content(i + 7);
        disk = std::make_unique<block::Disk>(loop, std::move(node));
        cd = std::make_unique<block::Disk>(loop, std::move(cd_node));
        Piix3Ide::Config c;
        c[0] = {.disk = disk.get(), .present = true, .serial = "S1", .model = "MODEL"};
        c[2] = {.disk = cd.get(), .present = true, .cdrom = true, .serial = "S2", .model = "CD"};
        ide = std::make_unique<Piix3Ide>("ide", bench.address_map, bench.irq.line(14),
                                         bench.irq.line(15), c);
        bench.plug(*ide);
        decode();
    }
    ~Ide() override {
        wait();
        bench.unplug();
        ide.reset();
    }
    void decode() {
        bench.cpu.write(Space::pci_config, config + 0x40, 4, 0x8000'8000);
        bench.cpu.write(Space::pci_config, config + 0x20, 4, bus_master);
        bench.cpu.write(Space::pci_config, config + 0x04, 2, 5);
    }
    static u8 content(u64 i) { return static_cast<u8>(i * 13 + i / 512 * 5 + i / 65536); }
    void wait() {
        while (!ide->quiet())
            loop.turn(true);
    }
    // Of channel 0: a command to drive 0 with a 28-bit address.
    void command(u8 code, u32 lba = 0, u8 count = 1) {
        bench.out8(0x1f6, static_cast<u8>(0xe0 | lba >> 24));
        bench.out8(0x1f2, count);
        bench.out8(0x1f3, static_cast<u8>(lba));
        bench.out8(0x1f4, static_cast<u8>(lba >> 8));
        bench.out8(0x1f5, static_cast<u8>(lba >> 16));
        bench.out8(0x1f7, code);
    }
    u8 status() {
        wait();
        return bench.in8(0x1f7);
    }
    std::vector<u8> take(u16 port, usize n) {
        std::vector<u8> out;
        for (usize i = 0; i < n; i += 2) {
            const u16 w = bench.in16(port);
            out.push_back(static_cast<u8>(w));
            out.push_back(static_cast<u8>(w >> 8));
        }
        return out;
    }
    void give(u16 port, std::span<const u8> bytes) {
        for (usize i = 0; i + 1 < bytes.size(); i += 2)
            bench.out16(port, static_cast<u16>(bytes[i] | bytes[i + 1] << 8));
    }
    // A packet to the CD-ROM, and what it answers by the data register.
    std::vector<u8> packet(std::vector<u8> p, u16 limit = 0xfffe, u8 features = 0) {
        p.resize(12);
        bench.out8(0x176, 0xa0);
        bench.out8(0x171, features);
        bench.out8(0x174, static_cast<u8>(limit));
        bench.out8(0x175, static_cast<u8>(limit >> 8));
        bench.out8(0x177, PACKET);
        give(0x170, p);
        std::vector<u8> out;
        wait();
        while (!features && bench.in8(0x376) & DRQ) {
            const usize n = bench.in8(0x174) | bench.in8(0x175) << 8;
            EXPECT_LE(n, limit);
            const auto part = take(0x170, (n + 1) & ~usize{1});
            out.insert(out.end(), part.begin(), part.begin() + static_cast<i64>(n));
            wait();
        }
        return out;
    }
    std::vector<u8> sense() { return packet({REQUEST_SENSE, 0, 0, 0, 18}); }
    void clear_attention() { packet({TEST_UNIT_READY}), sense(); }
    void prd(unsigned n, u32 address, u32 size, bool last) {
        bench.write32(prd_table + 8 * n, address);
        bench.write32(prd_table + 8 * n + 4, (size & 0xffff) | (last ? 0x8000'0000 : 0));
    }
    void start(bool to_memory, u16 channel = 0) {
        const u16 base = static_cast<u16>(bus_master + 8 * channel);
        bench.out32(base + 4, prd_table);
        bench.out8(base + 2, 6);
        bench.out8(base, to_memory ? 9 : 1);
    }

    Bench bench;
    loop::Loop loop;
    Failing *disk_node = nullptr;
    std::unique_ptr<block::Disk> disk, cd;
    std::unique_ptr<Piix3Ide> ide;
};

TEST_F(Ide, ide_identify_tells_model_and_capacity) {
    command(IDENTIFY_DEVICE);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    const auto id = take(0x1f0, 512);
    EXPECT_EQ(std::string(id.begin() + 54, id.begin() + 58), "OMED");
    EXPECT_EQ(load_le<u32>(&id[120]), disk_sectors);
    EXPECT_EQ(load_le<u64>(&id[200]), disk_sectors);
    EXPECT_EQ(std::accumulate(id.begin(), id.end(), 0) & 0xff, 0);
    EXPECT_EQ(bench.in8(0x1f7), DRDY | DSC);
}

TEST_F(Ide, ide_pio_read_gives_an_interrupt_for_each_sector) {
    command(READ_SECTORS, 300, 3);
    for (u64 n = 0; n < 3; ++n) {
        wait();
        EXPECT_TRUE(bench.irq.level(14));
        EXPECT_EQ(status(), DRDY | DSC | DRQ);
        EXPECT_FALSE(bench.irq.level(14));
        const auto data = take(0x1f0, 512);
        for (u64 i = 0; i < 512; ++i)
            ASSERT_EQ(data[i], content((300 + n) * 512 + i));
    }
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.irq.rises(14), 3u);
}

TEST_F(Ide, ide_multiple_reads_in_blocks_and_needs_to_be_set) {
    command(READ_MULTIPLE, 0, 5);
    EXPECT_EQ(status() & ERR, ERR);
    command(SET_MULTIPLE_MODE, 0, 4);
    EXPECT_EQ(status(), DRDY | DSC);
    const u32 before = bench.irq.rises(14);
    command(READ_MULTIPLE, 0, 5);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    take(0x1f0, 4 * 512);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    EXPECT_EQ(take(0x1f0, 512)[1], content(4 * 512 + 1));
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.irq.rises(14) - before, 2u);
}

TEST_F(Ide, ide_pio_write_is_on_the_disk_when_the_command_ends) {
    std::vector<u8> data(1024, 0x5a);
    command(WRITE_SECTORS, 9, 2);
    EXPECT_FALSE(bench.irq.level(14)); // the first block is asked for without one
    give(0x1f0, std::span(data).first(512));
    EXPECT_TRUE(bench.irq.level(14));
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    give(0x1f0, std::span(data).last(512));
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(disk_node->bytes()[9 * 512], 0x5a);
    EXPECT_EQ(disk_node->bytes()[11 * 512 - 1], 0x5a);
    EXPECT_EQ(disk_node->bytes()[11 * 512], content(11 * 512));
}

TEST_F(Ide, ide_addresses_by_cylinder_head_and_sector) {
    bench.out8(0x1f6, 0xa0 | 3);
    bench.out8(0x1f2, 1);
    bench.out8(0x1f3, 2);
    bench.out8(0x1f4, 1);
    bench.out8(0x1f5, 0);
    bench.out8(0x1f7, READ_SECTORS);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    EXPECT_EQ(take(0x1f0, 512)[3], content(((1 * 16 + 3) * 63 + 1) * 512 + 3));
    bench.out8(0x1f3, 0); // there is no sector 0
    bench.out8(0x1f7, READ_SECTORS);
    EXPECT_EQ(status() & ERR, ERR);
    EXPECT_EQ(bench.in8(0x1f1), IDNF);
}

TEST_F(Ide, ide_read_beyond_capacity_sets_idnf) {
    command(READ_SECTORS, disk_sectors - 1, 2);
    EXPECT_EQ(status(), DRDY | DSC | ERR);
    EXPECT_EQ(bench.in8(0x1f1), IDNF);
    command(READ_SECTORS, disk_sectors - 1, 1);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    take(0x1f0, 512);
}

TEST_F(Ide, ide_48_bit_address_uses_both_writes) {
    for (const u8 v : {u8{0}, u8{1}}) // sector count 0001h
        bench.out8(0x1f2, v);
    for (const u8 v : {u8{1}, u8{0}}) // bits 31:24 are 1: beyond the end
        bench.out8(0x1f3, v);
    bench.out8(0x1f4, 0), bench.out8(0x1f4, 0);
    bench.out8(0x1f5, 0), bench.out8(0x1f5, 0);
    bench.out8(0x1f6, 0xe0);
    bench.out8(0x1f7, READ_SECTORS_EXT);
    EXPECT_EQ(status(), DRDY | DSC | ERR);
    EXPECT_EQ(bench.in8(0x1f1), IDNF);
    bench.out8(0x3f6, HOB);
    EXPECT_EQ(bench.in8(0x1f3), 1);
    bench.out8(0x1f3, 0), bench.out8(0x1f3, 7);
    bench.out8(0x1f7, READ_SECTORS_EXT);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    EXPECT_EQ(take(0x1f0, 512)[0], content(7 * 512));
}

TEST_F(Ide, ide_dma_read_scatters_over_regions) {
    prd(0, dma_buffer, 700, false);
    prd(1, 0x40000, 324, false);
    prd(2, 0x60000, 512, true);
    command(READ_DMA, 20, 3);
    start(true);
    wait();
    EXPECT_TRUE(bench.irq.level(14));
    EXPECT_EQ(bench.in8(bus_master + 2), 0x04); // interrupt, not active, no error
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.read8(dma_buffer), content(20 * 512));
    EXPECT_EQ(bench.read8(dma_buffer + 699), content(20 * 512 + 699));
    EXPECT_EQ(bench.read8(0x40000 + 323), content(20 * 512 + 1023));
    EXPECT_EQ(bench.read8(0x60000 + 511), content(20 * 512 + 1535));
}

TEST_F(Ide, ide_dma_write_gathers_and_may_be_larger_than_the_buffer) {
    constexpr u32 sectors = 600;
    for (u32 i = 0; i < sectors * 512; i += 4)
        bench.write32(0x100000 + i, i ^ 0x1234'5678);
    for (u32 n = 0; n < 5; ++n)
        prd(n, 0x100000 + n * 0x10000, n < 4 ? 0 : sectors * 512 - 0x40000, n == 4);
    for (const u8 v : {u8{2}, u8{0x58}})
        bench.out8(0x1f2, v);
    for (const u16 port : {u16{0x1f3}, u16{0x1f4}, u16{0x1f5}})
        bench.out8(port, 0), bench.out8(port, port == 0x1f3 ? 5 : 0);
    bench.out8(0x1f6, 0xe0);
    bench.out8(0x1f7, WRITE_DMA_EXT);
    start(false);
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(load_le<u32>(&disk_node->bytes()[5 * 512]), 0x1234'5678u);
    const u32 last = sectors * 512 - 4;
    EXPECT_EQ(load_le<u32>(&disk_node->bytes()[5 * 512 + last]), last ^ 0x1234'5678u);
}

TEST_F(Ide, ide_dma_table_that_is_too_short_waits_for_another) {
    prd(0, dma_buffer, 256, true);
    command(READ_DMA, 1, 1);
    start(true);
    wait();
    EXPECT_EQ(bench.in8(bus_master + 2), 0);
    EXPECT_FALSE(bench.irq.level(14));
    bench.out8(bus_master, 0);
    prd(0, 0x30000, 256, true);
    start(true);
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.read8(0x30000), content(512 + 256));
}

TEST_F(Ide, ide_dma_to_nowhere_sets_the_error_bit_and_aborts) {
    prd(0, 0xd000'0000, 512, true);
    command(READ_DMA, 0, 1);
    start(true);
    EXPECT_EQ(status() & ERR, ERR);
    EXPECT_EQ(bench.in8(0x1f1), ABRT);
    EXPECT_EQ(bench.in8(bus_master + 2) & 3, 2);
    bench.out8(bus_master, 0); // the table itself nowhere
    command(READ_DMA, 0, 1);
    bench.out32(bus_master + 4, 0xfff0'0000);
    bench.out8(bus_master, 9);
    EXPECT_EQ(status() & ERR, ERR);
}

TEST_F(Ide, ide_dma_table_without_an_end_and_with_tiny_regions_ends) {
    constexpr u32 entries = 65536 / 8;
    for (u32 n = 0; n < entries; ++n)
        prd(n, dma_buffer, 2, false);
    command(READ_DMA, 0, 0); // 256 sectors by the table four times over, which wraps
    start(true);
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.read8(dma_buffer + 1), content(256 * 512 - 1));
}

TEST_F(Ide, ide_dma_table_of_largest_regions_reads_beyond_no_command) {
    for (u32 n = 0; n < 65536 / 8; ++n)
        prd(n, 0x100000, 0, false);
    command(READ_DMA, 0, 1);
    start(true);
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.in8(bus_master + 2), 0x05); // the table has more
    EXPECT_EQ(bench.read8(0x100000 + 512), 0);
}

TEST_F(Ide, ide_host_read_error_is_unc_and_the_guest_can_retry) {
    disk_node->bad_from = 50 * 512;
    command(READ_SECTORS, 60, 1);
    EXPECT_EQ(status(), DRDY | DSC | ERR);
    EXPECT_EQ(bench.in8(0x1f1), UNC);
    EXPECT_EQ(bench.in8(0x1f3), 60);
    disk_node->bad_from = ~u64{0};
    command(READ_SECTORS, 60, 1);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    EXPECT_EQ(take(0x1f0, 512)[0], content(60 * 512));
}

TEST_F(Ide, ide_host_write_error_is_abrt) {
    disk_node->bad_from = 0;
    const std::vector<u8> data(512);
    command(WRITE_SECTORS, 3, 1);
    give(0x1f0, data);
    EXPECT_EQ(status(), DRDY | DSC | ERR);
    EXPECT_EQ(bench.in8(0x1f1), ABRT);
}

TEST_F(Ide, ide_flush_and_set_features_and_smart_answer) {
    command(FLUSH_CACHE);
    EXPECT_EQ(status(), DRDY | DSC);
    bench.out8(0x1f1, 0x03);
    command(SET_FEATURES, 0, 0x22);
    EXPECT_EQ(status(), DRDY | DSC);
    bench.out8(0x1f1, 0x03);
    command(SET_FEATURES, 0, 0x27); // no such mode
    EXPECT_EQ(status() & ERR, ERR);
    bench.out8(0x1f1, 0xda);
    command(SMART, 0xc24f00);
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.in8(0x1f4), 0x4f);
    bench.out8(0x1f1, 0xda);
    command(SMART, 0); // without the key
    EXPECT_EQ(bench.in8(0x1f1), ABRT);
}

TEST_F(Ide, ide_soft_reset_shows_the_signatures_and_waits_for_the_disk) {
    command(READ_SECTORS, 0, 1);
    bench.out8(0x3f6, SRST);
    EXPECT_EQ(bench.in8(0x3f6), BSY);
    bench.out8(0x3f6, 0);
    EXPECT_EQ(bench.in8(0x3f6), BSY); // the read is still under way
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(bench.in8(0x1f4), 0);
    bench.out8(0x376, SRST);
    bench.out8(0x376, 0);
    EXPECT_EQ(bench.in8(0x174), 0x14);
    EXPECT_EQ(bench.in8(0x175), 0xeb);
}

TEST_F(Ide, ide_absent_drive_beside_a_present_one_reads_zero) {
    bench.out8(0x1f6, 0xb0);
    EXPECT_EQ(bench.in8(0x1f7), 0);
    bench.out8(0x1f7, IDENTIFY_DEVICE);
    EXPECT_EQ(bench.in8(0x1f7), 0);
    EXPECT_FALSE(bench.irq.level(14));
}

TEST_F(Ide, ide_disabled_channel_does_not_decode) {
    bench.cpu.write(Space::pci_config, config + 0x40, 2, 0);
    EXPECT_EQ(bench.in8(0x1f7), 0xff);
    EXPECT_NE(bench.in8(0x177), 0xff);
}

TEST_F(Ide, ide_interrupts_are_masked_by_nien) {
    bench.out8(0x3f6, nIEN);
    command(IDENTIFY_DEVICE);
    EXPECT_FALSE(bench.irq.level(14));
    bench.out8(0x3f6, 0);
    EXPECT_TRUE(bench.irq.level(14));
}

TEST_F(Ide, ide_save_in_flight_is_taken_up_after_load) {
    command(READ_SECTORS, 77, 1);
    const auto saved = Bench::save(*ide); // the loop has not turned: the read is under way
    wait();
    command(READ_SECTORS, 1, 1);
    wait();
    ASSERT_TRUE(Bench::load(*ide, saved));
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    const auto in_the_middle = Bench::save(*ide);
    take(0x1f0, 512);
    ASSERT_TRUE(Bench::load(*ide, in_the_middle));
    EXPECT_EQ(take(0x1f0, 512)[9], content(77 * 512 + 9));
}

// --- packets

TEST_F(Ide, atapi_reports_reset_once_then_is_ready) {
    packet({TEST_UNIT_READY});
    EXPECT_EQ(bench.in8(0x177) & ERR, ERR);
    EXPECT_EQ(bench.in8(0x171), UNIT_ATTENTION << 4 | ABRT);
    const auto s = sense();
    ASSERT_EQ(s.size(), 18u);
    EXPECT_EQ(s[2], UNIT_ATTENTION);
    EXPECT_EQ(s[12], RESET_OCCURRED);
    packet({TEST_UNIT_READY});
    EXPECT_EQ(bench.in8(0x177), DRDY | DSC);
    EXPECT_EQ(bench.in8(0x172), IO | CoD);
}

TEST_F(Ide, atapi_inquiry_and_capacity) {
    const auto inquiry = packet({INQUIRY, 0, 0, 0, 36});
    ASSERT_EQ(inquiry.size(), 36u);
    EXPECT_EQ(inquiry[0], 5);
    EXPECT_EQ(inquiry[1], 0x80);
    clear_attention();
    const auto capacity = packet({READ_CAPACITY});
    ASSERT_EQ(capacity.size(), 8u);
    EXPECT_EQ(load_be<u32>(&capacity[0]), cd_blocks - 1);
    EXPECT_EQ(load_be<u32>(&capacity[4]), 2048u);
}

TEST_F(Ide, atapi_read_by_pio_in_pieces_of_the_hosts_size) {
    clear_attention();
    const auto data = packet({READ_10, 0, 0, 0, 0, 5, 0, 0, 70}, 1000);
    ASSERT_EQ(data.size(), 70u * 2048);
    for (usize i = 0; i < data.size(); ++i)
        ASSERT_EQ(data[i], content(5 * 2048 + i + 7));
}

TEST_F(Ide, atapi_read_by_dma) {
    clear_attention();
    prd(0, dma_buffer, 4096, true);
    packet({READ_12, 0, 0, 0, 0, 9, 0, 0, 0, 2}, 0xfffe, 1);
    start(true, 1);
    wait();
    EXPECT_TRUE(bench.irq.level(15));
    EXPECT_EQ(bench.in8(bus_master + 10), 4);
    EXPECT_EQ(bench.in8(0x177), DRDY | DSC);
    EXPECT_EQ(bench.read8(dma_buffer + 4095), content(11 * 2048 - 1 + 7));
}

TEST_F(Ide, atapi_read_beyond_the_end_is_refused) {
    clear_attention();
    packet({READ_10, 0, 0, 0, 0, 99, 0, 0, 2});
    EXPECT_EQ(bench.in8(0x171), ILLEGAL_REQUEST << 4 | ABRT);
    EXPECT_EQ(sense()[12], LBA_OUT_OF_RANGE);
    packet({READ_12, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff});
    EXPECT_EQ(bench.in8(0x171), ILLEGAL_REQUEST << 4 | ABRT);
}

TEST_F(Ide, atapi_toc_has_one_data_track_and_the_lead_out) {
    clear_attention();
    const auto toc = packet({READ_TOC, 0, 0, 0, 0, 0, 0, 0, 100});
    ASSERT_EQ(toc.size(), 20u);
    EXPECT_EQ(toc[6], 1);
    EXPECT_EQ(toc[14], 0xaa);
    EXPECT_EQ(load_be<u32>(&toc[16]), cd_blocks);
    EXPECT_EQ(packet({READ_TOC, 2, 2, 0, 0, 0, 0, 0, 100}).size(), 48u);
}

TEST_F(Ide, atapi_configuration_mode_and_events) {
    const auto configuration = packet({GET_CONFIGURATION, 0, 0, 0, 0, 0, 0, 1, 0});
    ASSERT_GE(configuration.size(), 20u);
    EXPECT_EQ(load_be<u32>(&configuration[0]) + 4, configuration.size());
    EXPECT_EQ(load_be<u16>(&configuration[6]), 8);
    clear_attention();
    const auto mode = packet({MODE_SENSE_10, 0, 0x2a, 0, 0, 0, 0, 0, 100});
    ASSERT_EQ(mode.size(), 28u);
    EXPECT_EQ(mode[8], 0x2a);
    const auto event = packet({GET_EVENT_STATUS, 1, 0, 0, 0x10, 0, 0, 0, 8});
    ASSERT_EQ(event.size(), 8u);
    EXPECT_EQ(event[5], 2);
    EXPECT_EQ(packet({MECHANISM_STATUS, 0, 0, 0, 0, 0, 0, 0, 0, 8}).size(), 8u);
}

TEST_F(Ide, atapi_tray_is_held_while_locked_and_a_closed_one_is_a_new_medium) {
    clear_attention();
    packet({PREVENT_ALLOW, 0, 0, 0, 1});
    packet({START_STOP_UNIT, 0, 0, 0, 2});
    EXPECT_EQ(sense()[12], REMOVAL_PREVENTED);
    packet({PREVENT_ALLOW});
    packet({START_STOP_UNIT, 0, 0, 0, 2});
    packet({TEST_UNIT_READY});
    EXPECT_EQ(sense()[12], MEDIUM_NOT_PRESENT);
    packet({START_STOP_UNIT, 0, 0, 0, 3});
    packet({TEST_UNIT_READY});
    EXPECT_EQ(sense()[12], MEDIUM_MAY_HAVE_CHANGED);
    packet({TEST_UNIT_READY});
    EXPECT_EQ(bench.in8(0x177), DRDY | DSC);
}

TEST_F(Ide, atapi_unknown_packet_is_an_invalid_opcode) {
    clear_attention();
    packet({0xf7});
    EXPECT_EQ(sense()[12], INVALID_OPCODE);
}

TEST_F(Ide, atapi_every_packet_with_noise_leaves_the_drive_usable) {
    for (unsigned code = 0; code < 256; ++code)
        for (unsigned seed = 0; seed < 3; ++seed) {
            auto p = conformance::noise(code * 3 + seed, 12);
            p[0] = static_cast<u8>(code);
            packet(p, seed ? 0x200 : 2);
        }
    bench.out8(0x177, DEVICE_RESET);
    wait();
    packet({START_STOP_UNIT, 0, 0, 0, 3});
    clear_attention();
    EXPECT_EQ(packet({READ_10, 0, 0, 0, 0, 1, 0, 0, 1}).size(), 2048u);
}

TEST_F(Ide, ide_noise_on_every_register_never_hangs_it) {
    for (u64 seed = 1; seed <= 20; ++seed) {
        const auto bytes = conformance::noise(seed, 6000);
        for (usize i = 0; i + 3 < bytes.size(); i += 3) {
            static constexpr u16 ports[] = {0x1f0, 0x170, 0x3f6, 0x376, bus_master};
            const u16 base = ports[bytes[i] % 5];
            const u16 port =
                static_cast<u16>(base + (base == 0x3f6 || base == 0x376
                                             ? 0
                                             : bytes[i + 1] & (base == bus_master ? 15 : 7)));
            if (bytes[i] & 0x20)
                bench.in8(port);
            else if (bytes[i] & 0x40)
                bench.out16(port, static_cast<u16>(bytes[i + 2] * 257));
            else
                bench.out8(port, bytes[i + 2]);
            if (bytes[i] >= 0xf0)
                loop.turn(false);
            if (bytes[i] == 0x80)
                ide->reset(), decode();
        }
    }
    wait();
    ide->reset();
    decode();
    bench.out8(0x3f6, SRST);
    bench.out8(0x3f6, 0);
    EXPECT_EQ(status(), DRDY | DSC);
    disk_node->bytes()[0] = 0x42;
    command(READ_SECTORS, 0, 1);
    EXPECT_EQ(status(), DRDY | DSC | DRQ);
    EXPECT_EQ(take(0x1f0, 512)[0], 0x42);
}

TEST_F(Ide, ide_damaged_state_is_refused_or_harmless) {
    command(WRITE_SECTORS, 3, 1);
    bench.out16(0x1f0, 0x1234);
    const auto saved = Bench::save(*ide);
    for (usize i = 12; i < saved.size(); i += 7) {
        auto bad = saved;
        bad[i] ^= 0x55;
        EXPECT_FALSE(Bench::load(*ide, bad)); // its checksum
    }
    ASSERT_TRUE(Bench::load(*ide, saved));
    give(0x1f0, std::vector<u8>(510, 1));
    EXPECT_EQ(status(), DRDY | DSC);
    EXPECT_EQ(load_le<u16>(&disk_node->bytes()[3 * 512]), 0x1234);
}

} // namespace
} // namespace rhea::hw
