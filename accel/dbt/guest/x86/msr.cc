// Model-specific registers. SDM volume 4; AMD64 manual volume 2, appendix A; AMD BKDG for family
// 0Fh (32559).
//
// A register that the CPU model does not have is #GP(0), as hardware does it. A number of AMD
// registers that system software touches without asking first (memory controller, erratum switches)
// read as zero and ignore writes.

#include "accel/dbt/guest/x86/control_registers.h"
#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

#include <x86intrin.h>

namespace rhea::dbt::x86 {
namespace {

namespace msr {
constexpr u32 tsc = 0x10, apic_base = 0x1b, patch_level = 0x8b, mtrr_cap = 0xfe,
              sysenter_cs = 0x174, sysenter_esp = 0x175, sysenter_eip = 0x176, mcg_cap = 0x179,
              mcg_status = 0x17a, mcg_ctl = 0x17b, misc_enable = 0x1a0, debug_ctl = 0x1d9,
              last_branch_from = 0x1db, last_int_to = 0x1de, mtrr_physical = 0x200,
              mtrr_physical_end = 0x20f, mtrr_fix_64k = 0x250, mtrr_fix_16k = 0x258,
              mtrr_fix_16k_a = 0x259, mtrr_fix_4k = 0x268, mtrr_fix_4k_end = 0x26f, pat = 0x277,
              mtrr_def_type = 0x2ff, mc_bank = 0x400, mc_bank_end = 0x400 + 4 * 10 - 1,
              efer = 0xc000'0080, star = 0xc000'0081, lstar = 0xc000'0082, cstar = 0xc000'0083,
              sfmask = 0xc000'0084, fs_base = 0xc000'0100, gs_base = 0xc000'0101,
              kernel_gs_base = 0xc000'0102, tsc_aux = 0xc000'0103, vm_cr = 0xc001'0114;
}

constexpr u64 mcg_capabilities = 10 | 1 << 8; // ten banks, MCG_CTL
constexpr u64 mtrr_capabilities =
    8 | 1 << 8 | 1 << 10; // eight variable ranges, fixed ranges, write combining

bool reads_as_zero(u32 number) {
    switch (number) {
    case 0xc001'0010: // SYSCFG
    case 0xc001'0015: // HWCR
    case 0xc001'0016: // IORR base and mask
    case 0xc001'0017:
    case 0xc001'0018:
    case 0xc001'0019:
    case 0xc001'001a: // TOP_MEM, TOP_MEM2
    case 0xc001'001d:
    case 0xc001'001f: // NB_CFG
    case 0xc001'0055: // interrupt pending and CMP halt
    case 0xc001'0111: // SMM base, address, mask
    case 0xc001'0112:
    case 0xc001'0113:
    case 0xc001'1021: // IC_CFG, DC_CFG, BU_CFG
    case 0xc001'1022:
    case 0xc001'1023:
    case 0xc001'1029: // DE_CFG
    case msr::debug_ctl: return true;
    default:
        return (number >= msr::last_branch_from && number <= msr::last_int_to) ||
               (number >= 0xc001'0000 &&
                number <= 0xc001'0007); // performance counters: none counts
    }
}

bool valid_memory_type(u8 type) {
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

u64 *mtrr_register(Cpu &cpu, u32 number) {
    if (!(cpu.features_1_edx_ecx >> 12 & 1))
        return nullptr;
    if (number >= msr::mtrr_physical && number <= msr::mtrr_physical_end)
        return &cpu.mtrr_variable[number - msr::mtrr_physical];
    if (number == msr::mtrr_fix_64k)
        return &cpu.mtrr_fixed[0];
    if (number == msr::mtrr_fix_16k || number == msr::mtrr_fix_16k_a)
        return &cpu.mtrr_fixed[1 + number - msr::mtrr_fix_16k];
    if (number >= msr::mtrr_fix_4k && number <= msr::mtrr_fix_4k_end)
        return &cpu.mtrr_fixed[3 + number - msr::mtrr_fix_4k];
    return nullptr;
}

// Registers that any 64-bit value may go into.
u64 *plain_register(Cpu &cpu, u32 number) {
    const bool long_mode = (cpu.features_8000_0001 >> 29 & 1) != 0;
    const bool has_syscall = (cpu.features_8000_0001 >> 11 & 1) != 0;
    const bool sep = (cpu.features_1_edx_ecx >> 11 & 1) != 0;
    switch (number) {
    case msr::star: return has_syscall ? &cpu.star : nullptr;
    case msr::sfmask: return long_mode ? &cpu.sfmask : nullptr;
    case msr::sysenter_cs: return sep ? &cpu.sysenter_cs : nullptr;
    case msr::misc_enable: return &cpu.misc_enable;
    case msr::mcg_ctl: return &cpu.mcg_ctl;
    case msr::mcg_status: return &cpu.mcg_status;
    default: break;
    }
    if (number >= msr::mc_bank && number <= msr::mc_bank_end)
        return &cpu.mc_bank[number - msr::mc_bank];
    return nullptr;
}

// Registers that hold a linear address.
u64 *address_register(Cpu &cpu, u32 number) {
    const bool long_mode = (cpu.features_8000_0001 >> 29 & 1) != 0;
    const bool sep = (cpu.features_1_edx_ecx >> 11 & 1) != 0;
    switch (number) {
    case msr::lstar: return long_mode ? &cpu.lstar : nullptr;
    case msr::cstar: return long_mode ? &cpu.cstar : nullptr;
    case msr::fs_base: return long_mode ? &cpu.seg[fs].base : nullptr;
    case msr::gs_base: return long_mode ? &cpu.seg[gs].base : nullptr;
    case msr::kernel_gs_base: return long_mode ? &cpu.kernel_gs_base : nullptr;
    case msr::sysenter_esp: return sep ? &cpu.sysenter_esp : nullptr;
    case msr::sysenter_eip: return sep ? &cpu.sysenter_eip : nullptr;
    default: return nullptr;
    }
}

Outcome write_pat(Cpu &cpu, u64 value, Fault &fault) {
    for (unsigned i = 0; i < 8; ++i) {
        const u8 type = u8(value >> (8 * i));
        if (!valid_memory_type(type) && type != 7)
            return raise(fault, vector::gp, 0);
    }
    cpu.pat = value;
    return Outcome::ok;
}

// The local APIC is the owner's: it learns of the move before the register changes.
Outcome write_apic_base(Context &context, u64 value, Fault &fault) {
    Cpu &cpu = context.cpu;
    constexpr u64 bootstrap = 0x100, enable = 0x800;
    if (value & ~((cpu.phys_mask & mmu::page_mask) | enable | bootstrap))
        return raise(fault, vector::gp, 0);
    value = (value & ~bootstrap) | (cpu.apic_base & bootstrap);
    RHEA_T0_TRY(other_io(context, ExitKind::msr_write, msr::apic_base, 8, value));
    cpu.apic_base = value;
    return Outcome::ok;
}

bool has_tsc_aux(const Cpu &cpu) {
    return cpu_has(cpu, u16(Feature::rdtscp)) || cpu_has(cpu, u16(Feature::rdpid));
}

} // namespace

u64 guest_tsc(const Cpu &cpu) noexcept {
    return __rdtsc() + u64(cpu.tsc_offset);
}

Outcome read_msr(Context &context, u32 number, u64 &value, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    value = 0;
    if (const u64 *r = plain_register(cpu, number)) {
        value = *r;
        return Outcome::ok;
    }
    if (const u64 *r = address_register(cpu, number)) {
        value = *r;
        return Outcome::ok;
    }
    if (const u64 *r = mtrr_register(cpu, number)) {
        value = *r;
        return Outcome::ok;
    }
    switch (number) {
    case msr::tsc: value = guest_tsc(cpu); return Outcome::ok;
    case msr::apic_base: value = cpu.apic_base; return Outcome::ok;
    case msr::patch_level: value = 0x0100'0065; return Outcome::ok;
    case msr::mtrr_cap: value = mtrr_capabilities; return Outcome::ok;
    case msr::mtrr_def_type: value = cpu.mtrr_def_type; return Outcome::ok;
    case msr::mcg_cap: value = mcg_capabilities; return Outcome::ok;
    case msr::pat: value = cpu.pat; return Outcome::ok;
    case msr::efer: value = cpu.efer; return Outcome::ok;
    case msr::vm_cr: value = 1 << 4; return Outcome::ok; // SVM disabled by the firmware
    case msr::tsc_aux:
        if (!has_tsc_aux(cpu))
            break;
        value = cpu.tsc_aux;
        return Outcome::ok;
    default:
        if (reads_as_zero(number))
            return Outcome::ok;
        break;
    }
    return raise(fault, vector::gp, 0);
}

Outcome write_msr(Context &context, u32 number, u64 value, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (u64 *r = plain_register(cpu, number)) {
        *r = value;
        return Outcome::ok;
    }
    if (u64 *r = address_register(cpu, number)) {
        if (!canonical(value))
            return raise(fault, vector::gp, 0);
        *r = value;
        return Outcome::ok;
    }
    if (u64 *r = mtrr_register(cpu, number)) {
        *r = value;
        return Outcome::ok;
    }
    switch (number) {
    case msr::tsc: cpu.tsc_offset = i64(value - __rdtsc()); return Outcome::ok;
    case msr::apic_base: return write_apic_base(context, value, fault);
    case msr::patch_level: return Outcome::ok;
    case msr::mtrr_def_type:
        if ((value & ~u64{0xcff}) || !valid_memory_type(u8(value)))
            break;
        cpu.mtrr_def_type = value;
        return Outcome::ok;
    case msr::pat: return write_pat(cpu, value, fault);
    case msr::efer: return write_efer(context, value, fault);
    case msr::tsc_aux:
        if (!has_tsc_aux(cpu) || value >> 32)
            break;
        cpu.tsc_aux = value;
        return Outcome::ok;
    default:
        if (reads_as_zero(number))
            return Outcome::ok;
        break;
    }
    return raise(fault, vector::gp, 0);
}

} // namespace rhea::dbt::x86
