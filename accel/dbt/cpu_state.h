#pragma once
// The canonical CPU state and the translator's own, each to the other. While the vCPU is paused.

#include "accel/dbt/guest/x86/state.h"
#include "accel/x86_state.h"

namespace rhea::dbt {

accel::X86State export_state(const x86::Cpu &cpu, u64 task_priority);
// CPUID and what the model fixes stay as they are. The caller refreshes derived state
// (Core::state_changed).
void import_state(x86::Cpu &cpu, const accel::X86State &state);

} // namespace rhea::dbt
