#pragma once
// Inside T0: what control_registers.cc, paging.cc and msr.cc share.

#include "accel/dbt/guest/x86/exec.h"

namespace rhea::dbt::x86 {

// Eight bytes of guest-physical memory, 8-byte aligned; all ones where there is no memory.
u64 read_physical_u64(Context &context, u64 physical) noexcept;

Outcome write_efer(Context &context, u64 value, Fault &fault) noexcept;

} // namespace rhea::dbt::x86
