// Noise: random code, descriptors, page tables and registers in every mode. T0 must survive all of
// it (the sanitizers watch), and the derived fields of Cpu must always be what update_mode() makes
// of the rest: translated code relies on them.

#include "tests/unit/x86_fixture.h"

#include <random>

namespace rhea::dbt::x86 {
namespace {

class Noise {
public:
    explicit Noise(u64 seed) : random_(seed), t_(TestCpu::Mode(seed % 3)) {
        fill(TestCpu::data_base, 0x4000);
        make_code();
        // Descriptors that are nearly right reach further than pure noise.
        for (u64 at = TestCpu::gdt_base + 0x50; at < TestCpu::gdt_base + 0x100; at += 8)
            t_.poke<u64>(at, (random_() & 0x00ff'ffff'ffff'ffff & ~(u64{0xfff} << 32)) |
                                 u64{random_() & 0xf} << 40 | u64{0x80 | (random_() & 0x70)} << 40 |
                                 (random_() & 0xf0) << 48);
        control_bits();
        for (unsigned v = 0; v < 8; ++v)
            t_.cpu.gpr[random_() & 15] = interesting();
        t_.cpu.rflags = (random_() & 0x27'7fd5 & ~u64{flag::tf}) | flag::always_one;
        if (random_() % 4 == 0)
            t_.cpu.rflags |= flag::tf;
        if (random_() % 4 == 0 && protected_mode(t_.cpu))
            for (const SegmentName name : {cs, ss, ds, es})
                t_.cpu.seg[name].attributes |= 3 << 5;
        update_mode(t_.cpu);
    }

    void run(unsigned steps) {
        Cpu &cpu = t_.cpu;
        for (unsigned i = 0; i < steps; ++i) {
            if (random_() % 64 == 0 && interrupts_enabled(cpu)) {
                deliver_interrupt(t_.context, u8(random_()));
            } else if (random_() % 16 == 0) {
                cpu.rip = code_offset();
                update_mode(cpu);
            }
            cpu.halted = false;
            const Step result = step();
            check();
            if (result == Step::exit)
                break; // shut down
        }
    }

private:
    Step step() {
        Cpu &cpu = t_.cpu;
        for (unsigned tries = 0, left = 64; tries < 400; ++tries) {
            const u64 count = cpu.gpr[rcx];
            const Step result = x86::step(t_.context);
            if (result != Step::exit || cpu.exit.kind == ExitKind::shutdown)
                return result;
            EXPECT_NE(cpu.exit.kind, ExitKind::none);
            cpu.exit.value = random_();
            complete_exit(cpu);
            // A repeated string instruction goes on for as long as it likes: it is left half-way.
            if (cpu.gpr[rcx] != count && --left == 0) {
                cpu.gpr[rcx] = 0;
                tries = 0;
            }
        }
        ADD_FAILURE() << "an instruction that never stops asking for I/O";
        return Step::exit;
    }
    void check() {
        Cpu &cpu = t_.cpu;
        const u32 mode = cpu.mode, cpl = cpu.cpl;
        update_mode(cpu);
        EXPECT_EQ(cpu.mode, mode);
        EXPECT_EQ(cpu.cpl, cpl);
        EXPECT_LE(cpu.cpl, 3u);
        EXPECT_TRUE(cpu.rflags & flag::always_one);
        EXPECT_EQ(cpu.rflags & 0x8028, 0u);
        EXPECT_TRUE(!(cpu.efer & efer::lma) || (cpu.cr0 & cr0::pg));
        EXPECT_LE(cpu.tlb.journal_length[0], mmu::tlb_size);
        EXPECT_LE(cpu.tlb.journal_length[1], mmu::tlb_size);
    }
    u64 code_offset() {
        const u64 linear = TestCpu::code_base + random_() % 0x4000;
        return mode_64(t_.cpu) ? linear : u32(linear - t_.cpu.seg[cs].base);
    }
    u64 interesting() {
        switch (random_() % 6) {
        case 0: return random_();
        case 1: return u32(random_());
        case 2: return TestCpu::data_base + random_() % 0x3000;
        case 3: return random_() % 0x100;
        case 4: return 0x174 + random_() % 4;
        default: return 0xc000'0080 + random_() % 0x10;
        }
    }
    void fill(u64 at, u64 size) {
        for (u64 i = 0; i < size; i += 8)
            t_.poke<u64>(at + i, random_());
    }
    // Random control bits; paging for protected mode: the first megabytes as they are, noise above.
    void control_bits() {
        Cpu &cpu = t_.cpu;
        Fault fault{};
        const u64 toggles = random_() & (cr0::mp | cr0::ts | cr0::em | cr0::ne | cr0::wp | cr0::am);
        write_cr(t_.context, 0, cpu.cr0 ^ toggles, fault);
        if (random_() & 1)
            write_cr(t_.context, 4,
                     cpu.cr4 ^ (random_() & (cr4::tsd | cr4::de | cr4::pge | cr4::osfxsr)), fault);
        if (mode_64(cpu)) {
            fill(TestCpu::tables + 0x2010, 0x300);
        } else if (protected_mode(cpu) && random_() & 1) {
            const bool wide = random_() & 1;
            fill(TestCpu::tables, 0x3000);
            if (wide) {
                for (u64 n = 0; n < 4; ++n)
                    t_.poke<u64>(TestCpu::tables + 8 * n, (TestCpu::tables + 0x1000) | 1);
                t_.poke<u64>(TestCpu::tables + 0x1000, 0x87);
            } else {
                t_.poke<u32>(TestCpu::tables, 0x87);
            }
            write_cr(t_.context, 4, cpu.cr4 | (wide ? cr4::pae : cr4::pse), fault);
            write_cr(t_.context, 3, TestCpu::tables, fault);
            write_cr(t_.context, 0, cpu.cr0 | cr0::pg, fault);
        }
    }
    // Noise, thick with system instructions.
    void make_code() {
        fill(TestCpu::code_base, 0x4000);
        static constexpr u8 two_byte[] = {0x00, 0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x20,
                                          0x21, 0x22, 0x23, 0x30, 0x32, 0x34, 0x35, 0xa0,
                                          0xa1, 0xa8, 0xa9, 0xb2, 0xb4, 0xb5, 0xa2, 0xae};
        static constexpr u8 one_byte[] = {0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x63, 0x8c,
                                          0x8e, 0x9a, 0x9c, 0x9d, 0xc4, 0xc5, 0xca, 0xcb, 0xcc,
                                          0xcd, 0xce, 0xcf, 0xea, 0xf1, 0xf4, 0xfa, 0xfb, 0xff,
                                          0x6c, 0x6e, 0xa4, 0xab, 0xe4, 0xec};
        for (u64 at = TestCpu::code_base; at < TestCpu::code_base + 0x4000;
             at += 2 + random_() % 8) {
            if (random_() & 1) {
                t_.poke<u8>(at, 0x0f);
                t_.poke<u8>(at + 1, two_byte[random_() % std::size(two_byte)]);
            } else {
                t_.poke<u8>(at, one_byte[random_() % std::size(one_byte)]);
            }
        }
    }

    std::mt19937_64 random_;
    TestCpu t_;
};

TEST(noise, survives_and_keeps_derived_state_right) {
    for (u64 seed = 0; seed < 600; ++seed) {
        SCOPED_TRACE(seed);
        Noise noise(seed);
        noise.run(150);
        if (::testing::Test::HasFailure())
            break;
    }
}

} // namespace
} // namespace rhea::dbt::x86
