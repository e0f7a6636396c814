#pragma once
// Lazy flags, as translated code leaves them, to RFLAGS bits and back.

#include "accel/dbt/guest/x86/state.h"

namespace rhea::dbt::x86 {

// The arithmetic bits of RFLAGS, whatever form they are held in.
u32 arithmetic_flags(const Cpu &cpu) noexcept;

inline void materialise_flags(Cpu &cpu) noexcept {
    if (cpu.cc_form != CcForm::in_rflags) {
        cpu.rflags = (cpu.rflags & ~u64{flag::arithmetic}) | arithmetic_flags(cpu);
        cpu.cc_form = CcForm::in_rflags;
    }
}

} // namespace rhea::dbt::x86
