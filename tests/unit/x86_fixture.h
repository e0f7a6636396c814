#pragma once
// A CPU with 2 MiB of RAM for tests of accel/dbt/guest/x86: put bytes of code into it, run it step
// by step on T0, look at registers and memory. Exceptions arrive at handler(vector), through an IVT
// or IDT that is set up in each mode.
//
//   0000h IVT   4000h GDT   5000h IDT   6000h TSS   8000h handlers, 16 bytes a vector   10000h code
//   1F000h stack top 20000h… free data   70000h page tables (long mode: identity, 2 MiB pages, user
//   accessible)

#include "accel/dbt/guest/x86/cpuid.h"
#include "accel/dbt/guest/x86/insn_cache.h"
#include "accel/dbt/guest/x86/memory.h"
#include "accel/dbt/guest/x86/system.h"

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <initializer_list>
#include <memory>
#include <vector>

namespace rhea::dbt::x86 {

class TestCpu : StoreWatch {
public:
    enum class Mode { real16, flat32, long64 };

    static constexpr u64 ram_size = 2 << 20, gdt_base = 0x4000, idt_base = 0x5000,
                         tss_base = 0x6000, handlers = 0x8000, code_base = 0x10000,
                         stack_top = 0x1f000, data_base = 0x20000, tables = 0x70000;
    // Selectors of the GDT. The 64-bit code segment and the 32-bit one are both there.
    static constexpr u16 code32_selector = 0x08, data_selector = 0x10, code64_selector = 0x18,
                         user_code32_selector = 0x23, user_data_selector = 0x2b,
                         user_code64_selector = 0x33, tss_selector = 0x38;

    explicit TestCpu(Mode mode)
        : ram(new (std::align_val_t{4096}) u8[ram_size]), state(new Cpu{}), cpu(*state),
          map({{0, ram_size, ram.get(), true, page_flags}}), context{cpu, &map, this, &cache} {
        std::memset(ram.get(), 0, ram_size);
        EXPECT_EQ(set_cpu_model(cpu, "qemu64", {}), "");
        reset(cpu, false);
        switch (mode) {
        case Mode::real16: enter_real(); break;
        case Mode::flat32: enter_protected(); break;
        case Mode::long64: enter_long(); break;
        }
    }

    static u64 handler(u8 vector) { return handlers + u64{vector} * 16; }

    // Puts code at code_base and points RIP at it.
    void code(std::initializer_list<u8> bytes) {
        std::memcpy(ram.get() + code_base, bytes.begin(), bytes.size());
        cpu.rip = code_base - (mode_64(cpu) ? 0 : cpu.seg[cs].base);
        code_end = cpu.rip + bytes.size();
        update_mode(cpu);
    }

    // One step() with its exits served: answers are taken from `answers` (all ones when there are
    // none), every exit is recorded. Gives Step::exit only for a shutdown.
    Step step() {
        for (unsigned tries = 0; tries < 1000; ++tries) {
            const Step result = x86::step(context);
            if (result != Step::exit || cpu.exit.kind == ExitKind::shutdown)
                return result;
            if (cpu.exit.kind == ExitKind::port_read || cpu.exit.kind == ExitKind::memory_read) {
                cpu.exit.value = answers.empty() ? ~u64{0} : answers.front();
                if (!answers.empty())
                    answers.pop_front();
            }
            exits.push_back(cpu.exit);
            complete_exit(cpu);
        }
        ADD_FAILURE() << "an instruction that never stops asking for I/O, at " << std::hex
                      << cpu.rip << ": kind " << int(cpu.exit.kind) << " address "
                      << cpu.exit.address;
        return Step::exit;
    }

    // The whole code once; stops early when control leaves it (at a handler, for one) or the CPU
    // halts. Gives the number of steps.
    unsigned run(unsigned limit = 100000) {
        unsigned steps = 0;
        const u64 first = code_end > 0 ? cpu.rip : 0;
        while (steps < limit && cpu.rip >= first && cpu.rip < code_end && !cpu.halted) {
            ++steps;
            if (step() == Step::exit)
                break;
        }
        EXPECT_LT(steps, limit) << "the code does not end";
        return steps;
    }
    unsigned run(std::initializer_list<u8> bytes) {
        code(bytes);
        return run();
    }

    template <class T> T peek(u64 physical) const {
        T value;
        std::memcpy(&value, ram.get() + physical, sizeof value);
        return value;
    }
    template <class T> void poke(u64 physical, T value) {
        std::memcpy(ram.get() + physical, &value, sizeof value);
    }
    u64 &operator[](Gpr gpr) { return cpu.gpr[gpr]; }
    u32 arithmetic() const { return u32(cpu.rflags) & flag::arithmetic; }

