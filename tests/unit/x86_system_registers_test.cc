// Control registers, MSRs, CPUID, reset and the derived mode.

#include "tests/unit/x86_fixture.h"

namespace rhea::dbt::x86 {
namespace {

using Mode = TestCpu::Mode;

std::unique_ptr<Cpu> make_cpu(std::string_view model = "qemu64") {
    auto cpu = std::make_unique<Cpu>();
    EXPECT_EQ(set_cpu_model(*cpu, model, {}), "");
    reset(*cpu, false);
    return cpu;
}

TEST(reset, power_on_state_is_the_manual_s) {
    const auto cpu = make_cpu();
    EXPECT_EQ(cpu->seg[cs].base + cpu->rip, 0xffff'fff0u);
    EXPECT_EQ(cpu->seg[cs].selector, 0xf000);
    EXPECT_EQ(cpu->seg[cs].attributes, 0x9b);
    EXPECT_EQ(cpu->cr0, 0x6000'0010u);
    EXPECT_EQ(cpu->gpr[rdx], 0x60fb1u);
    EXPECT_EQ(cpu->rflags, 2u);
    EXPECT_EQ(cpu->mode, mode::x87);
    EXPECT_EQ(cpu->page_base, 0xffff'f000u);
    EXPECT_EQ(cpu->apic_base, 0xfee0'0900u);
    for (unsigned i = 0; i < mmu::tlb_size; ++i)
        ASSERT_GE(cpu->tlb.data[0][i].read ^ u64{i} << 12, u64{4096}) << "an empty entry matches";
}

TEST(reset, init_keeps_what_it_must) {
    const auto cpu = make_cpu();
    cpu->pat = 1;
    cpu->xmm[3].low = 7;
    cpu->cr0 = cr0::pe | cr0::et;
    cpu->gpr[rbx] = 5;
    reset(*cpu, true);
    EXPECT_EQ(cpu->pat, 1u);
    EXPECT_EQ(cpu->xmm[3].low, 7u);
    EXPECT_EQ(cpu->cr0, cr0::et); // CD and NW as they were
    EXPECT_EQ(cpu->gpr[rbx], 0u);
}

TEST(control_registers, illegal_cr0_values_fault) {
    TestCpu t(Mode::flat32);
    Fault fault;
    const u64 before = t.cpu.cr0;
    for (const u64 bad : {cr0::pg | cr0::et, cr0::pe | cr0::nw, cr0::pe | u64{1} << 32}) {
        EXPECT_EQ(write_cr(t.context, 0, bad, fault), Outcome::fault) << bad;
        EXPECT_EQ(fault.vector, vector::gp);
        EXPECT_EQ(t.cpu.cr0, before);
    }
    ASSERT_EQ(write_cr(t.context, 0, 0x2000'0000'0 >> 4 | cr0::pe | cr0::cd, fault), Outcome::ok);
    EXPECT_TRUE(t.cpu.cr0 & cr0::et) << "ET is wired to one";
}

TEST(control_registers, long_mode_is_entered_and_left_by_the_book) {
    TestCpu t(Mode::flat32);
    Cpu &cpu = t.cpu;
    Fault fault;
    t.poke<u64>(TestCpu::tables, (TestCpu::tables + 0x1000) | 7);
    t.poke<u64>(TestCpu::tables + 0x1000, (TestCpu::tables + 0x2000) | 7);
    t.poke<u64>(TestCpu::tables + 0x2000, 0x87);
    ASSERT_EQ(write_cr(t.context, 3, TestCpu::tables, fault), Outcome::ok);
    ASSERT_EQ(write_msr(t.context, 0xc000'0080, efer::lme, fault), Outcome::ok);
    EXPECT_EQ(write_cr(t.context, 0, cpu.cr0 | cr0::pg, fault), Outcome::fault) << "PAE is off";
    ASSERT_EQ(write_cr(t.context, 4, cr4::pae, fault), Outcome::ok);
    ASSERT_EQ(write_cr(t.context, 0, cpu.cr0 | cr0::pg, fault), Outcome::ok);
    EXPECT_TRUE(long_mode_active(cpu));
    EXPECT_FALSE(mode_64(cpu));
    EXPECT_EQ(write_cr(t.context, 4, 0, fault), Outcome::fault) << "PAE may not go";
    EXPECT_EQ(write_msr(t.context, 0xc000'0080, 0, fault), Outcome::fault) << "LME may not change";
    EXPECT_EQ(write_cr(t.context, 3, u64{1} << 45, fault), Outcome::fault);
    ASSERT_EQ(write_cr(t.context, 0, cpu.cr0 & ~cr0::pg, fault), Outcome::ok);
    EXPECT_FALSE(long_mode_active(cpu));
    EXPECT_EQ(cpu.efer, efer::lme);
}

TEST(control_registers, cr4_follows_cpuid) {
    TestCpu t(Mode::flat32);
    Fault fault;
    for (const u64 bad : {cr4::smep, cr4::smap, cr4::fsgsbase, cr4::pcide, cr4::osxsave, cr4::vmxe,
                          cr4::la57, u64{1} << 40})
        EXPECT_EQ(write_cr(t.context, 4, bad, fault), Outcome::fault) << bad;
    EXPECT_EQ(write_cr(t.context, 4,
                       cr4::pse | cr4::de | cr4::tsd | cr4::mce | cr4::pge | cr4::osfxsr |
                           cr4::osxmmexcpt,
                       fault),
              Outcome::ok);
}

TEST(control_registers, cr8_leaves_the_core) {
    TestCpu t(Mode::long64);
    t[rax] = 5;
    t.answers.push_back(9);
    t.run({0x44, 0x0f, 0x22, 0xc0}); // mov cr8, rax
    ASSERT_EQ(t.exits.size(), 1u);
    EXPECT_EQ(t.exits[0].kind, ExitKind::task_priority_write);
    EXPECT_EQ(t.exits[0].value, 5u);
}

TEST(control_registers, lmsw_cannot_leave_protected_mode) {
    TestCpu t(Mode::flat32);
    t[rax] = 0xa;
    t.run({0x0f, 0x01, 0xf0});
    EXPECT_EQ(t.cpu.cr0 & 15, cr0::pe | cr0::mp | cr0::ts);
    EXPECT_EQ(t.cpu.mode & mode::x87, 0u);
    t.run({0x0f, 0x06}); // clts
    EXPECT_EQ(t.cpu.mode & mode::x87, mode::x87);
}

TEST(msr, known_ones_keep_values_and_unknown_ones_fault) {
    TestCpu t(Mode::long64);
    Fault fault;
    u64 value;
    for (const u32 number :
         {0xc000'0081u, 0xc000'0082u, 0xc000'0084u, 0xc000'0102u, 0x174u, 0x175u, 0x200u, 0x26fu}) {
        ASSERT_EQ(write_msr(t.context, number, 0x1234'5000, fault), Outcome::ok) << number;
        ASSERT_EQ(read_msr(t.context, number, value, fault), Outcome::ok);
        EXPECT_EQ(value, 0x1234'5000u);
    }
    for (const u32 number : {0x1234'5678u, 0xc000'0103u, 0x48u, 0x800u}) {
        EXPECT_EQ(read_msr(t.context, number, value, fault), Outcome::fault) << number;
        EXPECT_EQ(fault.vector, vector::gp);
        EXPECT_EQ(write_msr(t.context, number, 0, fault), Outcome::fault);
    }
    EXPECT_EQ(write_msr(t.context, 0xc000'0082, 0x8000'0000'0000, fault), Outcome::fault)
        << "not canonical";
    EXPECT_EQ(write_msr(t.context, 0x277, 2, fault), Outcome::fault) << "reserved memory type";
    EXPECT_EQ(write_msr(t.context, 0xc000'0080, u64{1} << 12, fault), Outcome::fault) << "no SVM";
}

TEST(msr, apic_base_is_reported_to_the_owner_before_it_changes) {
    TestCpu t(Mode::flat32);
    t[rcx] = 0x1b;
    t[rax] = 0xfee0'1800;
    t[rdx] = 0;
    t.run({0x0f, 0x30});
    ASSERT_EQ(t.exits.size(), 1u);
    EXPECT_EQ(t.exits[0].kind, ExitKind::msr_write);
    EXPECT_EQ(t.exits[0].address, 0x1bu);
    EXPECT_EQ(t.exits[0].value, 0xfee0'1900u);
    EXPECT_EQ(t.cpu.apic_base, 0xfee0'1900u);
    t[rax] = 0xfee0'1c00; // x2APIC
    t.run({0x0f, 0x30});
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp));
}

TEST(msr, time_stamp_counter_is_writable_and_runs) {
    TestCpu t(Mode::flat32);
    Fault fault;
    ASSERT_EQ(write_msr(t.context, 0x10, 1000, fault), Outcome::ok);
    const u64 first = guest_tsc(t.cpu);
    EXPECT_GE(first, 1000u);
    EXPECT_LT(first, u64{1} << 40);
    EXPECT_GT(guest_tsc(t.cpu), first);
}

TEST(system_instructions, user_code_may_not) {
    for (const std::initializer_list<u8> code : {std::initializer_list<u8>{0x0f, 0x20, 0xc0},
                                                 {0x0f, 0x30},
                                                 {0x0f, 0x32},
                                                 {0x0f, 0x01, 0x10},
                                                 {0xf4},
                                                 {0x0f, 0x06},
                                                 {0x0f, 0x09},
                                                 {0x0f, 0x01, 0x38},
                                                 {0x0f, 0x23, 0xf8}}) {
        TestCpu t(Mode::flat32);
        for (const SegmentName name : {ss, cs})
            t.cpu.seg[name].attributes |= 3 << 5;
        t.cpu.seg[cs].selector |= 3;
        update_mode(t.cpu);
        t[rax] = TestCpu::data_base;
        t.code(code);
        t.step();
        EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::gp))
            << unsigned(*code.begin()) << ' ' << unsigned(code.begin()[1]);
        EXPECT_EQ(t.cpu.cpl, 0u);
    }
}

TEST(system_instructions, descriptor_tables_by_mode) {
    TestCpu t(Mode::long64);
    t.poke<u16>(TestCpu::data_base, 0x1ff);
    t.poke<u64>(TestCpu::data_base + 2, 0xffff'8000'0000'1000);
    t[rbx] = TestCpu::data_base;
    t.run({0x0f, 0x01, 0x1b}); // lidt [rbx]
    EXPECT_EQ(t.cpu.idt.base, 0xffff'8000'0000'1000u);
    EXPECT_EQ(t.cpu.idt.limit, 0x1ffu);
    t.run({0x0f, 0x01, 0x4b, 0x20}); // sidt [rbx+20h]
    EXPECT_EQ(t.peek<u64>(TestCpu::data_base + 0x22), 0xffff'8000'0000'1000u);

    TestCpu r(Mode::real16);
    r.poke<u16>(0x500, 0x3ff);
    r.poke<u32>(0x502, 0x12345678);
    r.run({0x0f, 0x01, 0x16, 0x00, 0x05}); // lgdt [0500h], 16-bit operands: 24 bits of base
    EXPECT_EQ(r.cpu.gdt.base, 0x345678u);
    r.run({0x66, 0x0f, 0x01, 0x16, 0x00, 0x05});
    EXPECT_EQ(r.cpu.gdt.base, 0x12345678u);
}

TEST(system_instructions, halt_retires) {
    TestCpu t(Mode::flat32);
    t.code({0xf4});
    EXPECT_EQ(t.step(), Step::done);
    EXPECT_TRUE(t.cpu.halted);
    EXPECT_EQ(t.cpu.rip, TestCpu::code_base + 1);
    t.cpu.rflags |= flag::if_;
    ASSERT_EQ(deliver_interrupt(t.context, 0x20), Step::done);
    EXPECT_FALSE(t.cpu.halted);
}

TEST(system_instructions, swapgs_and_general_detect) {
    TestCpu t(Mode::long64);
    t.cpu.seg[gs].base = 1;
    t.cpu.kernel_gs_base = 2;
    t.run({0x0f, 0x01, 0xf8});
    EXPECT_EQ(t.cpu.seg[gs].base, 2u);
    EXPECT_EQ(t.cpu.kernel_gs_base, 1u);
    t.cpu.dr[7] |= 1 << 13;
    t.run({0x0f, 0x21, 0xc0}); // mov rax, dr0
    EXPECT_EQ(t.cpu.rip, TestCpu::handler(vector::db));
    EXPECT_TRUE(t.cpu.dr[6] & 1 << 13);
    EXPECT_FALSE(t.cpu.dr[7] & 1 << 13);
}

TEST(mode, flat_is_strict) {
    TestCpu t(Mode::flat32);
    Cpu &cpu = t.cpu;
    constexpr u32 extra = mode::flat_fs | mode::flat_gs, all = mode::flat | extra;
    EXPECT_EQ(cpu.mode & all, all);
    const auto broken = [&](SegmentName name, auto change) {
        const Segment saved = cpu.seg[name];
        change(cpu.seg[name]);
        update_mode(cpu);
        const u32 bits = cpu.mode & all;
        cpu.seg[name] = saved;
        update_mode(cpu);
        return bits;
    };
    for (const SegmentName name : {cs, ds, es, ss}) {
        EXPECT_EQ(broken(name, [](Segment &s) { s.base = 4096; }), extra);
        EXPECT_EQ(broken(name, [](Segment &s) { s.limit = 0xffff'efff; }), extra);
        EXPECT_EQ(broken(name, [](Segment &s) { s.attributes &= u16(~Segment::present); }), extra);
    }
    for (const SegmentName name : {ds, es, ss}) {
        EXPECT_EQ(broken(name, [](Segment &s) { s.attributes &= u16(~Segment::writable); }), extra);
        EXPECT_EQ(broken(name, [](Segment &s) { s.attributes |= Segment::expand_down; }), extra);
    }
    EXPECT_EQ(broken(gs, [](Segment &s) { s.limit = 0xffff; }), mode::flat | mode::flat_fs);
    EXPECT_EQ(broken(fs, [](Segment &s) { s.base = 0x1234; }), all);
    EXPECT_EQ(broken(ds, [](Segment &s) { s = {}; }), extra);
}

TEST(cpuid, qemu64_is_what_it_says) {
    const auto cpu = make_cpu();
    u32 r[4];
    cpuid(*cpu, 0, 0, r);
    EXPECT_EQ(r[0], 0xdu);
    EXPECT_EQ(r[1], 0x68747541u);
    EXPECT_EQ(r[2], 0x444d4163u);
    EXPECT_EQ(r[3], 0x69746e65u);
    cpuid(*cpu, 1, 0, r);
    EXPECT_EQ(r[0], 0x60fb1u);
    EXPECT_EQ(r[1], 0x800u);
    EXPECT_EQ(r[2], 0x8000'2001u);
    EXPECT_EQ(r[3], 0x078b'fbfdu);
    cpuid(*cpu, 0x8000'0001, 0, r);
    EXPECT_EQ(r[2], 1u);
    EXPECT_EQ(r[3], 0x2193'fbfdu);
    cpuid(*cpu, 0x8000'0007, 0, r);
    EXPECT_EQ(r[3], 0x100u);
    cpuid(*cpu, 0x8000'0008, 0, r);
    EXPECT_EQ(r[0], 0x3028u);
    cpuid(*cpu, 0x4000'0000, 0, r);
    EXPECT_EQ(r[0] | r[1] | r[2] | r[3], 0u);
    cpu->apic_base &= ~u64{0x800};
    cpuid(*cpu, 1, 0, r);
    EXPECT_EQ(r[3], 0x078b'f9fdu);
}

TEST(cpuid, features_are_edited_and_errors_name_what_is_known) {
    const auto cpu = make_cpu("qemu64,+popcnt,-sse3");
    u32 r[4];
    cpuid(*cpu, 1, 0, r);
    EXPECT_EQ(r[2], 0x8080'2000u);
    Cpu untouched{};
    EXPECT_NE(set_cpu_model(untouched, "pentium9", {}).find("known: qemu64"), std::string::npos);
    EXPECT_NE(set_cpu_model(untouched, "qemu64,+sse9", {}).find("unknown CPU feature 'sse9'"),
              std::string::npos);
    EXPECT_NE(set_cpu_model(untouched, "qemu64,+avx", {}).find("not implemented"),
              std::string::npos);
    EXPECT_NE(set_cpu_model(untouched, "qemu64,sse3", {}).find("+feature or -feature"),
              std::string::npos);
    EXPECT_NE(set_cpu_model(untouched, "qemu64,", {}).find("empty feature"), std::string::npos);
    EXPECT_EQ(untouched.cpuid_count, 0u);
}

TEST(cpuid, several_vcpus_are_cores_of_one_package) {
    auto cpu = std::make_unique<Cpu>();
    ASSERT_EQ(set_cpu_model(*cpu, "qemu64", {3, 4}), "");
    u32 r[4];
    cpuid(*cpu, 1, 0, r);
    EXPECT_EQ(r[1], 0x0304'0800u);
    EXPECT_TRUE(r[3] & 1u << 28);
    cpuid(*cpu, 0x8000'0008, 0, r);
    EXPECT_EQ(r[2], 3u);
}

} // namespace
} // namespace rhea::dbt::x86
