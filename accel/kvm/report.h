#pragma once
// What the administrator is told when KVM cannot go on with a vCPU: registers and code bytes.

#include "dm/core/types.h"
#include "dm/mem/dispatcher.h"

#include <string>

namespace rhea::kvm {

// One line to the log. `what`: the reason; `accessor`: the vCPU's.
void report_stuck(int vcpu, unsigned index, Accessor &accessor, const std::string &what) noexcept;

} // namespace rhea::kvm
