// T0: string instructions and port I/O.

#include "tests/unit/x86_fixture.h"

#include <numeric>

namespace rhea::dbt::x86 {
namespace {

using Mode = TestCpu::Mode;
constexpr u64 data = TestCpu::data_base;

// Plain byte-by-byte MOVS, as the reference.
void move_by_element(u8 *ram, u64 to, u64 from, u64 count, unsigned size, bool down) {
    for (u64 n = 0; n < count; ++n) {
        u8 element[8];
        std::memcpy(element, ram + from, size);
        std::memcpy(ram + to, element, size);
        from = down ? from - size : from + size;
        to = down ? to - size : to + size;
    }
}

TEST(X86InterpString, rep_movs_agrees_with_element_by_element_whatever_the_overlap) {
    TestCpu t(Mode::flat32);
    const struct {
        u8 prefix, opcode;
        unsigned size;
    } forms[] = {{0x90, 0xa4, 1}, {0x66, 0xa5, 2}, {0x90, 0xa5, 4}};
    const u64 middle = data + 0x1000; // a page boundary
    for (const auto &form : forms)
        for (const i64 distance : {-5000, -64, -3, -1, 1, 2, 3, 4, 5, 64, 5000})
            for (const bool down : {false, true})
                for (const u64 count : {u64{1}, u64{7}, u64{700}, u64{3000}}) {
                    const u64 from = middle + (down ? 40 : u64(-40)), to = from + u64(distance);
                    const u64 low = data - 0x10000;
                    std::iota(t.ram.get() + low, t.ram.get() + low + 0x40000, u8(distance));
                    std::vector<u8> expected(t.ram.get(), t.ram.get() + TestCpu::ram_size);
                    move_by_element(expected.data(), to + 0x10000, from + 0x10000, count, form.size,
                                    down);
                    t[rsi] = from + 0x10000;
                    t[rdi] = to + 0x10000;
                    t[rcx] = count;
                    std::memcpy(expected.data() + TestCpu::code_base - 0x8000, expected.data(), 0);
                    // The code is above the scratch area here.
                    const u8 code[] = {form.prefix, 0xf3, form.opcode};
                    std::memcpy(t.ram.get() + 0x100000, code, 3);
                    std::memcpy(expected.data() + 0x100000, code, 3);
                    t.cpu.rflags = flag::always_one | (down ? flag::df : 0);
                    t.cpu.rip = 0x100000;
                    unsigned steps = 0;
                    while (t.cpu.rip != 0x100003 && ++steps < 100)
                        t.step();
                    ASSERT_EQ(t[rcx], 0u);
                    const u64 moved = count * form.size;
                    ASSERT_EQ(t[rsi], from + 0x10000 + (down ? u64(-i64(moved)) : moved));
                    ASSERT_EQ(std::memcmp(expected.data(), t.ram.get(), TestCpu::ram_size), 0)
                        << "size " << form.size << " distance " << distance << " down " << down
                        << " count " << count;
                }
}

TEST(X86InterpString, rep_stos_fills_words_across_pages) {
    TestCpu t(Mode::long64);
    t[rdi] = data + 0xffc;
    t[rax] = 0x1122'3344'5566'7788;
    t[rcx] = 1500;
    t.run({0xf3, 0x48, 0xab}); // rep stosq
    EXPECT_EQ(t[rdi], data + 0xffc + 12000);
    EXPECT_EQ(t.peek<u64>(data + 0xffc), 0x1122'3344'5566'7788u);
    EXPECT_EQ(t.peek<u64>(data + 0xffc + 11992), 0x1122'3344'5566'7788u);
    EXPECT_EQ(t.peek<u64>(data + 0xffc + 12000), 0u);
    EXPECT_EQ(t.peek<u64>(data + 0xffc - 8), 0u);
}

TEST(X86InterpString, rep_with_count_zero_does_nothing) {
    TestCpu t(Mode::flat32);
    t[rdi] = 0x7fff'0000;
    t[rax] = 5;
    EXPECT_EQ(t.run({0xf3, 0xaa}), 1u); // rep stosb
    EXPECT_EQ(t[rdi], 0x7fff'0000u);
    EXPECT_TRUE(t.exits.empty());
}

TEST(X86InterpString, long_run_leaves_room_for_interrupts) {
    TestCpu t(Mode::flat32);
    t[rdi] = data;
    t[rcx] = 1 << 20;
    t.code({0xf3, 0xaa});
    const u64 at = t.cpu.rip;
    EXPECT_EQ(t.step(), Step::repeat);
    EXPECT_EQ(t.cpu.rip, at);
    EXPECT_GT(t[rcx], 0u);
    EXPECT_LT(t[rcx], 1u << 20);
    EXPECT_EQ(t[rdi] - data, (1u << 20) - t[rcx]);
}

TEST(X86InterpString, fault_in_the_middle_leaves_the_iterations_before_it) {
    TestCpu t(Mode::long64);
    t.poke<u64>(TestCpu::tables + 0x2000 + 8, 0);
    flush_tlb(t.cpu, true);
    t[rdi] = (2 << 20) - 10;
    t[rcx] = 20;
    t[rax] = 0x77;
    t.code({0xf3, 0xaa});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::pf));
    EXPECT_EQ(t.cpu.cr2, u64{2} << 20);
    EXPECT_EQ(t[rcx], 10u);
    EXPECT_EQ(t[rdi], u64{2} << 20);
    EXPECT_EQ(t.peek<u8>((2 << 20) - 1), 0x77u);
    EXPECT_EQ(t.peek<u64>(t[rsp] + 8), TestCpu::code_base);
}

TEST(X86InterpString, repne_scas_finds_and_stops_behind_it) {
    TestCpu t(Mode::flat32);
    std::memset(t.ram.get() + data, 'x', 5000);
    t.poke<u8>(data + 4500, 0);
    t[rdi] = data;
    t[rcx] = 0xffff'ffff;
    t.run({0xf2, 0xae}); // repne scasb
    EXPECT_EQ(t[rdi], data + 4501);
    EXPECT_EQ(t[rcx], 0xffff'ffffu - 4501);
    EXPECT_NE(t.arithmetic() & flag::zf, 0u);
}

TEST(X86InterpString, repe_scas_over_equal_words_uses_up_the_count) {
    TestCpu t(Mode::flat32);
    t[rdi] = data;
    t[rcx] = 100;
    t.run({0xf3, 0xaf}); // repe scasd
    EXPECT_EQ(t[rcx], 0u);
    EXPECT_EQ(t[rdi], data + 400);
    EXPECT_NE(t.arithmetic() & flag::zf, 0u);
}

TEST(X86InterpString, repe_cmps_stops_at_the_first_difference) {
    TestCpu t(Mode::real16);
    t.cpu.seg[es].base = data;
    std::memcpy(t.ram.get() + 0x2000, "abcdef", 6);
    std::memcpy(t.ram.get() + data, "abcxef", 6);
    t[rsi] = 0x2000;
    t[rdi] = 0;
    t[rcx] = 6;
    t.run({0xf3, 0xa6}); // repe cmpsb
    EXPECT_EQ(t[rcx], 2u);
    EXPECT_EQ(t[rsi], 0x2004u);
    EXPECT_EQ(t.arithmetic() & (flag::cf | flag::zf), flag::cf); // 'd' below 'x'
}

TEST(X86InterpString, segment_override_moves_the_source_only) {
    TestCpu t(Mode::real16);
    t.cpu.seg[fs].base = data;
    t.poke<u16>(data + 4, 0xbeef);
    t[rsi] = 4;
    t[rdi] = 0x2000;
    t.run({0x64, 0xa5}); // movs word es:[di], fs:[si]
    EXPECT_EQ(t.peek<u16>(0x2000), 0xbeefu);
}

TEST(X86InterpString, sixteen_bit_index_wraps_and_keeps_the_upper_half) {
    TestCpu t(Mode::real16);
    t[rdi] = 0x5555'ffff;
    t[rax] = 0x99;
    t.run({0xaa, 0xaa}); // stosb twice
    EXPECT_EQ(t[rdi], 0x5555'0001u);
    EXPECT_EQ(t.peek<u8>(0xffff), 0x99u);
    EXPECT_EQ(t.peek<u8>(0), 0x99u);
}

TEST(X86InterpString, store_to_watched_pages_is_reported) {
    TestCpu t(Mode::flat32);
    t.page_flags[data / 4096] = mmu::page_flag::code;
    t[rdi] = data;
    t[rcx] = 3;
    t.run({0xf3, 0xaa});
    EXPECT_EQ(t.watched, (std::vector<u64>{data, data + 1, data + 2}));
}

TEST(X86InterpIo, in_and_out) {
    TestCpu t(Mode::flat32);
    t.answers = {0xab};
    t[rdx] = 0x3f8;
    t[rax] = 0x1100;
    t.run({0xec, 0xe6, 0x80}); // in al, dx; out 80h, al
    EXPECT_EQ(t[rax], 0x11abu);
    ASSERT_EQ(t.exits.size(), 2u);
    EXPECT_EQ(t.exits[0].kind, ExitKind::port_read);
    EXPECT_EQ(t.exits[0].address, 0x3f8u);
    EXPECT_EQ(t.exits[0].size, 1u);
    EXPECT_EQ(t.exits[1].kind, ExitKind::port_write);
    EXPECT_EQ(t.exits[1].address, 0x80u);
    EXPECT_EQ(t.exits[1].value, 0xabu);
}

TEST(X86InterpIo, rep_ins_takes_each_datum_once) {
    TestCpu t(Mode::flat32);
    t.answers = {0x1111, 0x2222, 0x3333};
    t[rdi] = data + 0xffe;
    t[rcx] = 3;
    t[rdx] = 0x1f0;
    t.run({0xf3, 0x66, 0x6d}); // rep insw
    EXPECT_EQ(t.peek<u16>(data + 0xffe), 0x1111u);
    EXPECT_EQ(t.peek<u16>(data + 0x1000), 0x2222u);
    EXPECT_EQ(t.peek<u16>(data + 0x1002), 0x3333u);
    EXPECT_EQ(t.exits.size(), 3u);
}

TEST(X86InterpIo, rep_outs_to_mmio_source_interleaves) {
    TestCpu t(Mode::flat32);
    t.answers = {0x41, 0x42};
    t[rsi] = 0x40'0000;
    t[rcx] = 2;
    t[rdx] = 0x402;
    t.run({0xf3, 0x6e}); // rep outsb
    ASSERT_EQ(t.exits.size(), 4u);
    EXPECT_EQ(t.exits[1].kind, ExitKind::port_write);
    EXPECT_EQ(t.exits[1].value, 0x41u);
    EXPECT_EQ(t.exits[3].value, 0x42u);
}

TEST(X86InterpIo, interrupts_get_between_the_iterations_of_rep_outs) {
    TestCpu t(Mode::flat32);
    t.cpu.rflags |= flag::if_;
    t[rsi] = data;
    t[rcx] = 1 << 20;
    t[rdx] = 0x402;
    t.code({0xf3, 0x6e}); // rep outsb
    EXPECT_EQ(t.step(), Step::repeat);
    EXPECT_EQ(t.exits.size(), 1u);
    EXPECT_TRUE(interrupts_enabled(t.cpu));
    EXPECT_EQ(t[rcx], (1u << 20) - 1);
    deliver_interrupt(t.context, 0x30);
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(0x30));
    EXPECT_EQ(t.peek<u32>(t[rsp]), TestCpu::code_base);
}

TEST(X86InterpIo, ins_to_an_unwritable_page_costs_the_device_nothing) {
    TestCpu t(Mode::long64);
    t[rdi] = u64{1} << 40;
    t.run({0x6c}); // insb
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::pf));
    EXPECT_TRUE(t.exits.empty());
}

TEST(X86InterpIo, port_above_iopl_needs_the_tss_bitmap) {
    TestCpu t(Mode::flat32);
    const auto to_user = [&t] {
        t.cpu.seg[cs].selector = TestCpu::user_code32_selector;
        t.cpu.seg[cs].attributes |= 3 << 5;
        t.cpu.seg[ss].selector = t.cpu.seg[ds].selector = t.cpu.seg[es].selector =
            TestCpu::user_data_selector;
        t.cpu.seg[ss].attributes |= 3 << 5;
        update_mode(t.cpu);
    };
    t.cpu.tr.limit = 0x67 + 16;
    t.poke<u16>(TestCpu::tss_base + 0x66, 0x68);
    std::memset(t.ram.get() + TestCpu::tss_base + 0x68, 0xff, 16);
    t.poke<u8>(TestCpu::tss_base + 0x68 + 0x60 / 8, 0xfe); // port 60h alone
    to_user();
    t.run({0xe4, 0x60}); // in al, 60h
    EXPECT_EQ(t.exits.size(), 1u);
    t.run({0xe5, 0x60}); // in eax, 60h: 61h..63h are not allowed
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_EQ(t.exits.size(), 1u);
}

} // namespace
} // namespace rhea::dbt::x86
