// Segments, far transfers, interrupts and exceptions.

#include "accel/dbt/guest/x86/exec.h"
#include "tests/unit/x86_fixture.h"

namespace rhea::dbt::x86 {
namespace {

using Mode = TestCpu::Mode;

constexpr u64 descriptor(u32 base, u32 limit, u16 attributes) {
    return (limit & 0xffff) | u64{base & 0xff'ffff} << 16 | u64{attributes & 0xf0ffu} << 40 |
           u64{limit >> 16 & 15} << 48 | u64{base >> 24} << 56;
}
constexpr u16 free_selector = 0x50, free_selector_2 = 0x58; // unused places in the fixture's GDT

void set_descriptor(TestCpu &t, u16 selector, u64 value) {
    t.poke<u64>(TestCpu::gdt_base + (selector & 0xfff8u), value);
}
u64 gate32(u16 selector, u32 offset, u16 attributes) {
    return (offset & 0xffff) | u64{selector} << 16 | u64{attributes} << 40 |
           u64{offset >> 16} << 48;
}
void enter_user(TestCpu &t, u16 code) {
    Cpu &cpu = t.cpu;
    cpu.seg[cs].selector = code;
    cpu.seg[cs].attributes |= 3 << 5;
    for (const SegmentName name : {ss, ds, es}) {
        cpu.seg[name].selector = TestCpu::user_data_selector;
        cpu.seg[name].attributes |= 3 << 5;
    }
    update_mode(cpu);
    ASSERT_EQ(cpu.cpl, 3u);
}
void start(TestCpu &t, std::initializer_list<u8> bytes) {
    t.code(bytes);
}

// --- segmentation

TEST(segments, limit_and_type_violations) {
    TestCpu t(Mode::flat32);
    Fault fault;
    u64 linear;
    t.cpu.seg[es] = {0x1000, 0xfff, 0x50, Segment::present | Segment::user | Segment::big};
    update_mode(t.cpu);
    EXPECT_EQ(t.cpu.mode & mode::flat, 0u);
    EXPECT_EQ(linearise(t.context, es, 0xffc, 4, AccessType::read, linear, fault), Outcome::ok);
    EXPECT_EQ(linear, 0x1ffcu);
    EXPECT_EQ(linearise(t.context, es, 0xffd, 4, AccessType::read, linear, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
    EXPECT_EQ(linearise(t.context, es, 0, 4, AccessType::write, linear, fault), Outcome::fault);
    t.cpu.seg[ss].limit = 0xffff;
    EXPECT_EQ(linearise(t.context, ss, 0xfffe, 4, AccessType::read, linear, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::ss);
    EXPECT_EQ(linearise(t.context, cs, 0, 4, AccessType::write, linear, fault), Outcome::fault);
}

TEST(segments, expand_down_allows_what_lies_above_the_limit) {
    TestCpu t(Mode::flat32);
    Fault fault;
    u64 linear;
    t.cpu.seg[es] = {0, 0xfff, 0x50,
                     Segment::present | Segment::user | Segment::writable | Segment::expand_down |
                         Segment::big};
    update_mode(t.cpu);
    EXPECT_EQ(linearise(t.context, es, 0x1000, 4, AccessType::write, linear, fault), Outcome::ok);
    EXPECT_EQ(linearise(t.context, es, 0xfff, 4, AccessType::write, linear, fault), Outcome::fault);
    EXPECT_EQ(linearise(t.context, es, 0xffff'fffd, 4, AccessType::write, linear, fault),
              Outcome::fault);
    t.cpu.seg[es].attributes &= u16(~Segment::big);
    EXPECT_EQ(linearise(t.context, es, 0xfffd, 4, AccessType::write, linear, fault),
              Outcome::fault);
}

TEST(segments, null_selectors_load_and_fault_on_use) {
    TestCpu t(Mode::flat32);
    Fault fault;
    u64 linear;
    ASSERT_EQ(load_segment(t.context, es, 3, fault), Outcome::ok);
    EXPECT_EQ(linearise(t.context, es, 0, 1, AccessType::read, linear, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
    EXPECT_EQ(fault.error_code, 0u);
    EXPECT_EQ(load_segment(t.context, ss, 0, fault), Outcome::fault);
}

TEST(segments, load_checks_and_sets_the_accessed_bit) {
    TestCpu t(Mode::flat32);
    Fault fault;
    set_descriptor(t, free_selector, descriptor(0x12345678, 0xfffff, 0xc092));
    ASSERT_EQ(load_segment(t.context, fs, free_selector, fault), Outcome::ok);
    EXPECT_EQ(t.cpu.seg[fs].base, 0x12345678u);
    EXPECT_EQ(t.cpu.seg[fs].limit, 0xffff'ffffu);
    EXPECT_EQ(t.peek<u8>(TestCpu::gdt_base + free_selector + 5), 0x93);
    set_descriptor(t, free_selector, descriptor(0, 0xfffff, 0xc012)); // not present
    EXPECT_EQ(load_segment(t.context, fs, free_selector, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::np);
    EXPECT_EQ(fault.error_code, free_selector);
    EXPECT_EQ(load_segment(t.context, ss, free_selector, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::ss);
    set_descriptor(t, free_selector, descriptor(0, 0xfffff, 0xc098)); // execute-only code
    EXPECT_EQ(load_segment(t.context, fs, free_selector, fault), Outcome::fault);
    EXPECT_EQ(fault.vector, vector::gp);
    EXPECT_EQ(load_segment(t.context, fs, 0x100, fault), Outcome::fault); // beyond the GDT
    EXPECT_EQ(fault.error_code, 0x100u);
    EXPECT_EQ(load_segment(t.context, ss, TestCpu::user_data_selector, fault), Outcome::fault);
    EXPECT_EQ(fault.error_code, TestCpu::user_data_selector & 0xfffcu);
}

TEST(segments, real_mode_loads_keep_limits) {
    TestCpu t(Mode::real16);
    Fault fault;
    t.cpu.seg[ds].limit = 0xffff'ffff; // "unreal mode"
    ASSERT_EQ(load_segment(t.context, ds, 0x1234, fault), Outcome::ok);
    EXPECT_EQ(t.cpu.seg[ds].base, 0x12340u);
    EXPECT_EQ(t.cpu.seg[ds].limit, 0xffff'ffffu);
}

TEST(segments, mov_ss_shadows_interrupts_for_one_instruction) {
    TestCpu t(Mode::flat32);
    t.cpu.rflags |= flag::if_;
    t[rax] = TestCpu::data_selector;
    start(t, {0x8e, 0xd0, 0x90});
    t.step();
    EXPECT_FALSE(interrupts_enabled(t.cpu));
    t.step();
    EXPECT_TRUE(interrupts_enabled(t.cpu));
}

TEST(segments, lar_lsl_verr_verw) {
    TestCpu t(Mode::flat32);
    set_descriptor(t, free_selector, descriptor(0, 0x1234, 0x4091)); // read-only data
    t[rbx] = free_selector;
    t.run({0x0f, 0x02, 0xc3}); // lar eax, ebx
    EXPECT_TRUE(t.cpu.rflags & flag::zf);
    EXPECT_EQ(t[rax], 0x409100u);
    t.run({0x0f, 0x03, 0xc3}); // lsl
    EXPECT_EQ(t[rax], 0x1234u);
    t.run({0x0f, 0x00, 0xe3}); // verr bx
    EXPECT_TRUE(t.cpu.rflags & flag::zf);
    t.run({0x0f, 0x00, 0xeb}); // verw bx
    EXPECT_FALSE(t.cpu.rflags & flag::zf);
    t[rbx] = 0x1000;
    t[rax] = 77;
    t.run({0x0f, 0x03, 0xc3});
    EXPECT_FALSE(t.cpu.rflags & flag::zf);
    EXPECT_EQ(t[rax], 77u);
}

TEST(segments, arpl_raises_rpl) {
    TestCpu t(Mode::flat32);
    t[rax] = 0x10;
    t[rbx] = 3;
    t.run({0x63, 0xd8}); // arpl ax, bx
    EXPECT_EQ(t[rax], 0x13u);
    EXPECT_TRUE(t.cpu.rflags & flag::zf);
    t.run({0x63, 0xd8});
    EXPECT_FALSE(t.cpu.rflags & flag::zf);
}

TEST(segments, ltr_marks_the_tss_busy) {
    TestCpu t(Mode::flat32);
    set_descriptor(t, free_selector, descriptor(0x7000, 0x67, 0x89));
    t[rax] = free_selector;
    t.run({0x0f, 0x00, 0xd8});
    EXPECT_EQ(t.cpu.tr.base, 0x7000u);
    EXPECT_EQ(t.peek<u8>(TestCpu::gdt_base + free_selector + 5), 0x8b);
    t.run({0x0f, 0x00, 0xd8}); // busy now
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

// --- far transfers

TEST(far, real_mode_call_and_return) {
    TestCpu t(Mode::real16);
    t.poke<u8>(0x20010, 0xcb); // retf
    start(t, {0x9a, 0x10, 0x00, 0x00, 0x20, 0x90});
    t.step();
    EXPECT_EQ(t.cpu.seg[cs].base, 0x20000u);
    EXPECT_EQ(t.cpu.rip, 0x10u);
    EXPECT_EQ(t[rsp], 0xeffcu);
    EXPECT_EQ(t.peek<u16>(0xeffc), 5);
    EXPECT_EQ(t.peek<u16>(0xeffe), TestCpu::code_base >> 4);
    t.step();
    EXPECT_EQ(t.cpu.seg[cs].base, TestCpu::code_base);
    EXPECT_EQ(t.cpu.rip, 5u);
    EXPECT_EQ(t[rsp], 0xf000u);
}

TEST(far, call_gate_switches_stacks_and_copies_parameters) {
    TestCpu t(Mode::flat32);
    enter_user(t, TestCpu::user_code32_selector);
    set_descriptor(t, free_selector,
                   gate32(TestCpu::code32_selector, 0x30000, 0xec) | u64{2} << 32);
    t.poke<u8>(0x30000, 0xca); // retf 8
    t.poke<u8>(0x30001, 8);
    t.poke<u8>(0x30002, 0);
    t[rsp] = 0x1e000;
    t.poke<u32>(0x1e000, 0x11);
    t.poke<u32>(0x1e004, 0x22);
    start(t, {0x9a, 0, 0, 0, 0, free_selector | 3, 0});
    t.step();
    ASSERT_EQ(t.cpu.rip, 0x30000u);
    EXPECT_EQ(t.cpu.cpl, 0u);
    const u64 sp = TestCpu::stack_top - 0x1000 - 24;
    EXPECT_EQ(t[rsp], sp);
    EXPECT_EQ(t.peek<u32>(sp), TestCpu::code_base + 7);
    EXPECT_EQ(t.peek<u32>(sp + 4), TestCpu::user_code32_selector);
    EXPECT_EQ(t.peek<u32>(sp + 8), 0x11u);
    EXPECT_EQ(t.peek<u32>(sp + 12), 0x22u);
    EXPECT_EQ(t.peek<u32>(sp + 16), 0x1e000u);
    EXPECT_EQ(t.peek<u32>(sp + 20), TestCpu::user_data_selector);
    Fault fault;
    ASSERT_EQ(load_segment(t.context, es, TestCpu::data_selector, fault), Outcome::ok);
    t.step();
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base + 7);
    EXPECT_EQ(t[rsp], 0x1e008u);
    EXPECT_FALSE(t.cpu.seg[es].is(Segment::present)) << "a level 0 segment is left behind";
    EXPECT_TRUE(t.cpu.seg[ds].is(Segment::present));
}

TEST(far, jump_between_64_bit_and_compatibility_mode) {
    TestCpu t(Mode::long64);
    t.poke<u32>(TestCpu::data_base, 0x10100);
    t.poke<u16>(TestCpu::data_base + 4, TestCpu::code32_selector);
    t[rbx] = TestCpu::data_base;
    start(t, {0xff, 0x2b}); // jmp far [rbx]
    t.step();
    EXPECT_EQ(t.cpu.rip, 0x10100u);
    EXPECT_FALSE(mode_64(t.cpu));
    EXPECT_TRUE(long_mode_active(t.cpu));
    EXPECT_EQ(t.cpu.mode & mode::code_mask, mode::code32);
    const u8 back[] = {0xea, 0x00, 0x02, 0x01, 0x00, TestCpu::code64_selector, 0};
    std::memcpy(t.ram.get() + 0x10100, back, sizeof back);
    t.step();
    EXPECT_TRUE(mode_64(t.cpu));
    EXPECT_EQ(t.cpu.rip, 0x10200u);
}

TEST(far, jump_to_a_data_segment_is_general_protection_with_its_selector) {
    TestCpu t(Mode::flat32);
    start(t, {0xea, 0, 0, 0, 0, TestCpu::data_selector, 0});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_EQ(t.peek<u32>(t[rsp]), TestCpu::data_selector);
    EXPECT_EQ(t.peek<u32>(t[rsp] + 4), TestCpu::code_base);
}

TEST(far, syscall_and_sysret) {
    TestCpu t(Mode::long64);
    enter_user(t, TestCpu::user_code64_selector);
    t.cpu.star = u64{0x18} << 32 | u64{0x23} << 48;
    t.cpu.lstar = 0x30000;
    t.cpu.sfmask = flag::if_ | flag::tf | flag::df;
    t.cpu.rflags |= flag::if_ | flag::df | flag::cf;
    const u64 flags = t.cpu.rflags;
    const u8 back[] = {0x48, 0x0f, 0x07};
    std::memcpy(t.ram.get() + 0x30000, back, sizeof back);
    start(t, {0x0f, 0x05});
    t.step();
    EXPECT_EQ(t.cpu.cpl, 0u);
    EXPECT_EQ(t.cpu.rip, 0x30000u);
    EXPECT_EQ(t[rcx], TestCpu::code_base + 2);
    EXPECT_EQ(t[r11], flags);
    EXPECT_EQ(t.cpu.rflags, flags & ~u64{flag::if_ | flag::df});
    EXPECT_EQ(t.cpu.seg[cs].selector, 0x18);
    EXPECT_EQ(t.cpu.seg[ss].selector, 0x20);
    t.step();
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base + 2);
    EXPECT_EQ(t.cpu.rflags, flags);
    EXPECT_EQ(t.cpu.seg[cs].selector, 0x33);
    EXPECT_EQ(t.cpu.seg[ss].selector, 0x2b);
    EXPECT_TRUE(mode_64(t.cpu));
}

TEST(far, sysenter_and_sysexit) {
    TestCpu t(Mode::flat32);
    enter_user(t, TestCpu::user_code32_selector);
    t.cpu.sysenter_cs = TestCpu::code32_selector;
    t.cpu.sysenter_esp = 0x1d000;
    t.cpu.sysenter_eip = 0x30000;
    t.poke<u16>(0x30000, 0x350f);
    t.cpu.rflags |= flag::if_;
    start(t, {0x0f, 0x34});
    t.step();
    EXPECT_EQ(t.cpu.rip, 0x30000u);
    EXPECT_EQ(t[rsp], 0x1d000u);
    EXPECT_EQ(t.cpu.cpl, 0u);
    EXPECT_FALSE(t.cpu.rflags & flag::if_);
    t[rdx] = 0x10002;
    t[rcx] = 0x1e000;
    t.step();
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.rip, 0x10002u);
    EXPECT_EQ(t[rsp], 0x1e000u);
    EXPECT_EQ(t.cpu.seg[cs].selector, (TestCpu::code32_selector + 16) | 3);
}

// --- interrupts and exceptions

TEST(delivery, real_mode_interrupt_and_iret) {
    TestCpu t(Mode::real16);
    t.cpu.rflags |= flag::if_ | flag::cf;
    t.poke<u8>(TestCpu::handler(8), 0xcf);
    start(t, {0x90});
    ASSERT_EQ(deliver_interrupt(t.context, 8),
              Step::done); // IRQ 0: no double fault for all its vector
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(8));
    EXPECT_FALSE(t.cpu.rflags & flag::if_);
    EXPECT_EQ(t.peek<u16>(0xeffe) & (flag::if_ | flag::cf), flag::if_ | flag::cf);
    t.step();
    EXPECT_EQ(t.cpu.seg[cs].base, TestCpu::code_base);
    EXPECT_EQ(t.cpu.rip, 0u);
    EXPECT_TRUE(t.cpu.rflags & flag::if_);
}

TEST(delivery, user_fault_switches_to_the_tss_stack_and_back) {
    TestCpu t(Mode::flat32);
    enter_user(t, TestCpu::user_code32_selector);
    t.cpu.rflags |= flag::if_;
    t[rsp] = 0x1e000;
    t.poke<u32>(TestCpu::handler(vector::gp), 0xcf04c483); // add esp, 4; iret
    start(t, {0xf4, 0x90});                                // hlt at level 3
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_EQ(t.cpu.cpl, 0u);
    const u64 sp = TestCpu::stack_top - 0x1000 - 24;
    ASSERT_EQ(t[rsp], sp);
    EXPECT_EQ(t.peek<u32>(sp), 0u); // error code
    EXPECT_EQ(t.peek<u32>(sp + 4), TestCpu::code_base);
    EXPECT_TRUE(t.peek<u32>(sp + 12) & flag::rf);
    EXPECT_EQ(t.peek<u32>(sp + 16), 0x1e000u);
    EXPECT_FALSE(t.cpu.rflags & flag::if_);
    t.step();
    t.step();
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base);
    EXPECT_EQ(t[rsp], 0x1e000u);
    EXPECT_TRUE(t.cpu.rflags & flag::if_);
    EXPECT_TRUE(t.cpu.seg[ds].is(Segment::present));
}

TEST(delivery, int_n_checks_the_gate_s_privilege) {
    TestCpu t(Mode::flat32);
    enter_user(t, TestCpu::user_code32_selector);
    start(t, {0xcd, 0x80});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_EQ(t.peek<u32>(t[rsp]), 0x80u * 8 + 2);
    TestCpu v(Mode::flat32);
    enter_user(v, TestCpu::user_code32_selector);
    v.poke<u8>(TestCpu::idt_base + 0x80 * 8 + 5, 0xef); // trap gate, DPL 3
    v.cpu.rflags |= flag::if_;
    start(v, {0xcd, 0x80});
    v.step();
    EXPECT_EQ(v.cpu.rip, TestCpu::handler(0x80));
    EXPECT_TRUE(v.cpu.rflags & flag::if_);
    EXPECT_EQ(v.peek<u32>(v[rsp]), TestCpu::code_base + 2);
}

TEST(delivery, long_mode_frames_are_aligned_and_use_interrupt_stacks) {
    TestCpu t(Mode::long64);
    t[rsp] = 0x1e00b;
    start(t, {0x0f, 0x0b});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::ud));
    EXPECT_EQ(t[rsp], 0x1e000u - 40);
    EXPECT_EQ(t.peek<u64>(t[rsp] + 24), 0x1e00bu);
    EXPECT_EQ(t.cpu.seg[ss].selector, TestCpu::data_selector);

    t.poke<u8>(TestCpu::idt_base + vector::ud * 16 + 4, 2);
    t.poke<u64>(TestCpu::tss_base + 44, 0x2f008);
    start(t, {0x0f, 0x0b});
    t.step();
    EXPECT_EQ(t[rsp], 0x2f000u - 40);

    enter_user(t, TestCpu::user_code64_selector);
    t.cpu.seg[cs].attributes |= Segment::long_mode;
    start(t, {0xf4});
    t.poke<u16>(TestCpu::handler(vector::gp),
                0xcf48); // iretq, with the error code still there: RIP is 0
    t.step();
    EXPECT_EQ(t.cpu.cpl, 0u);
    EXPECT_EQ(t.cpu.seg[ss].selector, 0);
    EXPECT_FALSE(t.cpu.seg[ss].is(Segment::present));
    t[rsp] += 8;
    t.step();
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base);
}

TEST(delivery, iretq_to_level_0_accepts_a_null_stack_segment) {
    TestCpu t(Mode::long64);
    const u64 frame[] = {0x30000, TestCpu::code64_selector, flag::if_ | 2, 0x1e123, 0};
    for (unsigned i = 0; i < 5; ++i)
        t.poke<u64>(0x1e000 + 8 * i, frame[i]);
    t[rsp] = 0x1e000;
    start(t, {0x48, 0xcf});
    t.step();
    EXPECT_EQ(t.cpu.rip, 0x30000u);
    EXPECT_EQ(t[rsp], 0x1e123u);
    EXPECT_TRUE(t.cpu.rflags & flag::if_);
    EXPECT_EQ(t.cpu.cpl, 0u);
}

TEST(delivery, fs_base_with_null_selector_survives_a_return_to_user_mode) {
    TestCpu t(Mode::long64);
    Fault fault;
    ASSERT_EQ(load_segment(t.context, fs, 0, fault), Outcome::ok);
    ASSERT_EQ(write_msr(t.context, 0xc000'0100, 0x7fff'1234'5000, fault), Outcome::ok);
    const u64 frame[] = {0x30000, TestCpu::user_code64_selector, 2, 0x1e123,
                         TestCpu::user_data_selector};
    for (unsigned i = 0; i < 5; ++i)
        t.poke<u64>(0x1e000 + 8 * i, frame[i]);
    t[rsp] = 0x1e000;
    start(t, {0x48, 0xcf});
    t.step();
    ASSERT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.seg[fs].base, 0x7fff'1234'5000u);
}

TEST(delivery, a_fault_while_delivering_becomes_a_double_fault) {
    TestCpu t(Mode::flat32);
    t.poke<u8>(TestCpu::idt_base + vector::gp * 8 + 5, 0x0e); // #GP's gate is not present
    t[rax] = 0x1000;
    start(t, {0x8e, 0xd8}); // mov ds, ax: beyond the GDT
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::df));
    EXPECT_EQ(t.peek<u32>(t[rsp]), 0u);
}

TEST(delivery, a_benign_exception_is_followed_by_the_fault_of_its_delivery) {
    TestCpu t(Mode::flat32);
    t.poke<u8>(TestCpu::idt_base + vector::ud * 8 + 5, 0x0e);
    start(t, {0x0f, 0x0b});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::np));
    EXPECT_EQ(t.peek<u32>(t[rsp]), vector::ud * 8u + 3) << "IDT and EXT";
}

TEST(delivery, triple_fault_shuts_down) {
    TestCpu t(Mode::flat32);
    t.cpu.idt.limit = 0;
    start(t, {0x0f, 0x0b});
    EXPECT_EQ(t.step(), Step::exit);
    EXPECT_EQ(t.cpu.exit.kind, ExitKind::shutdown);
}

TEST(delivery, page_fault_in_delivery_sets_cr2) {
    TestCpu t(Mode::long64);
    t[rsp] = 0x7000'0000'0000; // unmapped: the frame of #UD faults, and so does that of #PF, #DF
                               // goes on an IST
    t.poke<u8>(TestCpu::idt_base + vector::df * 16 + 4, 1);
    t.poke<u64>(TestCpu::tss_base + 36, 0x2f000);
    start(t, {0x0f, 0x0b});
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::df));
    EXPECT_EQ(t.cpu.cr2, 0x6fff'ffff'fff8u);
}

TEST(delivery, interrupts_in_mmio_stacks_resume_where_they_left) {
    TestCpu t(Mode::flat32);
    t.cpu.rflags |= flag::if_;
    t[rsp] = 0xa0'1000;
    start(t, {0x90});
    ASSERT_EQ(deliver_interrupt(t.context, 0x20), Step::exit);
    EXPECT_EQ(t.cpu.exit.kind, ExitKind::memory_write);
    EXPECT_FALSE(interrupts_enabled(t.cpu));
    complete_exit(t.cpu);
    ASSERT_EQ(t.step(), Step::done);
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(0x20));
    EXPECT_EQ(t[rsp], 0xa0'1000u - 12);
    EXPECT_EQ(t.exits.size(), 2u); // and the one served by hand
}

TEST(delivery, v8086_mode_in_and_out) {
    TestCpu t(Mode::flat32);
    const u32 frame[] = {0x0010, 0x2000, flag::vm | flag::if_ | 2, 0x0800, 0x3000, 0x1111, 0x2222,
                         0x3333, 0x4444};
    for (unsigned i = 0; i < 9; ++i)
        t.poke<u32>(0x1e000 + 4 * i, frame[i]);
    t[rsp] = 0x1e000;
    t.poke<u16>(0x20010, 0x21cd); // int 21h with IOPL 0
    start(t, {0xcf});
    t.step();
    ASSERT_TRUE(v8086(t.cpu));
    EXPECT_EQ(t.cpu.cpl, 3u);
    EXPECT_EQ(t.cpu.seg[cs].base, 0x20000u);
    EXPECT_EQ(t.cpu.seg[ss].base, 0x30000u);
    EXPECT_EQ(t.cpu.seg[gs].base, 0x44440u);
    EXPECT_EQ(t.cpu.rip, 0x10u);
    EXPECT_EQ(t.cpu.mode & (mode::code_mask | mode::vm86), mode::code16 | mode::vm86);
    t.step();
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
    EXPECT_FALSE(v8086(t.cpu));
    EXPECT_EQ(t.cpu.cpl, 0u);
    const u64 sp = TestCpu::stack_top - 0x1000 - 40;
    ASSERT_EQ(t[rsp], sp);
    EXPECT_EQ(t.peek<u32>(sp + 4), 0x10u);
    EXPECT_EQ(t.peek<u32>(sp + 8), 0x2000u);
    EXPECT_TRUE(t.peek<u32>(sp + 12) & flag::vm);
    EXPECT_EQ(t.peek<u32>(sp + 24), 0x1111u);
    EXPECT_EQ(t.peek<u32>(sp + 36), 0x4444u);
    EXPECT_FALSE(t.cpu.seg[ds].is(Segment::present));
}

TEST(delivery, nmi_blocks_further_ones_until_iret) {
    TestCpu t(Mode::flat32);
    t.poke<u8>(TestCpu::handler(vector::nmi), 0xcf);
    start(t, {0x90});
    ASSERT_EQ(deliver_nmi(t.context), Step::done);
    EXPECT_TRUE(t.cpu.nmi_blocked);
    t.step();
    EXPECT_FALSE(t.cpu.nmi_blocked);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base);
}

} // namespace
} // namespace rhea::dbt::x86
