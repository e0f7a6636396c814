#pragma once
// System state changes that both tiers and the outside share: control registers, MSRs, segment
// loading, CPUID, reset. Each keeps the derived fields of Cpu (mode, cpl, TLB) in step. On the
// vCPU's thread.

#include "accel/dbt/guest/x86/memory.h"

namespace rhea::dbt::x86 {

// Power-on or INIT state (SDM volume 3, table 9-1): CS F000h:FFF0h with base FFFF0000h, CR0
// 60000010h.
void reset(Cpu &cpu, bool init_only) noexcept;

// Recomputes cpu.mode, cpu.cpl and cpu.page_base after anything they depend on has changed.
void update_mode(Cpu &cpu) noexcept;

// What a translation depends on besides its bytes (the key of the code cache, with the physical
// address):
namespace mode {
inline constexpr u32 code16 = 0, code32 = 1, code64 = 2, code_mask = 3;
inline constexpr u32 user = 4;    // CPL 3
inline constexpr u32 stack32 = 8; // SS.B (or 64-bit mode)
inline constexpr u32 flat =
    16; // CS DS ES SS: base 0, limit 4 GiB, present, usable for what a flat model does (or 64-bit)
inline constexpr u32 flat_fs = 32; // FS: limit 4 GiB, writable data, base anything (or 64-bit)
inline constexpr u32 sse = 64;     // SSE instructions run: CR4.OSFXSR, no CR0.EM, no CR0.TS
inline constexpr u32 x87 = 128;    // x87 and MMX instructions run: no CR0.EM, no CR0.TS
inline constexpr u32 trap = 256;   // RFLAGS.TF, or debug registers are in use: T0 only
inline constexpr u32 protected_ = 512;
inline constexpr u32 vm86 = 1024;
inline constexpr u32 paging = 2048;
inline constexpr u32 flat_gs = 4096; // as flat_fs
inline constexpr u32 no_tsc = 8192;  // CPL 3 with CR4.TSD: RDTSC faults
} // namespace mode

Outcome write_cr(Context &context, unsigned number, u64 value, Fault &fault) noexcept;
Outcome read_msr(Context &context, u32 number, u64 &value, Fault &fault) noexcept;
Outcome write_msr(Context &context, u32 number, u64 value, Fault &fault) noexcept;
void cpuid(const Cpu &cpu, u32 leaf, u32 subleaf, u32 (&out)[4]) noexcept;
u64 guest_tsc(const Cpu &cpu) noexcept;

} // namespace rhea::dbt::x86
