// Power-on and INIT state. SDM volume 3, table 9-1. The CPU model (cpuid.h) is chosen before the
// first reset: EDX holds the signature. APs are made by the owner: it clears the BSP bit of
// apic_base and sets wait_for_sipi after the reset.

#include "accel/dbt/guest/x86/memory.h"
#include "accel/dbt/guest/x86/state.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

void reset_segments(Cpu &cpu) {
    constexpr u16 data = Segment::present | Segment::user | Segment::writable | Segment::accessed;
    for (Segment &s : cpu.seg)
        s = {0, 0xffff, 0, data};
    cpu.seg[cs] = {0xffff'0000, 0xffff, 0xf000, u16(data | Segment::code)};
    cpu.ldt = {0, 0xffff, 0, Segment::present | 2};
    cpu.tr = {0, 0xffff, 0, Segment::present | 11};
    cpu.gdt = cpu.idt = {0, 0xffff, 0};
}

// Registers that power-on changes and INIT leaves alone.
void reset_cold(Cpu &cpu) {
    cpu.fpu = {};
    cpu.fpu.control = 0x40;
    cpu.fpu.tag = 0xff; // FXSAVE form: a set bit is a register in use; FNINIT would clear them
    cpu.mxcsr = 0x1f80;
    for (Xmm &x : cpu.xmm)
        x = {};
    cpu.star = cpu.lstar = cpu.cstar = cpu.sfmask = cpu.kernel_gs_base = cpu.tsc_aux = 0;
    cpu.sysenter_cs = cpu.sysenter_esp = cpu.sysenter_eip = 0;
    cpu.pat = 0x0007'0406'0007'0406;
    cpu.apic_base = 0xfee0'0900;
    cpu.mtrr_def_type = 0;
    for (u64 &m : cpu.mtrr_fixed)
        m = 0;
    for (u64 &m : cpu.mtrr_variable)
        m = 0;
    for (u64 &m : cpu.mc_bank)
        m = 0;
    cpu.misc_enable = 1; // fast strings
    cpu.mcg_status = 0;
    cpu.mcg_ctl = ~u64{0};
    cpu.a20_mask = ~u64{0};
    cpu.phys_mask = (u64{1} << 40) - 1;
    cpu.wait_for_sipi = false;
}

u32 signature(const Cpu &cpu) {
    u32 out[4];
    cpuid(cpu, 1, 0, out);
    return out[0];
}

} // namespace

void reset(Cpu &cpu, bool init_only) noexcept {
    for (u64 &r : cpu.gpr)
        r = 0;
    cpu.gpr[rdx] = signature(cpu);
    cpu.rip = 0xfff0;
    cpu.rflags = flag::always_one;
    cpu.cc_form = CcForm::in_rflags;
    reset_segments(cpu);
    // INIT keeps CD and NW (10.11.5).
    cpu.cr0 = init_only ? cr0::et | (cpu.cr0 & (cr0::cd | cr0::nw)) : 0x6000'0010;
    cpu.cr2 = cpu.cr3 = cpu.cr4 = cpu.efer = 0;
    for (u64 &p : cpu.pdpte)
        p = 0;
    for (u64 &d : cpu.dr)
        d = 0;
    cpu.dr[6] = 0xffff'0ff0;
    cpu.dr[7] = 0x400;
    cpu.halted = cpu.interrupt_shadow = cpu.nmi_blocked = cpu.nmi_pending =
        cpu.single_step_pending = false;
    cpu.in_delivery = cpu.smm = false;
    cpu.pending = {};
    cpu.exit = {};
    cpu.io.served = cpu.io.cursor = 0;
    if (!init_only)
        reset_cold(cpu);
    flush_tlb(cpu, true);
    update_mode(cpu);
}

} // namespace rhea::dbt::x86
