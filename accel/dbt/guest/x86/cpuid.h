#pragma once
// CPU models: what CPUID answers, and with it which instructions and control bits exist.
// Configuration code, before the first reset of a vCPU; the tables are constant and any thread may
// read them.

#include "accel/dbt/guest/x86/state.h"

#include <string>
#include <string_view>
#include <vector>

namespace rhea::dbt::x86 {

struct CpuTopology {
    unsigned apic_id = 0;
    unsigned count = 1; // vCPUs of the package, each a core
};

// Fills cpu.cpuid and the feature words. `spec`: a model and edits, as in "qemu64,-sse3,+popcnt".
// Empty result: done; else a message for the user, that names what is wrong and what is known, and
// `cpu` has not changed.
std::string set_cpu_model(Cpu &cpu, std::string_view spec, const CpuTopology &topology);

// For help texts and completion.
std::vector<std::string_view> cpu_models();
std::vector<std::string_view> cpu_feature_names(); // those that the core implements

} // namespace rhea::dbt::x86
