// T0 on noise: random bytes as code, random registers, descriptors and page tables under random
// stores. Whatever a guest does, step() comes back, and the state stays one that a CPU can be in.

#include "tests/unit/x86_fixture.h"

#include <random>

namespace rhea::dbt::x86 {
namespace {

void expect_sane(const Cpu &cpu) {
    ASSERT_EQ(cpu.cc_form, CcForm::in_rflags);
    ASSERT_NE(cpu.rflags & flag::always_one, 0u);
    ASSERT_LE(cpu.cpl, 3u);
    ASSERT_LE(cpu.io.served, IoLog::capacity);
    ASSERT_EQ((cpu.efer & efer::lma) != 0, (cpu.efer & efer::lme) != 0 && (cpu.cr0 & cr0::pg) != 0);
    ASSERT_TRUE(mode_64(cpu) || cpu.rip <= 0xffff'ffff);
}

void run_noise(TestCpu::Mode mode, u32 seed, unsigned rounds) {
    std::mt19937_64 random(seed);
    TestCpu t(mode);
    const std::vector<u8> pristine(t.ram.get(), t.ram.get() + TestCpu::ram_size);
    const Cpu &start = *t.state;
    const u64 cr[] = {start.cr0, start.cr3, start.cr4, start.efer};
    Segment segments[segment_count], tr = start.tr;
    std::copy(std::begin(start.seg), std::end(start.seg), segments);
    const TableRegister gdt = start.gdt, idt = start.idt;
    for (unsigned round = 0; round < rounds; ++round) {
        std::copy(pristine.begin(), pristine.end(), t.ram.get());
        reset(t.cpu, false);
        t.cpu.cr0 = cr[0];
        t.cpu.cr3 = cr[1];
        t.cpu.cr4 = cr[2];
        t.cpu.efer = cr[3];
        std::copy(std::begin(segments), std::end(segments), t.cpu.seg);
        t.cpu.tr = tr;
        t.cpu.gdt = gdt;
        t.cpu.idt = idt;
        for (u64 &gpr : t.cpu.gpr)
            gpr = random() % 3 == 0 ? random() : random() % TestCpu::ram_size;
        for (u64 at = TestCpu::handlers; at < TestCpu::data_base; at += 8)
            t.poke<u64>(at, random());
        t.cpu.rip =
            TestCpu::code_base + random() % 0x8000 - (mode_64(t.cpu) ? 0 : t.cpu.seg[cs].base);
        t.cpu.rflags |= random() & (flag::arithmetic | flag::df | flag::if_ | flag::ac);
        if (random() % 8 == 0)
            t.cpu.rflags |= flag::tf;
        flush_tlb(t.cpu, true);
        update_mode(t.cpu);
        for (unsigned n = 0; n < 200 && !t.cpu.halted; ++n) {
            t.answers.push_back(random());
            if (t.step() == Step::exit)
                break; // shut down
            expect_sane(t.cpu);
            if (::testing::Test::HasFatalFailure())
                FAIL() << "seed " << seed << " round " << round << " step " << n;
            if (interrupts_enabled(t.cpu) && random() % 16 == 0 &&
                deliver_interrupt(t.context, u8(random())) == Step::exit)
                break;
        }
        t.answers.clear();
        t.exits.clear();
    }
}

TEST(X86Noise, random_code_in_real_mode) {
    run_noise(TestCpu::Mode::real16, 1, 150);
}
TEST(X86Noise, random_code_in_protected_mode) {
    run_noise(TestCpu::Mode::flat32, 2, 150);
}
TEST(X86Noise, random_code_in_long_mode) {
    run_noise(TestCpu::Mode::long64, 3, 150);
}

} // namespace
} // namespace rhea::dbt::x86
