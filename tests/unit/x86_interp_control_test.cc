// T0: branches, the stack, flags, and what step() does around an instruction.

#include "tests/unit/x86_fixture.h"

namespace rhea::dbt::x86 {
namespace {

using Mode = TestCpu::Mode;

TEST(X86InterpControl, loop_counts_down) {
    TestCpu t(Mode::flat32);
    t[rcx] = 10;
    EXPECT_EQ(t.run({0x40, 0xe2, 0xfd}), 20u); // inc eax; loop -3
    EXPECT_EQ(t[rax], 10u);
    EXPECT_EQ(t[rcx], 0u);
}

TEST(X86InterpControl, jcxz_looks_at_the_address_size) {
    TestCpu t(Mode::flat32);
    t[rcx] = 0x10000;
    t.run({0x67, 0xe3, 0x01, 0x40, 0x43}); // jcxz +1; inc eax; inc ebx
    EXPECT_EQ(t[rax], 0u);
    EXPECT_EQ(t[rbx], 1u);
}

TEST(X86InterpControl, call_and_ret_with_arguments) {
    TestCpu t(Mode::long64);
    // push 5; call +3; inc eax (skipped over at first); jmp +3; ret 8
    t.run({0x6a, 0x05, 0xe8, 0x04, 0x00, 0x00, 0x00, 0xff, 0xc0, 0xeb, 0x03, 0xc2, 0x08, 0x00});
    EXPECT_EQ(t[rax], 1u);
    EXPECT_EQ(t[rsp], TestCpu::stack_top);
}

TEST(X86InterpControl, branch_beyond_the_code_limit_faults_before_the_push) {
    TestCpu t(Mode::flat32);
    t.cpu.seg[cs].limit = 0x1ffff;
    update_mode(t.cpu);
    t[rax] = 0x20000;
    t.code({0xff, 0xd0}); // call eax
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_EQ(t.peek<u32>(t[rsp]), 0u);                     // error code
    EXPECT_EQ(t.peek<u32>(t[rsp] + 4), TestCpu::code_base); // EIP
    EXPECT_EQ(t[rsp], TestCpu::stack_top - 16);
}

TEST(X86InterpControl, branch_to_a_non_canonical_address_faults) {
    TestCpu t(Mode::long64);
    t[rax] = u64{1} << 47;
    t.run({0xff, 0xe0}); // jmp rax
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

TEST(X86InterpControl, push_of_the_stack_pointer_stores_its_old_value) {
    TestCpu t(Mode::flat32);
    t.run({0x54, 0x8f, 0x04, 0x24}); // push esp; pop [esp]: addressed with the new esp
    EXPECT_EQ(t.peek<u32>(TestCpu::stack_top), TestCpu::stack_top);
    EXPECT_EQ(t[rsp], TestCpu::stack_top);
}

TEST(X86InterpControl, pop_into_an_unwritable_place_leaves_the_stack_alone) {
    TestCpu t(Mode::long64);
    t[rax] = u64{1} << 40;
    t.code({0x8f, 0x00}); // pop [rax]
    t[rsp] = TestCpu::stack_top - 8;
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::pf));
    EXPECT_EQ(t.peek<u64>(t[rsp] + 32), TestCpu::stack_top - 8); // RSP in the frame
}

TEST(X86InterpControl, pusha_and_popa_restore_everything_but_the_stack_pointer) {
    TestCpu t(Mode::real16);
    for (unsigned n = 0; n < 8; ++n)
        if (n != rsp)
            t.cpu.gpr[n] = 0x1000 + n;
    t.run({0x60, 0x31, 0xc0, 0x31, 0xff, 0x31, 0xed, 0x61}); // pusha; xor ax, di, bp; popa
    for (unsigned n = 0; n < 8; ++n)
        EXPECT_EQ(t.cpu.gpr[n], n == rsp ? 0xf000u : 0x1000u + n);
}

TEST(X86InterpControl, sixteen_bit_stack_wraps) {
    TestCpu t(Mode::real16);
    t[rsp] = 0xaaaa'0000;
    t[rax] = 0x1234;
    t.run({0x50}); // push ax
    EXPECT_EQ(t[rsp], 0xaaaa'fffeu);
    EXPECT_EQ(t.peek<u16>(0xfffe), 0x1234u);
}

TEST(X86InterpControl, enter_with_nesting_copies_frame_pointers) {
    TestCpu t(Mode::flat32);
    t[rbp] = 0x1e000;
    t.poke<u32>(0x1e000 - 4, 0x1111);
    t.run({0xc8, 0x10, 0x00, 0x02}); // enter 16, 2
    EXPECT_EQ(t[rbp], TestCpu::stack_top - 4);
    EXPECT_EQ(t[rsp], TestCpu::stack_top - 12 - 16);
    EXPECT_EQ(t.peek<u32>(TestCpu::stack_top - 4), 0x1e000u);
    EXPECT_EQ(t.peek<u32>(TestCpu::stack_top - 8), 0x1111u);
    EXPECT_EQ(t.peek<u32>(TestCpu::stack_top - 12), TestCpu::stack_top - 4);
    t.run({0xc9}); // leave
    EXPECT_EQ(t[rbp], 0x1e000u);
    EXPECT_EQ(t[rsp], TestCpu::stack_top);
}

TEST(X86InterpControl, popf_at_user_level_changes_neither_iopl_nor_if) {
    TestCpu t(Mode::flat32);
    t.cpu.seg[cs].selector = TestCpu::user_code32_selector;
    t.cpu.seg[cs].attributes |= 3 << 5;
    t.cpu.seg[ss].attributes |= 3 << 5;
    update_mode(t.cpu);
    t.cpu.rflags |= flag::if_;
    t.run({0x6a, 0x01, 0x9d}); // push 1; popf
    EXPECT_EQ(t.cpu.rflags, flag::always_one | flag::cf | flag::if_);
    t.run({0xfa}); // cli
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

TEST(X86InterpControl, sti_holds_interrupts_off_for_one_instruction) {
    TestCpu t(Mode::flat32);
    t.code({0xfb, 0x90}); // sti; nop
    t.step();
    EXPECT_FALSE(interrupts_enabled(t.cpu));
    t.step();
    EXPECT_TRUE(interrupts_enabled(t.cpu));
}

TEST(X86InterpControl, trap_flag_traps_after_the_instruction) {
    TestCpu t(Mode::flat32);
    t.cpu.rflags |= flag::tf;
    t.code({0x40, 0x40}); // inc eax; inc eax
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::db));
    EXPECT_EQ(t[rax], 1u);
    EXPECT_EQ(t.peek<u32>(t[rsp]), TestCpu::code_base + 1);
    EXPECT_NE(t.cpu.dr[6] & (1u << 14), 0u);
    EXPECT_EQ(t.cpu.rflags & flag::tf, 0u);
}

TEST(X86InterpControl, bound_faults_outside) {
    TestCpu t(Mode::flat32);
    t.poke<i32>(TestCpu::data_base, -2);
    t.poke<i32>(TestCpu::data_base + 4, 5);
    t[rbx] = TestCpu::data_base;
    t[rax] = u32(-2);
    t.run({0x62, 0x03}); // bound eax, [ebx]
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base + 2);
    t[rax] = 6;
    t.run({0x62, 0x03});
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::br));
}

