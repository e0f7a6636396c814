// Page walks, the TLB, and accesses by linear address.

#include "tests/unit/x86_fixture.h"

namespace rhea::dbt::x86 {
namespace {

constexpr u64 p = 1, w = 2, u = 4, a = 32, d = 64, ps = 128, g = 256, nx = u64{1} << 63;
// Virtual addresses used by the tests, and physical pages for them.
constexpr u64 va = 0x4000'0000, page_a = 0x100000, page_b = 0x101000;

// A long-mode CPU with one 4 KiB page table for 2 MiB at `va`.
class Paging : public ::testing::Test {
protected:
    static constexpr u64 pd = TestCpu::tables + 0x3000, pt = TestCpu::tables + 0x4000;

    Paging() : t(TestCpu::Mode::long64), cpu(t.cpu) {
        t.poke<u64>(TestCpu::tables + 0x1000 + 8, pd | 7); // 1 GiB .. 2 GiB
        t.poke<u64>(pd, pt | 7);
        cpu.efer |= efer::nxe;
    }
    void map(unsigned index, u64 entry) { t.poke<u64>(pt + 8 * index, entry); }
    u64 entry(unsigned index) const { return t.peek<u64>(pt + 8 * index); }
    Outcome access(u64 linear, AccessType type, bool user = false) {
        return translate(t.context, linear, type, user, page, fault);
    }
    u32 error(u64 linear, AccessType type, bool user = false) {
        EXPECT_EQ(access(linear, type, user), Outcome::fault);
        EXPECT_EQ(fault.vector, vector::pf);
        EXPECT_EQ(fault.address, linear);
        return fault.error_code;
    }

