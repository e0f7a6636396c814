// CR0, CR3, CR4, CR8 and EFER: which values are legal, and what a change brings with it. SDM volume
// 3, 2.5 and 4.1.

#include "accel/dbt/guest/x86/control_registers.h"

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

bool feature_1(const Cpu &cpu, unsigned bit) {
    return (cpu.features_1_edx_ecx >> bit & 1) != 0;
}
bool feature_7(const Cpu &cpu, unsigned bit) {
    return (cpu.features_7_ebx_ecx >> bit & 1) != 0;
}
bool feature_8(const Cpu &cpu, unsigned bit) {
    return (cpu.features_8000_0001 >> bit & 1) != 0;
}

// PAE's four top entries are registers: read when CR3 is loaded, and checked (4.4.1). Nothing
// changes on a fault.
Outcome load_pdptes(Context &context, u64 cr3, Fault &fault) {
    Cpu &cpu = context.cpu;
    u64 entries[4];
    for (unsigned i = 0; i < 4; ++i) {
        entries[i] = read_physical_u64(context, (cr3 & 0xffff'ffe0) + 8 * i);
        const u64 reserved = ~(cpu.phys_mask & mmu::page_mask) & ~u64{0xe19};
        if ((entries[i] & 1) && (entries[i] & reserved))
            return raise(fault, vector::gp, 0);
    }
    for (unsigned i = 0; i < 4; ++i)
        cpu.pdpte[i] = entries[i];
    return Outcome::ok;
}

Outcome write_cr0(Context &context, u64 value, Fault &fault) {
    Cpu &cpu = context.cpu;
    constexpr u64 known = cr0::pe | cr0::mp | cr0::em | cr0::ts | cr0::et | cr0::ne | cr0::wp |
                          cr0::am | cr0::nw | cr0::cd | cr0::pg;
    const bool pages = (value & cr0::pg) != 0, paged = (cpu.cr0 & cr0::pg) != 0;
    if (value >> 32 || (pages && !(value & cr0::pe)) || ((value & cr0::nw) && !(value & cr0::cd)))
        return raise(fault, vector::gp, 0);
    value = (value & known) | cr0::et;
    if (pages && !paged) {
        const bool into_long = (cpu.efer & efer::lme) != 0;
        if (into_long && (!(cpu.cr4 & cr4::pae) || cpu.seg[cs].is(Segment::long_mode)))
            return raise(fault, vector::gp, 0);
        if (into_long)
            cpu.efer |= efer::lma;
        else if (cpu.cr4 & cr4::pae)
            RHEA_T0_TRY(load_pdptes(context, cpu.cr3, fault));
    } else if (!pages && paged) {
        if (mode_64(cpu))
            return raise(fault, vector::gp, 0);
        cpu.efer &= ~efer::lma;
    } else if (paged && !long_mode_active(cpu) && (cpu.cr4 & cr4::pae) &&
               ((cpu.cr0 ^ value) & (cr0::cd | cr0::nw))) {
        RHEA_T0_TRY(load_pdptes(context, cpu.cr3, fault));
    }
    const u64 changed = cpu.cr0 ^ value;
    cpu.cr0 = value;
    // Entries hold rights as WP makes them.
    if (changed & (cr0::pg | cr0::wp))
        flush_tlb(cpu, true);
    return Outcome::ok;
}

Outcome write_cr3(Context &context, u64 value, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (long_mode_active(cpu)) {
        if (value & ~cpu.phys_mask)
            return raise(fault, vector::gp, 0);
    } else {
        value &= 0xffff'ffff;
        if ((cpu.cr0 & cr0::pg) && (cpu.cr4 & cr4::pae))
            RHEA_T0_TRY(load_pdptes(context, value, fault));
    }
    cpu.cr3 = value;
    flush_tlb(cpu, false);
    return Outcome::ok;
}

u64 allowed_cr4(const Cpu &cpu) {
    u64 allowed = cr4::pce;
    const auto allow = [&](bool has, u64 bits) { allowed |= has ? bits : 0; };
    allow(feature_1(cpu, 1), cr4::vme | cr4::pvi);
    allow(feature_1(cpu, 2), cr4::de);
    allow(feature_1(cpu, 3), cr4::pse);
    allow(feature_1(cpu, 4), cr4::tsd);
    allow(feature_1(cpu, 6), cr4::pae);
    allow(feature_1(cpu, 7), cr4::mce);
    allow(feature_1(cpu, 13), cr4::pge);
    allow(feature_1(cpu, 24), cr4::osfxsr);
    allow(feature_1(cpu, 25), cr4::osxmmexcpt);
    allow(feature_1(cpu, 32 + 26), cr4::osxsave);
    allow(feature_7(cpu, 0), cr4::fsgsbase);
    allow(feature_7(cpu, 7), cr4::smep);
    allow(feature_7(cpu, 20), cr4::smap);
    allow(feature_7(cpu, 32 + 2), cr4::umip);
    return allowed;
}

Outcome write_cr4(Context &context, u64 value, Fault &fault) {
    Cpu &cpu = context.cpu;
    if ((value & ~allowed_cr4(cpu)) || (long_mode_active(cpu) && !(value & cr4::pae)))
        return raise(fault, vector::gp, 0);
    const u64 changed = cpu.cr4 ^ value;
    constexpr u64 paging_bits = cr4::pge | cr4::pae | cr4::pse | cr4::smep | cr4::smap;
    if ((changed & paging_bits) && (value & cr4::pae) && (cpu.cr0 & cr0::pg) &&
        !long_mode_active(cpu))
        RHEA_T0_TRY(load_pdptes(context, cpu.cr3, fault));
    cpu.cr4 = value;
    if (changed & paging_bits)
        flush_tlb(cpu, true);
    return Outcome::ok;
}

} // namespace

Outcome write_cr(Context &context, unsigned number, u64 value, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    switch (number) {
    case 0: RHEA_T0_TRY(write_cr0(context, value, fault)); break;
    case 2: cpu.cr2 = value; break;
    case 3: RHEA_T0_TRY(write_cr3(context, value, fault)); break;
    case 4: RHEA_T0_TRY(write_cr4(context, value, fault)); break;
    case 8:
        if (value > 15)
            return raise(fault, vector::gp, 0);
        return other_io(context, ExitKind::task_priority_write, 8, 8, value);
    default: return raise(fault, vector::ud);
    }
    update_mode(cpu);
    return Outcome::ok;
}

Outcome write_efer(Context &context, u64 value, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 allowed = efer::lma;
    allowed |= feature_8(cpu, 11) ? efer::sce : 0;
    allowed |= feature_8(cpu, 20) ? efer::nxe : 0;
    allowed |= feature_8(cpu, 25) ? efer::ffxsr : 0;
    allowed |= feature_8(cpu, 29) ? efer::lme : 0;
    const u64 changed = cpu.efer ^ value;
    if ((value & ~allowed) || ((changed & efer::lme) && (cpu.cr0 & cr0::pg)))
        return raise(fault, vector::gp, 0);
    cpu.efer = (value & ~efer::lma) | (cpu.efer & efer::lma);
    if (changed & efer::nxe)
        flush_tlb(cpu, true);
    update_mode(cpu);
    return Outcome::ok;
}

} // namespace rhea::dbt::x86
