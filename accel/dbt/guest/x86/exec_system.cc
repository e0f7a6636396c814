// System instructions: control and debug registers, MSRs, time stamps, caches and fences, HLT. SDM
// volume 2.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

#include <atomic>

namespace rhea::dbt::x86 {
namespace {

Outcome require_level_0(const Cpu &cpu, Fault &fault) {
    return cpu.cpl == 0 ? Outcome::ok : raise(fault, vector::gp, 0);
}

Outcome mov_from_cr(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 value = 0;
    switch (insn.operand[1].index) {
    case 0:
    case 2:
    case 3:
    case 4:
    case 8: break;
    default: return raise(fault, vector::ud);
    }
    RHEA_T0_TRY(require_level_0(cpu, fault));
    switch (insn.operand[1].index) {
    case 0: value = cpu.cr0; break;
    case 2: value = cpu.cr2; break;
    case 3: value = cpu.cr3; break;
    case 4: value = cpu.cr4; break;
    default: RHEA_T0_TRY(other_io(context, ExitKind::task_priority_read, 8, 8, value)); break;
    }
    write_gpr(cpu, insn.operand[0], value);
    return Outcome::ok;
}

Outcome mov_to_cr(Context &context, const Insn &insn, Fault &fault) noexcept {
    const unsigned number = insn.operand[0].index;
    if (number > 8 || number == 1 || (number > 4 && number < 8))
        return raise(fault, vector::ud);
    RHEA_T0_TRY(require_level_0(context.cpu, fault));
    return write_cr(context, number, read_gpr(context.cpu, insn.operand[1]), fault);
}

// Debug registers are storage: matching is the interpreter's business. DR4 and DR5 name DR6 and DR7
// unless CR4.DE.
Outcome debug_register(Context &context, unsigned number, unsigned &actual, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (number > 7 || ((number == 4 || number == 5) && (cpu.cr4 & cr4::de)))
        return raise(fault, vector::ud);
    RHEA_T0_TRY(require_level_0(cpu, fault));
    if (cpu.dr[7] & 1 << 13) { // general detect
        cpu.dr[6] |= 1 << 13;
        return raise(fault, vector::db);
    }
    actual = number == 4 || number == 5 ? number + 2 : number;
    return Outcome::ok;
}

Outcome mov_from_dr(Context &context, const Insn &insn, Fault &fault) noexcept {
    unsigned number;
    RHEA_T0_TRY(debug_register(context, insn.operand[1].index, number, fault));
    write_gpr(context.cpu, insn.operand[0], context.cpu.dr[number]);
    return Outcome::ok;
}

Outcome mov_to_dr(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    unsigned number;
    RHEA_T0_TRY(debug_register(context, insn.operand[0].index, number, fault));
    const u64 value = read_gpr(cpu, insn.operand[1]);
    if (number >= 6 && value >> 32)
        return raise(fault, vector::gp, 0);
    if (number == 6)
        cpu.dr[6] = (value & 0xe00f) | 0xffff'0ff0;
    else if (number == 7)
        cpu.dr[7] = (value & 0xffff'2fff) | 0x400;
    else
        cpu.dr[number] = value;
    update_mode(cpu);
    return Outcome::ok;
}

Outcome smsw(Context &context, const Insn &insn, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    if ((cpu.cr4 & cr4::umip) && cpu.cpl != 0)
        return raise(fault, vector::gp, 0);
    return write_operand(context, insn, 0, cpu.cr0, fault);
}

Outcome lmsw(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(require_level_0(cpu, fault));
    u64 value;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    // PE, MP, EM, TS; PE can be set and not cleared.
    return write_cr(context, 0, (cpu.cr0 & ~u64{14}) | (value & 15), fault);
}

Outcome clts(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(require_level_0(cpu, fault));
    cpu.cr0 &= ~cr0::ts;
    update_mode(cpu);
    return Outcome::ok;
}

Outcome invlpg(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(require_level_0(cpu, fault));
    // The address is not checked: a segment's base counts, its limit does not, and one that is not
    // canonical does nothing.
    const u64 offset = effective_offset(cpu, insn);
    const bool flat = mode_64(cpu);
    const u64 base = !flat || insn.segment >= fs ? cpu.seg[insn.segment].base : 0;
    flush_tlb_page(cpu, flat ? base + offset : u32(base + offset));
    return Outcome::ok;
}

Outcome rdmsr(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(require_level_0(cpu, fault));
    u64 value;
    RHEA_T0_TRY(read_msr(context, u32(cpu.gpr[rcx]), value, fault));
    cpu.gpr[rax] = u32(value);
    cpu.gpr[rdx] = value >> 32;
    return Outcome::ok;
}

Outcome wrmsr(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(require_level_0(cpu, fault));
    return write_msr(context, u32(cpu.gpr[rcx]), u64{u32(cpu.gpr[rdx])} << 32 | u32(cpu.gpr[rax]),
                     fault);
}

Outcome check_time_stamp(const Cpu &cpu, Fault &fault) {
    return (cpu.cr4 & cr4::tsd) && cpu.cpl != 0 ? raise(fault, vector::gp, 0) : Outcome::ok;
}

Outcome rdtsc(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    RHEA_T0_TRY(check_time_stamp(cpu, fault));
    const u64 value = guest_tsc(cpu);
    cpu.gpr[rax] = u32(value);
    cpu.gpr[rdx] = value >> 32;
    return Outcome::ok;
}

Outcome rdtscp(Context &context, const Insn &insn, Fault &fault) noexcept {
    RHEA_T0_TRY(rdtsc(context, insn, fault));
    context.cpu.gpr[rcx] = u32(context.cpu.tsc_aux);
    return Outcome::ok;
}

Outcome rdpid(Context &context, const Insn &insn, Fault &) noexcept {
    write_gpr(context.cpu, insn.operand[0], u32(context.cpu.tsc_aux));
    return Outcome::ok;
}

// No performance counters.
Outcome rdpmc(Context &, const Insn &, Fault &fault) noexcept {
    return raise(fault, vector::gp, 0);
}

Outcome run_cpuid(Context &context, const Insn &, Fault &) noexcept {
    Cpu &cpu = context.cpu;
    u32 out[4];
    cpuid(cpu, u32(cpu.gpr[rax]), u32(cpu.gpr[rcx]), out);
    cpu.gpr[rax] = out[0];
    cpu.gpr[rbx] = out[1];
    cpu.gpr[rcx] = out[2];
    cpu.gpr[rdx] = out[3];
    return Outcome::ok;
}

// Retires, then the vCPU sleeps until an interrupt: the run loop looks at `halted` after every
// instruction.
Outcome hlt(Context &context, const Insn &, Fault &fault) noexcept {
    RHEA_T0_TRY(require_level_0(context.cpu, fault));
    context.cpu.halted = true;
    return Outcome::ok;
}

// MONITOR arms nothing, so MWAIT must not sleep: it may return at any time for reasons of its own.
Outcome monitor(Context &context, const Insn &insn, Fault &fault) noexcept {
    RHEA_T0_TRY(require_level_0(context.cpu, fault));
    if (u32(context.cpu.gpr[rcx]) != 0)
        return raise(fault, vector::gp, 0);
    u8 byte;
    return read_segmented(context, insn.segment,
                          context.cpu.gpr[rax] & size_mask(insn.address_size), &byte, 1, fault);
}
Outcome mwait(Context &context, const Insn &, Fault &fault) noexcept {
    return require_level_0(context.cpu, fault);
}

Outcome cache_control(Context &context, const Insn &, Fault &fault) noexcept {
    return require_level_0(context.cpu, fault);
}

// Caches are the host's and coherent; the address must be readable all the same.
Outcome clflush(Context &context, const Insn &insn, Fault &fault) noexcept {
    u8 byte;
    return read_segmented(context, insn.segment, effective_offset(context.cpu, insn), &byte, 1,
                          fault);
}

Outcome fence(Context &, const Insn &, Fault &) noexcept {
    std::atomic_thread_fence(std::memory_order_seq_cst);
    return Outcome::ok;
}

Outcome swapgs(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!mode_64(cpu))
        return raise(fault, vector::ud);
    RHEA_T0_TRY(require_level_0(cpu, fault));
    const u64 base = cpu.seg[gs].base;
    cpu.seg[gs].base = cpu.kernel_gs_base;
    cpu.kernel_gs_base = base;
    return Outcome::ok;
}

template <SegmentName name, bool write>
Outcome segment_base(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!mode_64(cpu) || !(cpu.cr4 & cr4::fsgsbase))
        return raise(fault, vector::ud);
    if constexpr (write) {
        const u64 base = read_gpr(cpu, insn.operand[0]);
        if (!canonical(base))
            return raise(fault, vector::gp, 0);
        cpu.seg[name].base = base;
    } else {
        write_gpr(cpu, insn.operand[0], cpu.seg[name].base);
    }
    return Outcome::ok;
}

template <bool set> Outcome access_check(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (cpu.cpl != 0)
        return raise(fault, vector::ud);
    cpu.rflags = set ? cpu.rflags | flag::ac : cpu.rflags & ~u64{flag::ac};
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::mov_from_cr, mov_from_cr},
    {Op::mov_to_cr, mov_to_cr},
    {Op::mov_from_dr, mov_from_dr},
    {Op::mov_to_dr, mov_to_dr},
    {Op::smsw, smsw},
    {Op::lmsw, lmsw},
    {Op::clts, clts},
    {Op::invlpg, invlpg},
    {Op::invd, cache_control},
    {Op::wbinvd, cache_control},
    {Op::rdmsr, rdmsr},
    {Op::wrmsr, wrmsr},
    {Op::rdtsc, rdtsc},
    {Op::rdtscp, rdtscp},
    {Op::rdpid, rdpid},
    {Op::rdpmc, rdpmc},
    {Op::cpuid, run_cpuid},
    {Op::hlt, hlt},
    {Op::monitor, monitor},
    {Op::mwait, mwait},
    {Op::clflush, clflush},
    {Op::lfence, fence},
    {Op::mfence, fence},
    {Op::sfence, fence},
    {Op::swapgs, swapgs},
    {Op::rdfsbase, segment_base<fs, false>},
    {Op::rdgsbase, segment_base<gs, false>},
    {Op::wrfsbase, segment_base<fs, true>},
    {Op::wrgsbase, segment_base<gs, true>},
    {Op::clac, access_check<false>},
    {Op::stac, access_check<true>},
};

} // namespace

ExecutorGroup system_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
