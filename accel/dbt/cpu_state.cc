#include "accel/dbt/cpu_state.h"

#include "accel/dbt/guest/x86/flags.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <x86intrin.h>

namespace rhea::dbt {
namespace {

accel::X86Segment to_canonical(const x86::Segment &s) {
    return {.base = s.base, .limit = s.limit, .selector = s.selector, .attributes = s.attributes};
}
x86::Segment from_canonical(const accel::X86Segment &s) {
    return {.base = s.base, .limit = s.limit, .selector = s.selector, .attributes = s.attributes};
}

// MSR numbers: SDM volume 4, table 2-2.
struct MsrField {
    u32 number;
    u64 x86::Cpu::*field;
};
constexpr MsrField msr_fields[] = {
    {0x174, &x86::Cpu::sysenter_cs},
    {0x175, &x86::Cpu::sysenter_esp},
    {0x176, &x86::Cpu::sysenter_eip},
    {0x17a, &x86::Cpu::mcg_status},
    {0x17b, &x86::Cpu::mcg_ctl},
    {0x1a0, &x86::Cpu::misc_enable},
    {0x277, &x86::Cpu::pat},
    {0x2ff, &x86::Cpu::mtrr_def_type},
    {0xc000'0081, &x86::Cpu::star},
    {0xc000'0082, &x86::Cpu::lstar},
    {0xc000'0083, &x86::Cpu::cstar},
    {0xc000'0084, &x86::Cpu::sfmask},
    {0xc000'0102, &x86::Cpu::kernel_gs_base},
    {0xc000'0103, &x86::Cpu::tsc_aux},
};
constexpr u32 msr_tsc = 0x10, msr_mtrr_variable = 0x200, msr_mc_bank = 0x400;
constexpr u32 msr_mtrr_fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a,
                                  0x26b, 0x26c, 0x26d, 0x26e, 0x26f};

} // namespace

accel::X86State export_state(const x86::Cpu &cpu, u64 task_priority) {
    accel::X86State s;
    std::copy_n(cpu.gpr, 16, s.gpr.begin());
    s.rip = cpu.rip;
    s.rflags = (cpu.rflags & ~u64{x86::flag::arithmetic}) | x86::arithmetic_flags(cpu);
    for (unsigned i = 0; i < 6; ++i)
        s.segment[i] = to_canonical(cpu.seg[i]);
    s.ldt = to_canonical(cpu.ldt);
    s.tr = to_canonical(cpu.tr);
    s.gdt = {cpu.gdt.base, cpu.gdt.limit};
    s.idt = {cpu.idt.base, cpu.idt.limit};
    s.cr0 = cpu.cr0;
    s.cr2 = cpu.cr2;
    s.cr3 = cpu.cr3;
    s.cr4 = cpu.cr4;
    s.cr8 = task_priority;
    s.efer = cpu.efer;
    s.apic_base = cpu.apic_base;
    std::copy_n(cpu.dr, 8, s.dr.begin());
    std::copy_n(cpu.pdpte, 4, s.pdpte.begin());
    x86::FxImage fx = cpu.fpu;
    fx.mxcsr = cpu.mxcsr;
    fx.mxcsr_mask = 0xffff;
    std::copy_n(cpu.xmm, 16, fx.unused_xmm);
    std::memcpy(s.fxsave.data(), &fx, sizeof fx);
    for (const MsrField &m : msr_fields)
        s.msr.emplace_back(m.number, cpu.*m.field);
    for (unsigned i = 0; i < 11; ++i)
        s.msr.emplace_back(msr_mtrr_fixed[i], cpu.mtrr_fixed[i]);
    for (u32 i = 0; i < 16; ++i)
        s.msr.emplace_back(msr_mtrr_variable + i, cpu.mtrr_variable[i]);
    for (u32 i = 0; i < 40; ++i)
        s.msr.emplace_back(msr_mc_bank + i, cpu.mc_bank[i]);
    s.msr.emplace_back(msr_tsc, u64(i64(__rdtsc()) + cpu.tsc_offset));
    s.halted = cpu.halted;
    s.interrupt_shadow = cpu.interrupt_shadow;
    s.nmi_blocked = cpu.nmi_blocked;
    s.nmi_pending = cpu.nmi_pending;
    s.wait_for_sipi = cpu.wait_for_sipi;
    if (cpu.pending.valid) {
        s.pending_vector = cpu.pending.vector;
        s.pending_has_error_code = cpu.pending.has_error_code;
        s.pending_software = cpu.pending.software;
        s.pending_error_code = cpu.pending.error_code;
    }
    return s;
}

void import_state(x86::Cpu &cpu, const accel::X86State &s) {
    std::copy_n(s.gpr.begin(), 16, cpu.gpr);
    cpu.rip = s.rip;
    cpu.rflags = s.rflags | x86::flag::always_one;
    cpu.cc_form = x86::CcForm::in_rflags;
    for (unsigned i = 0; i < 6; ++i)
        cpu.seg[i] = from_canonical(s.segment[i]);
    cpu.ldt = from_canonical(s.ldt);
    cpu.tr = from_canonical(s.tr);
    cpu.gdt = {s.gdt.base, s.gdt.limit, 0};
    cpu.idt = {s.idt.base, s.idt.limit, 0};
    cpu.cr0 = s.cr0;
    cpu.cr2 = s.cr2;
    cpu.cr3 = s.cr3;
    cpu.cr4 = s.cr4;
    cpu.efer = s.efer;
    cpu.apic_base = s.apic_base;
    std::copy_n(s.dr.begin(), 8, cpu.dr);
    std::copy_n(s.pdpte.begin(), 4, cpu.pdpte);
    x86::FxImage fx;
    std::memcpy(&fx, s.fxsave.data(), sizeof fx);
    cpu.fpu = fx;
    cpu.mxcsr = fx.mxcsr & 0xffff;
    std::copy_n(fx.unused_xmm, 16, cpu.xmm);
    for (const auto &[number, value] : s.msr) {
        for (const MsrField &m : msr_fields)
            if (m.number == number)
                cpu.*m.field = value;
        for (unsigned i = 0; i < 11; ++i)
            if (msr_mtrr_fixed[i] == number)
                cpu.mtrr_fixed[i] = value;
        if (number - msr_mtrr_variable < 16)
            cpu.mtrr_variable[number - msr_mtrr_variable] = value;
        if (number - msr_mc_bank < 40)
            cpu.mc_bank[number - msr_mc_bank] = value;
        if (number == msr_tsc)
            cpu.tsc_offset = i64(value - __rdtsc());
    }
    cpu.halted = s.halted;
    cpu.interrupt_shadow = s.interrupt_shadow;
    cpu.nmi_blocked = s.nmi_blocked;
    cpu.nmi_pending = s.nmi_pending;
    cpu.wait_for_sipi = s.wait_for_sipi;
    cpu.pending = {};
    if (s.pending_vector >= 0)
        cpu.pending = {.vector = u8(s.pending_vector),
                       .valid = true,
                       .has_error_code = s.pending_has_error_code,
                       .software = s.pending_software,
                       .error_code = s.pending_error_code};
    cpu.io.served = cpu.io.cursor = 0;
    cpu.single_step_pending = cpu.in_delivery = false;
}

} // namespace rhea::dbt