    struct AlignedDelete {
        void operator()(u8 *p) const { ::operator delete[](p, std::align_val_t{4096}); }
    };
    std::unique_ptr<u8[], AlignedDelete> ram;
    std::unique_ptr<Cpu> state;
    Cpu &cpu;
    std::atomic<u8> page_flags[ram_size / 4096]{};
    mmu::PhysicalMap map;
    InsnCache cache;
    Context context;
    std::deque<u64> answers;
    std::vector<Exit> exits;
    std::vector<u64> watched; // physical addresses that StoreWatch heard of
    u64 code_end = 0;

private:
    void stored(u64 physical, unsigned) noexcept override { watched.push_back(physical); }

    void enter_real() {
        for (unsigned v = 0; v < 256; ++v)
            poke<u32>(v * 4, u32(handler(u8(v)))); // segment 0
        for (Segment &s : cpu.seg)
            s.base = s.selector = 0;
        cpu.seg[cs].base = code_base;
        cpu.seg[cs].selector = code_base >> 4;
        cpu.idt = {0, 0x3ff, 0};
        cpu.gpr[rsp] = 0xf000;
        update_mode(cpu);
    }

    static constexpr u64 descriptor(u32 limit_pages, u16 attributes) {
        return (limit_pages & 0xffff) | u64{attributes & 0xf0ffu} << 40 |
               u64{limit_pages >> 16} << 48;
    }
    void tables_and_segments(bool long_mode) {
        constexpr u16 flat = Segment::present | Segment::user | Segment::granular;
        constexpr u16 data = flat | Segment::writable | Segment::accessed | Segment::big;
        constexpr u16 code32 = data | Segment::code;
        constexpr u16 code64 = (code32 & ~Segment::big) | Segment::long_mode;
        constexpr u16 dpl3 = 3 << 5;
        const u16 attributes[] = {code32, data, code64, code32 | dpl3, data | dpl3, code64 | dpl3};
        for (unsigned n = 0; n < 6; ++n)
            poke<u64>(gdt_base + 8 * (n + 1), descriptor(0xfffff, attributes[n]));
        poke<u64>(gdt_base + tss_selector, 0x00008b00'00000067 | tss_base << 16);
        poke<u64>(gdt_base + tss_selector + 8, 0);
        cpu.gdt = {gdt_base, 0xff, 0};
        cpu.idt = {idt_base, u32(long_mode ? 0xfff : 0x7ff), 0};
        for (unsigned v = 0; v < 256; ++v) {
            const u64 to = handler(u8(v));
            const u64 gate = (to & 0xffff) |
                             u64{long_mode ? code64_selector : code32_selector} << 16 |
                             u64{0x8e00} << 32 | (to >> 16 & 0xffff) << 48;
            poke<u64>(idt_base + v * (long_mode ? 16 : 8), gate);
        }
        const u16 code_selector = long_mode ? code64_selector : code32_selector;
        for (Segment &s : cpu.seg)
            s = {0, 0xffff'ffff, data_selector, data};
        cpu.seg[cs] = {0, 0xffff'ffff, code_selector, long_mode ? code64 : code32};
        cpu.tr = {tss_base, 0x67, tss_selector, Segment::present | 11};
        if (long_mode) {
            poke<u64>(tss_base + 4, stack_top - 0x1000);
        } else {
            poke<u32>(tss_base + 4, u32(stack_top - 0x1000));
            poke<u32>(tss_base + 8, data_selector);
        }
        cpu.gpr[rsp] = stack_top;
    }
    void enter_protected() {
        cpu.cr0 |= cr0::pe;
        tables_and_segments(false);
        update_mode(cpu);
    }
    void enter_long() {
        poke<u64>(tables, (tables + 0x1000) | 7);
        poke<u64>(tables + 0x1000, (tables + 0x2000) | 7);
        for (u64 n = 0; n < 512; ++n)
            poke<u64>(tables + 0x2000 + 8 * n, n << 21 | 0x87);
        cpu.cr0 |= cr0::pe | cr0::pg;
        cpu.cr4 |= cr4::pae | cr4::osfxsr;
        cpu.efer |= efer::lme | efer::lma | efer::sce;
        cpu.cr3 = tables;
        tables_and_segments(true);
        flush_tlb(cpu, true);
        update_mode(cpu);
    }
};

} // namespace rhea::dbt::x86