TEST(X86InterpControl, instruction_across_a_page_is_fetched_from_both) {
    TestCpu t(Mode::long64);
    const u64 at = TestCpu::code_base + 0xffe;
    t.poke<u16>(at, 0xb848); // mov rax, imm64
    t.poke<u64>(at + 2, 0x0123'4567'89ab'cdef);
    t.cpu.rip = at;
    t.step();
    EXPECT_EQ(t[rax], 0x0123'4567'89ab'cdefu);
    EXPECT_EQ(t.cpu.rip, at + 10);
}

TEST(X86InterpControl, fetch_fault_on_the_second_page_reports_that_page) {
    TestCpu t(Mode::long64);
    t.poke<u64>(TestCpu::tables + 0x2000 + 8,
                0); // the second 2 MiB are not mapped, the first end at RAM's end
    const u64 at = (2 << 20) - 1;
    t.poke<u8>(at, 0xe9); // jmp rel32, of which one byte is there
    t.cpu.rip = at;
    flush_tlb(t.cpu, true);
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::pf));
    EXPECT_EQ(t.cpu.cr2, at + 1);
    EXPECT_EQ(t.peek<u64>(t[rsp] + 8), at);
}

TEST(X86InterpControl, code_in_mmio_is_read_byte_by_byte_and_runs) {
    TestCpu t(Mode::flat32);
    t.answers = {0xb8, 0x78, 0x56, 0x34, 0x12}; // mov eax, 12345678h
    t.cpu.rip = 0x40'0000;
    EXPECT_EQ(t.step(), Step::done);
    EXPECT_EQ(t[rax], 0x1234'5678u);
    ASSERT_EQ(t.exits.size(), 5u);
    EXPECT_EQ(t.exits[4].address, 0x40'0004u);
}

TEST(X86InterpControl, changed_code_is_decoded_again) {
    TestCpu t(Mode::flat32);
    t.run({0x40}); // inc eax
    t.run({0x48}); // dec eax, at the same place
    EXPECT_EQ(t[rax], 0u);
}

TEST(X86InterpControl, instruction_longer_than_15_bytes_is_a_general_protection_fault) {
    TestCpu t(Mode::flat32);
    t.run({0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
           0x90});
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

TEST(X86InterpControl, lock_on_a_register_is_undefined) {
    TestCpu t(Mode::flat32);
    t.run({0xf0, 0x01, 0xc0}); // lock add eax, eax
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::ud));
}

TEST(X86InterpControl, instruction_that_the_model_lacks_is_undefined) {
    TestCpu t(Mode::flat32);
    t.run({0x0f, 0x38, 0xf1, 0x03}); // movbe [ebx], eax
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::ud));
}

TEST(X86InterpControl, read_modify_write_of_mmio_reads_and_writes_once) {
    TestCpu t(Mode::flat32);
    t.answers = {0x10};
    t[rbx] = 0x40'0000;
    t[rax] = 1;
    t.run({0x01, 0x03}); // add [ebx], eax
    ASSERT_EQ(t.exits.size(), 2u);
    EXPECT_EQ(t.exits[0].kind, ExitKind::memory_read);
    EXPECT_EQ(t.exits[1].kind, ExitKind::memory_write);
    EXPECT_EQ(t.exits[1].value, 0x11u);
    EXPECT_EQ(t.cpu.io.served, 0u);
}

} // namespace
} // namespace rhea::dbt::x86
