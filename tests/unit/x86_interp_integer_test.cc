// T0: arithmetic, shifts, bit and move instructions.

#include "tests/unit/x86_fixture.h"

namespace rhea::dbt::x86 {
namespace {

using Mode = TestCpu::Mode;

TEST(X86InterpInteger, add_sets_carry_zero_and_auxiliary_at_wraparound) {
    TestCpu t(Mode::flat32);
    t[rax] = 0xffff'ffff;
    t.run({0x83, 0xc0, 0x01}); // add eax, 1
    EXPECT_EQ(t[rax], 0u);
    EXPECT_EQ(t.arithmetic(), flag::cf | flag::zf | flag::af | flag::pf);
}

TEST(X86InterpInteger, add_of_bytes_overflows_by_sign_and_keeps_the_rest_of_the_register) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x1234'567f;
    t.run({0x04, 0x01}); // add al, 1
    EXPECT_EQ(t[rax], 0x1234'5680u);
    EXPECT_EQ(t.arithmetic(), flag::of | flag::sf | flag::af);
}

TEST(X86InterpInteger, high_byte_registers_are_bits_8_to_15) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x0000'12ff;
    t[rbx] = 0x0000'0100;
    t.run({0x00, 0xfc}); // add ah, bh
    EXPECT_EQ(t[rax], 0x13ffu);
}

TEST(X86InterpInteger, results_of_32_bits_clear_the_upper_half_and_of_16_bits_do_not) {
    TestCpu t(Mode::long64);
    t[rax] = t[rcx] = 0xaaaa'bbbb'cccc'dddd;
    t.run({0xff, 0xc0, 0x66, 0xff, 0xc1}); // inc eax; inc cx
    EXPECT_EQ(t[rax], 0xcccc'dddeu);
    EXPECT_EQ(t[rcx], 0xaaaa'bbbb'cccc'dddeu);
}

TEST(X86InterpInteger, inc_keeps_carry) {
    TestCpu t(Mode::flat32);
    t[rax] = 0xffff'ffff;
    t.run({0xf9, 0x40}); // stc; inc eax
    EXPECT_EQ(t.arithmetic(), flag::cf | flag::zf | flag::af | flag::pf);
}

TEST(X86InterpInteger, sbb_borrows_through_an_equal_operand) {
    TestCpu t(Mode::flat32);
    t[rax] = t[rbx] = 5;
    t.run({0xf9, 0x19, 0xd8}); // stc; sbb eax, ebx
    EXPECT_EQ(t[rax], 0xffff'ffffu);
    EXPECT_EQ(t.arithmetic(), flag::cf | flag::sf | flag::af | flag::pf);
}

TEST(X86InterpInteger, multiplication_of_64_bits_fills_rdx) {
    TestCpu t(Mode::long64);
    t[rax] = ~u64{0};
    t[rcx] = ~u64{0};
    t.run({0x48, 0xf7, 0xe1}); // mul rcx
    EXPECT_EQ(t[rax], 1u);
    EXPECT_EQ(t[rdx], ~u64{0} - 1);
    EXPECT_EQ(t.arithmetic() & (flag::cf | flag::of), flag::cf | flag::of);
}

TEST(X86InterpInteger, imul_with_immediate_flags_what_does_not_fit) {
    TestCpu t(Mode::flat32);
    t[rcx] = 0x4000'0000;
    t.run({0x6b, 0xc1, 0x02}); // imul eax, ecx, 2
    EXPECT_EQ(t[rax], 0x8000'0000u);
    EXPECT_NE(t.arithmetic() & flag::of, 0u);
    t[rcx] = 0xffff'fffe;
    t.run({0x6b, 0xc1, 0x02});
    EXPECT_EQ(t[rax], 0xffff'fffcu);
    EXPECT_EQ(t.arithmetic() & (flag::cf | flag::of), 0u);
}

TEST(X86InterpInteger, division_that_overflows_faults_at_every_size_and_changes_nothing) {
    const std::initializer_list<u8> forms[] = {
        {0xf6, 0xf1}, {0x66, 0xf7, 0xf1}, {0xf7, 0xf1}, {0x48, 0xf7, 0xf1}}; // div cl, cx, ecx, rcx
    for (const auto &form : forms) {
        TestCpu t(Mode::long64);
        t[rax] = 0x1234;
        t[rdx] = 2;
        t[rcx] = 2;
        t.code(form);
        const u64 at = t.cpu.rip;
        t.step();
        EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::de));
        EXPECT_EQ(t.peek<u64>(t[rsp]), at); // a fault: the frame points to the instruction
        EXPECT_EQ(t[rax], 0x1234u);
        EXPECT_EQ(t[rdx], 2u);
    }
}

TEST(X86InterpInteger, idiv_of_the_smallest_number_by_minus_one_faults) {
    TestCpu t(Mode::long64);
    t[rax] = u64{1} << 63;
    t[rdx] = ~u64{0};
    t[rcx] = ~u64{0};
    t.run({0x48, 0xf7, 0xf9}); // idiv rcx
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::de));
}

TEST(X86InterpInteger, idiv_truncates_towards_zero) {
    TestCpu t(Mode::flat32);
    t[rax] = u32(-7);
    t[rdx] = 0xffff'ffff;
    t[rcx] = 2;
    t.run({0xf7, 0xf9}); // idiv ecx
    EXPECT_EQ(t[rax], u32(-3));
    EXPECT_EQ(t[rdx], u32(-1));
}

TEST(X86InterpInteger, shift_count_is_masked_and_zero_keeps_flags) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x8000'0001;
    t[rcx] = 32;
    t.run({0xf9, 0xd3, 0xe0}); // stc; shl eax, cl
    EXPECT_EQ(t[rax], 0x8000'0001u);
    EXPECT_EQ(t.arithmetic(), flag::cf);
    t[rcx] = 33;
    t.run({0xd3, 0xe0});
    EXPECT_EQ(t[rax], 2u);
    EXPECT_EQ(t.arithmetic(), flag::cf | flag::of);
}

TEST(X86InterpInteger, rotate_through_carry_of_bytes_has_nine_places) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x80;
    t[rcx] = 9;
    t.run({0xf9, 0xd2, 0xd0}); // stc; rcl al, cl
    EXPECT_EQ(t[rax], 0x80u);
    EXPECT_EQ(t.arithmetic() & flag::cf, flag::cf);
    t.run({0xf8, 0xd0, 0xd0}); // clc; rcl al, 1
    EXPECT_EQ(t[rax], 0u);
    EXPECT_EQ(t.arithmetic(), flag::cf | flag::of);
}

TEST(X86InterpInteger, shld_fills_from_the_source) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x1234'5678;
    t[rbx] = 0x9abc'def0;
    t.run({0x0f, 0xa4, 0xd8, 0x08}); // shld eax, ebx, 8
    EXPECT_EQ(t[rax], 0x3456'789au);
    t.run({0x0f, 0xac, 0xd8, 0x04}); // shrd eax, ebx, 4
    EXPECT_EQ(t[rax], 0x0345'6789u);
}

TEST(X86InterpInteger, bit_offset_in_a_register_reaches_beyond_the_operand_both_ways) {
    TestCpu t(Mode::flat32);
    t[rbx] = TestCpu::data_base;
    t[rax] = 100;
    t.run({0x0f, 0xab, 0x03}); // bts [ebx], eax
    EXPECT_EQ(t.peek<u32>(TestCpu::data_base + 12), 1u << 4);
    EXPECT_EQ(t.arithmetic() & flag::cf, 0u);
    t[rax] = u32(-1);
    t.run({0x0f, 0xab, 0x03});
    EXPECT_EQ(t.peek<u32>(TestCpu::data_base - 4), 0x8000'0000u);
    t.run({0x0f, 0xba, 0x63, 0xfc, 0x3f}); // bt dword [ebx - 4], 63: an immediate wraps
    EXPECT_EQ(t.arithmetic() & flag::cf, flag::cf);
}

TEST(X86InterpInteger, scan_of_zero_keeps_the_destination) {
    TestCpu t(Mode::long64);
    t[rax] = 0x1111'2222'3333'4444;
    t.run({0x0f, 0xbc, 0xc3}); // bsf eax, ebx
    EXPECT_EQ(t[rax], 0x1111'2222'3333'4444u);
    EXPECT_NE(t.arithmetic() & flag::zf, 0u);
    t[rbx] = 0x100;
    t.run({0x0f, 0xbd, 0xc3}); // bsr eax, ebx
    EXPECT_EQ(t[rax], 8u);
}

TEST(X86InterpInteger, tzcnt_is_bsf_on_a_cpu_without_bmi) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x77;
    t.run({0xf3, 0x0f, 0xbc, 0xc3}); // tzcnt eax, ebx: ebx is 0
    EXPECT_EQ(t[rax], 0x77u);
    EXPECT_NE(t.arithmetic() & flag::zf, 0u);
}

TEST(X86InterpInteger, locked_cmpxchg_exchanges_only_on_equality) {
    TestCpu t(Mode::flat32);
    t.poke<u32>(TestCpu::data_base, 7);
    t[rbx] = TestCpu::data_base;
    t[rax] = 7;
    t[rcx] = 9;
    t.run({0xf0, 0x0f, 0xb1, 0x0b}); // lock cmpxchg [ebx], ecx
    EXPECT_EQ(t.peek<u32>(TestCpu::data_base), 9u);
    EXPECT_NE(t.arithmetic() & flag::zf, 0u);
    t.run({0xf0, 0x0f, 0xb1, 0x0b});
    EXPECT_EQ(t[rax], 9u);
    EXPECT_EQ(t.arithmetic() & flag::zf, 0u);
}

TEST(X86InterpInteger, cmpxchg16b_swaps_and_wants_alignment) {
    TestCpu t(Mode::long64);
    t.poke<u64>(TestCpu::data_base, 1);
    t.poke<u64>(TestCpu::data_base + 8, 2);
    t[rsi] = TestCpu::data_base;
    t[rax] = 1;
    t[rdx] = 2;
    t[rbx] = 3;
    t[rcx] = 4;
    t.run({0xf0, 0x48, 0x0f, 0xc7, 0x0e}); // lock cmpxchg16b [rsi]
    EXPECT_EQ(t.peek<u64>(TestCpu::data_base), 3u);
    EXPECT_EQ(t.peek<u64>(TestCpu::data_base + 8), 4u);
    t.run({0xf0, 0x48, 0x0f, 0xc7, 0x0e});
    EXPECT_EQ(t[rax], 3u);
    EXPECT_EQ(t[rdx], 4u);
    t[rsi] += 8;
    t.run({0xf0, 0x48, 0x0f, 0xc7, 0x0e});
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

TEST(X86InterpInteger, xadd_of_a_register_with_itself_doubles) {
    TestCpu t(Mode::flat32);
    t[rax] = 21;
    t.run({0x0f, 0xc1, 0xc0}); // xadd eax, eax
    EXPECT_EQ(t[rax], 42u);
}

TEST(X86InterpInteger, xchg_with_memory) {
    TestCpu t(Mode::flat32);
    t.poke<u32>(TestCpu::data_base + 3, 0x55); // crosses no page, is unaligned
    t[rbx] = TestCpu::data_base;
    t[rax] = 0xaa;
    t.run({0x87, 0x43, 0x03}); // xchg [ebx + 3], eax
    EXPECT_EQ(t[rax], 0x55u);
    EXPECT_EQ(t.peek<u32>(TestCpu::data_base + 3), 0xaau);
}

TEST(X86InterpInteger, sign_conversions) {
    TestCpu t(Mode::long64);
    t[rax] = 0x80;
    t.run({0x66, 0x98}); // cbw
    EXPECT_EQ(t[rax], 0xff80u);
    t.run({0x98}); // cwde
    EXPECT_EQ(t[rax], 0xffff'ff80u);
    t.run({0x48, 0x98}); // cdqe
    EXPECT_EQ(t[rax], 0xffff'ffff'ffff'ff80u);
    t.run({0x48, 0x99}); // cqo
    EXPECT_EQ(t[rdx], ~u64{0});
    t[rcx] = 0xfe;
    t.run({0x48, 0x0f, 0xbe, 0xd9, 0x0f, 0xb6, 0xd1}); // movsx rbx, cl; movzx edx, cl
    EXPECT_EQ(t[rbx], u64(-2));
    EXPECT_EQ(t[rdx], 0xfeu);
}

TEST(X86InterpInteger, decimal_addition) {
    TestCpu t(Mode::real16);
    t[rax] = 0x79;
    t.run({0x04, 0x35, 0x27}); // add al, 35h; daa
    EXPECT_EQ(t[rax] & 0xff, 0x14u);
    EXPECT_EQ(t.arithmetic() & (flag::cf | flag::af), flag::cf | flag::af);
    t[rax] = 0x0105;
    t.run({0xd5, 0x0a}); // aad
    EXPECT_EQ(t[rax] & 0xffff, 15u);
    t.run({0xd4, 0x0a}); // aam
    EXPECT_EQ(t[rax] & 0xffff, 0x0105u);
    t.run({0xd4, 0x00}); // aam 0
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::de));
}

TEST(X86InterpInteger, conditions) {
    for (unsigned condition = 0; condition < 16; ++condition) {
        for (unsigned bits = 0; bits < 32; ++bits) {
            TestCpu *shared = nullptr;
            static TestCpu t(Mode::flat32);
            shared = &t;
            const bool of = bits & 1, cf = bits & 2, zf = bits & 4, sf = bits & 8, pf = bits & 16;
            shared->code({0x0f, u8(0x90 + condition), 0xc0}); // setcc al
            t.cpu.rflags = flag::always_one | (of ? flag::of : 0) | (cf ? flag::cf : 0) |
                           (zf ? flag::zf : 0) | (sf ? flag::sf : 0) | (pf ? flag::pf : 0);
            const bool expected[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
            t.run();
            EXPECT_EQ(t[rax], u64(expected[condition / 2] != (condition % 2 != 0)))
                << "condition " << condition << " flags " << t.cpu.rflags;
        }
    }
}

TEST(X86InterpInteger, cmov_reads_its_source_even_if_it_does_not_move) {
    TestCpu t(Mode::long64);
    t[rax] = ~u64{0};
    t.run({0x48, 0x83, 0xfb, 0x01, 0x0f, 0x44, 0xc3}); // cmp rbx, 1; cmove eax, ebx
    EXPECT_EQ(t[rax], 0xffff'ffffu);                   // extended all the same
    t[rbx] = u64{1} << 40;                             // no page there
    t.run({0x48, 0x39, 0xdb, 0x0f, 0x45, 0x03});       // cmp rbx, rbx; cmovne eax, [rbx]
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::pf));
    EXPECT_EQ(t.cpu.cr2, u64{1} << 40);
}

TEST(X86InterpInteger, effective_addresses) {
    TestCpu t(Mode::long64);
    t[rbx] = 0x1000;
    t[rcx] = 0x10;
    t.run({0x48, 0x8d, 0x44, 0x8b, 0xf8}); // lea rax, [rbx + rcx*4 - 8]
    EXPECT_EQ(t[rax], 0x1038u);
    t.run({0x48, 0x8d, 0x05, 0x00, 0x01, 0x00, 0x00}); // lea rax, [rip + 100h]
    EXPECT_EQ(t[rax], t.cpu.rip + 0x100);
    t[rbx] = 0xffff'ffff;
    t.run({0x67, 0x48, 0x8d, 0x43, 0x02}); // lea rax, [ebx + 2]
    EXPECT_EQ(t[rax], 1u);
    t.poke<u64>(TestCpu::data_base, 0x1122'3344'5566'7788);
    t.run({0x48, 0xa1, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00}); // mov rax, [20000h]
    EXPECT_EQ(t[rax], 0x1122'3344'5566'7788u);
    TestCpu real(Mode::real16);
    real[rbx] = 0xfff0;
    real[rsi] = 0x20;
    real.run({0x8d, 0x00}); // lea ax, [bx + si]: wraps at 64 KiB
    EXPECT_EQ(real[rax], 0x10u);
}

} // namespace
} // namespace rhea::dbt::x86