    TestCpu t;
    Cpu &cpu;
    Translation page{};
    Fault fault{};
};

TEST_F(Paging, read_sets_accessed_and_write_sets_dirty) {
    map(0, page_a | p | w | u);
    ASSERT_EQ(access(va, AccessType::read), Outcome::ok);
    EXPECT_EQ(page.physical, page_a);
    EXPECT_EQ(page.host, t.ram.get() + page_a);
    EXPECT_FALSE(page.writable_ram);
    EXPECT_EQ(entry(0), page_a | p | w | u | a);
    EXPECT_EQ(t.peek<u64>(pd) & (a | d), a);
    ASSERT_EQ(access(va, AccessType::write), Outcome::ok);
    EXPECT_TRUE(page.writable_ram);
    EXPECT_EQ(entry(0), page_a | p | w | u | a | d);
}

TEST_F(Paging, error_codes_tell_what_was_wrong) {
    map(0, page_a | p);     // supervisor, read-only
    map(1, page_a | p | u); // user, read-only
    map(3, page_a | p | w | u | nx);
    map(4, page_a | p | w | u | u64{1} << 45); // beyond MAXPHYADDR
    EXPECT_EQ(error(va, AccessType::read, true), 5u);
    EXPECT_EQ(error(va, AccessType::write, true), 7u);
    cpu.cr0 |= cr0::wp;
    EXPECT_EQ(error(va, AccessType::write), 3u);
    EXPECT_EQ(error(va + 0x1000, AccessType::write, true), 7u);
    EXPECT_EQ(error(va + 0x2000, AccessType::read), 0u);
    EXPECT_EQ(error(va + 0x2000, AccessType::execute, true), 0x14u);
    EXPECT_EQ(error(va + 0x3000, AccessType::execute, true), 0x15u);
    EXPECT_EQ(error(va + 0x4000, AccessType::read), 9u);
    EXPECT_EQ(entry(4) & a, 0u);
}

TEST_F(Paging, no_execute_bit_is_reserved_without_nxe) {
    cpu.efer &= ~efer::nxe;
    map(0, page_a | p | w | u | nx);
    EXPECT_EQ(error(va, AccessType::read), 9u);
    map(0, 0);
    EXPECT_EQ(error(va, AccessType::execute), 0u);
}

TEST_F(Paging, supervisor_writes_read_only_pages_unless_write_protect_is_on) {
    map(0, page_a | p);
    EXPECT_EQ(access(va, AccessType::write), Outcome::ok);
    EXPECT_TRUE(page.writable_ram);
    EXPECT_EQ(write_cr(t.context, 0, cpu.cr0 | cr0::wp, fault), Outcome::ok);
    u8 byte = 1;
    EXPECT_EQ(write_memory(t.context, va, &byte, 1, Privilege::current, fault), Outcome::fault);
    EXPECT_EQ(fault.error_code, 3u);
}

TEST_F(Paging, a_page_that_is_not_canonical_is_general_protection) {
    EXPECT_EQ(access(0x8000'0000'0000, AccessType::read), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
    EXPECT_EQ(access(0xffff'7fff'ffff'f000, AccessType::read), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
}

TEST_F(Paging, stale_entries_live_until_invlpg) {
    map(0, page_a | p | w);
    map(1, page_b | p | w);
    t.poke<u32>(page_a, 0xaaaa);
    t.poke<u32>(page_b, 0xbbbb);
    u32 value = 0;
    ASSERT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(value, 0xaaaau);
    map(0, page_b | p | w);
    ASSERT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(value, 0xaaaau) << "the TLB was not used";
    flush_tlb_page(cpu, va + 0x123);
    ASSERT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(value, 0xbbbbu);
}

TEST_F(Paging, invlpg_drops_all_of_a_large_page) {
    t.poke<u64>(pd + 8, 0 | p | w | ps); // 2 MiB at va + 2 MiB
    const u64 large = va + 0x20'0000;
    u32 value = 0;
    for (const u64 at : {u64{0x100000}, u64{0x101000}, u64{0x1ff000}})
        ASSERT_EQ(read_memory(t.context, large + at, &value, 4, Privilege::current, fault),
                  Outcome::ok);
    t.poke<u64>(pd + 8, 0);
    flush_tlb_page(cpu, large + 0x5000);
    for (const u64 at : {u64{0x100000}, u64{0x101000}, u64{0x1ff000}})
        EXPECT_EQ(read_memory(t.context, large + at, &value, 4, Privilege::current, fault),
                  Outcome::fault)
            << at;
}

TEST_F(Paging, global_entries_survive_cr3_loads) {
    ASSERT_EQ(write_cr(t.context, 4, cpu.cr4 | cr4::pge, fault), Outcome::ok);
    map(0, page_a | p | w | g);
    map(1, page_b | p | w);
    u32 value = 0;
    ASSERT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    ASSERT_EQ(read_memory(t.context, va + 0x1000, &value, 4, Privilege::current, fault),
              Outcome::ok);
    map(0, 0);
    map(1, 0);
    ASSERT_EQ(write_cr(t.context, 3, cpu.cr3, fault), Outcome::ok);
    EXPECT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(read_memory(t.context, va + 0x1000, &value, 4, Privilege::current, fault),
              Outcome::fault);
    ASSERT_EQ(write_cr(t.context, 4, cpu.cr4 & ~cr4::pge, fault), Outcome::ok);
    EXPECT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::fault);
}

TEST_F(Paging, entries_that_replace_each_other_are_flushed_once_and_for_all) {
    ASSERT_EQ(write_cr(t.context, 4, cpu.cr4 | cr4::pge, fault), Outcome::ok);
    t.poke<u64>(pd + 8 * 8, pt | 7); // 16 MiB further: the same TLB index
    u32 value = 0;
    for (unsigned round = 0; round < 10000; ++round) {
        map(0, page_a | p | w | (round % 2 ? g : 0));
        flush_tlb_page(cpu, va);
        ASSERT_EQ(read_memory(t.context, va + (round % 3 ? 0 : 16 << 20), &value, 4,
                              Privilege::current, fault),
                  Outcome::ok);
    }
    EXPECT_LE(cpu.tlb.journal_length[0], mmu::tlb_size);
    map(0, 0);
    flush_tlb(cpu, true);
    EXPECT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::fault);
}

TEST_F(Paging, user_and_supervisor_entries_are_apart) {
    map(0, page_a | p | w);
    u32 value = 0;
    ASSERT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    cpu.seg[ss].attributes |= 3 << 5;
    update_mode(cpu);
    ASSERT_EQ(cpu.cpl, 3u);
    EXPECT_EQ(read_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::fault);
    EXPECT_EQ(fault.error_code, 5u);
    EXPECT_EQ(read_memory(t.context, va, &value, 4, Privilege::supervisor, fault), Outcome::ok);
}

TEST_F(Paging, a_crossing_store_that_faults_writes_nothing) {
    map(0, page_a | p | w);
    t.poke<u32>(page_a + 0xffe, 0x11111111);
    const u64 value = ~u64{0};
    ASSERT_EQ(write_memory(t.context, va + 0xffe, &value, 8, Privilege::current, fault),
              Outcome::fault);
    EXPECT_EQ(fault.address, va + 0x1000);
    EXPECT_EQ(fault.error_code, 2u);
    EXPECT_EQ(t.peek<u16>(page_a + 0xffe), 0x1111);
    map(1, page_b | p | w);
    ASSERT_EQ(write_memory(t.context, va + 0xffe, &value, 8, Privilege::current, fault),
              Outcome::ok);
    EXPECT_EQ(t.peek<u16>(page_a + 0xffe), 0xffff);
    EXPECT_EQ(t.peek<u32>(page_b), 0xffffffffu);
    EXPECT_EQ(t.peek<u16>(page_b + 4), 0xffff);
    EXPECT_EQ(t.peek<u16>(page_b + 6), 0);
}

TEST_F(Paging, stores_to_watched_pages_are_reported_after_they_happened) {
    map(0, page_a | p | w);
    t.page_flags[page_a >> 12] = mmu::page_flag::code;
    const u32 value = 0x1234;
    ASSERT_EQ(write_memory(t.context, va + 8, &value, 4, Privilege::current, fault), Outcome::ok);
    ASSERT_EQ(t.watched, std::vector<u64>{page_a + 8});
    EXPECT_EQ(t.peek<u32>(page_a + 8), 0x1234u);
    EXPECT_EQ(direct_pointer(t.context, va, 4, AccessType::write, Privilege::current), nullptr);
    EXPECT_NE(direct_pointer(t.context, va, 4, AccessType::read, Privilege::current), nullptr);
}

TEST_F(Paging, protect_page_sends_stores_the_slow_way) {
    map(0, page_a | p | w);
    const u32 value = 1;
    ASSERT_EQ(write_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    ASSERT_TRUE(t.watched.empty());
    t.page_flags[page_a >> 12] = mmu::page_flag::code;
    protect_page(cpu, page_a);
    ASSERT_EQ(write_memory(t.context, va, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(t.watched.size(), 1u);
}

TEST_F(Paging, mmio_is_split_into_aligned_pieces) {
    map(0, 0xfee0'0000 | p | w);
    u64 value = 0x8877'6655'4433'2211;
    ASSERT_EQ(write_memory(t.context, va + 2, &value, 8, Privilege::current, fault), Outcome::exit);
    EXPECT_EQ(cpu.exit.kind, ExitKind::memory_write);
    EXPECT_EQ(cpu.exit.address, 0xfee0'0002u);
    EXPECT_EQ(cpu.exit.size, 2);
    EXPECT_EQ(cpu.exit.value, 0x2211u);
    complete_exit(cpu);
    cpu.io.cursor = 0;
    ASSERT_EQ(write_memory(t.context, va + 2, &value, 8, Privilege::current, fault), Outcome::exit);
    EXPECT_EQ(cpu.exit.address, 0xfee0'0004u);
    EXPECT_EQ(cpu.exit.size, 4);
    EXPECT_EQ(cpu.exit.value, 0x66554433u);
    complete_exit(cpu);
    cpu.io.cursor = 0;
    ASSERT_EQ(write_memory(t.context, va + 2, &value, 8, Privilege::current, fault), Outcome::exit);
    EXPECT_EQ(cpu.exit.size, 2);
    complete_exit(cpu);
    cpu.io.cursor = 0;
    EXPECT_EQ(write_memory(t.context, va + 2, &value, 8, Privilege::current, fault), Outcome::ok);
    EXPECT_NE(cpu.tlb.data[0][mmu::tlb_index(va)].read, va) << "MMIO must not be in the TLB";
}

TEST_F(Paging, a_page_table_in_mmio_reads_as_all_ones_and_faults) {
    t.poke<u64>(pd, 0xf000'0000 | 7);
    EXPECT_EQ(error(va, AccessType::read) & 9, 9u);
    EXPECT_EQ(cpu.exit.kind, ExitKind::none);
}

TEST_F(Paging, fault_after_a_directory_change_comes_from_the_tables_themselves) {
    map(0, page_a | p | w);
    ASSERT_EQ(access(va, AccessType::read), Outcome::ok); // the walk is remembered
    constexpr u64 other = TestCpu::tables + 0x5000;
    t.poke<u64>(other + 8, page_b | p | w);
    t.poke<u64>(pd, other | 7); // more is mapped now: no flush is needed to see it
    ASSERT_EQ(access(va + 0x1000, AccessType::read), Outcome::ok);
    EXPECT_EQ(page.physical, page_b);
}

TEST_F(Paging, fetch_entries_follow_the_same_flushes) {
    map(0, page_a | p);
    ASSERT_EQ(translate_fetch(t.context, va, page, fault), Outcome::ok);
    map(0, page_b | p);
    ASSERT_EQ(translate_fetch(t.context, va, page, fault), Outcome::ok);
    EXPECT_EQ(page.physical, page_a);
    EXPECT_NE(page.range, nullptr);
    flush_tlb(cpu, false);
    ASSERT_EQ(translate_fetch(t.context, va, page, fault), Outcome::ok);
    EXPECT_EQ(page.physical, page_b);
}

TEST(paging_32, large_pages_with_high_addresses) {
    TestCpu t(TestCpu::Mode::flat32);
    Fault fault;
    Translation page;
    t.poke<u32>(TestCpu::tables, 0 | p | w | ps);
    t.poke<u32>(TestCpu::tables + 4, 0x0000'0000 | 5u << 13 | p | w | ps); // PSE-36: 5 << 32
    t.poke<u32>(TestCpu::tables + 8, 1u << 21 | p | w | ps);
    ASSERT_EQ(write_cr(t.context, 4, cr4::pse, fault), Outcome::ok);
    ASSERT_EQ(write_cr(t.context, 3, TestCpu::tables, fault), Outcome::ok);
    ASSERT_EQ(write_cr(t.context, 0, t.cpu.cr0 | cr0::pg, fault), Outcome::ok);
    ASSERT_EQ(translate(t.context, 0x10'1234, AccessType::write, false, page, fault), Outcome::ok);
    EXPECT_EQ(page.physical, 0x10'1000u);
    EXPECT_EQ(t.peek<u32>(TestCpu::tables) & (a | d), a | d);
    ASSERT_EQ(translate(t.context, 0x40'5678, AccessType::read, false, page, fault), Outcome::ok);
    EXPECT_EQ(page.physical, 0x5'0000'5000u);
    EXPECT_EQ(page.host, nullptr);
    ASSERT_EQ(translate(t.context, 0x80'0000, AccessType::read, false, page, fault),
              Outcome::fault);
    EXPECT_EQ(fault.error_code, 9u);
}

TEST(paging_32, four_level_rights_and_wrap_at_4_gib) {
    TestCpu t(TestCpu::Mode::flat32);
    Fault fault;
    Translation page;
    constexpr u64 table = TestCpu::tables + 0x1000, last = TestCpu::tables + 0x2000;
    t.poke<u32>(TestCpu::tables, u32(table | p | w | u));
    t.poke<u32>(TestCpu::tables + 4 * 1023, u32(last | p | w));
    t.poke<u32>(table, u32(page_a | p | w));
    t.poke<u32>(last + 4 * 1023, u32(page_b | p | w | u));
    ASSERT_EQ(write_cr(t.context, 3, TestCpu::tables, fault), Outcome::ok);
    ASSERT_EQ(write_cr(t.context, 0, t.cpu.cr0 | cr0::pg, fault), Outcome::ok);
    const u64 value = 0x8877'6655'4433'2211;
    ASSERT_EQ(write_memory(t.context, 0xffff'fffe, &value, 8, Privilege::current, fault),
              Outcome::ok);
    EXPECT_EQ(t.peek<u16>(page_b + 0xffe), 0x2211);
    EXPECT_EQ(t.peek<u32>(page_a), 0x66554433u);
    ASSERT_EQ(translate(t.context, 0xffff'f000, AccessType::read, true, page, fault),
              Outcome::fault);
    EXPECT_EQ(fault.error_code, 5u);
}

TEST(paging_pae, top_entries_are_registers_loaded_with_cr3) {
    TestCpu t(TestCpu::Mode::flat32);
    Fault fault;
    Translation page;
    constexpr u64 directory = TestCpu::tables + 0x1000;
    t.poke<u64>(TestCpu::tables, directory | p);
    t.poke<u64>(TestCpu::tables + 8, 0x2000 | 2 | p); // a reserved bit
    t.poke<u64>(directory, 0 | p | w | ps);
    ASSERT_EQ(write_cr(t.context, 4, cr4::pae, fault), Outcome::ok);
    ASSERT_EQ(write_cr(t.context, 3, TestCpu::tables, fault), Outcome::ok);
    EXPECT_EQ(write_cr(t.context, 0, t.cpu.cr0 | cr0::pg, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
    t.poke<u64>(TestCpu::tables + 8, 0);
    ASSERT_EQ(write_cr(t.context, 0, t.cpu.cr0 | cr0::pg, fault), Outcome::ok);
    EXPECT_FALSE(long_mode_active(t.cpu));
    ASSERT_EQ(translate(t.context, 0x12'3456, AccessType::read, false, page, fault), Outcome::ok);
    EXPECT_EQ(page.physical, 0x12'3000u);
    EXPECT_EQ(translate(t.context, 0x4000'0000, AccessType::read, false, page, fault),
              Outcome::fault);
    t.poke<u64>(TestCpu::tables + 8, directory | p); // not seen before CR3 is loaded again
    EXPECT_EQ(translate(t.context, 0x4000'0000, AccessType::read, false, page, fault),
              Outcome::fault);
    ASSERT_EQ(write_cr(t.context, 3, TestCpu::tables, fault), Outcome::ok);
    EXPECT_EQ(translate(t.context, 0x4000'0000, AccessType::read, false, page, fault), Outcome::ok);
}

TEST(physical_memory, a20_gate_wraps_the_second_megabyte) {
    TestCpu t(TestCpu::Mode::flat32);
    Fault fault;
    t.cpu.a20_mask = ~(u64{1} << 20);
    flush_tlb(t.cpu, true);
    const u32 value = 0x1234'5678;
    ASSERT_EQ(write_memory(t.context, 0x10'2000, &value, 4, Privilege::current, fault),
              Outcome::ok);
    EXPECT_EQ(t.peek<u32>(0x2000), value);
    EXPECT_EQ(t.peek<u32>(0x10'2000), 0u);
}

TEST(physical_memory, rom_can_be_read_and_drops_stores) {
    TestCpu t(TestCpu::Mode::flat32);
    Fault fault;
    mmu::PhysicalMap map({{0, 0x10000, t.ram.get(), true, t.page_flags},
                          {0xf0000, 0x10000, t.ram.get() + 0xf0000, false, nullptr}});
    Context context{t.cpu, &map, t.context.watch};
    flush_tlb(t.cpu, true);
    t.poke<u32>(0xf1000, 0xcafe);
    u32 value = 1;
    ASSERT_EQ(write_memory(context, 0xf1000, &value, 4, Privilege::current, fault), Outcome::ok);
    ASSERT_EQ(read_memory(context, 0xf1000, &value, 4, Privilege::current, fault), Outcome::ok);
    EXPECT_EQ(value, 0xcafeu);
    EXPECT_NE(t.cpu.tlb.data[0][mmu::tlb_index(0xf1000)].write, 0xf1000u);
}

} // namespace
} // namespace rhea::dbt::x86
