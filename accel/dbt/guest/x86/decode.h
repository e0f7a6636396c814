#pragma once
// The x86 decoder: bytes to Insn, driven by one constexpr table (decode_table.h) in which each
// instruction form is a row: opcode, mandatory prefix, operand forms, flags, CPUID feature. Pure
// functions, no state, any thread, any input.

#include "accel/dbt/guest/x86/insn.h"

#include <span>

namespace rhea::dbt::x86 {

enum class CodeSize : u8 { bits16, bits32, bits64 };

// Features that rows name; the current CPU model decides which are on (cpu_has in cpuid.h).
// clang-format off
enum class Feature : u16 {
    none, fpu, tsc, msr, cx8, sep, cmov, clfsh, mmx, fxsr, sse, sse2, sse3, pclmulqdq, monitor,
    ssse3, cx16, sse4_1, sse4_2, movbe, popcnt, aes, xsave, rdrand, f16c, syscall, rdtscp,
    long_mode, lahf64, lzcnt, sse4a, prefetchw, bmi1, bmi2, fsgsbase, invpcid, adx, smap, sha,
    clflushopt, clwb, rdseed, rdpid, cet, three_d_now, svm, vmx,
};
// clang-format on

enum class DecodeStatus : u8 {
    ok,
    truncated, // more bytes are needed than `code` has (the instruction may still be bad): fetch
               // the next page, or #PF there
    too_long,  // more than 15 bytes: #GP(0)
    invalid,   // #UD: no such instruction, bad LOCK, register form of a memory-only operand …
};

// F3 0F BC and F3 0F BD are TZCNT and LZCNT where the CPU has them, BSF and BSR (and the prefix is
// ignored) where it has not. For a `cpuid_feature` that is off: true if the instruction has been
// turned into its older meaning, else #UD.
bool without_feature(Insn &insn) noexcept;

// Decodes one instruction at the start of `code` (up to 15 bytes are looked at). On `invalid`,
// `length` is what the CPU would have fetched. Does not know the CPU model: the caller checks
// `cpuid_feature`.
DecodeStatus decode(std::span<const u8> code, CodeSize size, Insn &insn) noexcept;

} // namespace rhea::dbt::x86
