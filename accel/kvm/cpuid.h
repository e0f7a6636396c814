#pragma once
// CPU models under KVM: what the host's KVM can give, cut to a model. Configuration code.

#include "dm/core/types.h"

#include <linux/kvm.h>
#include <string_view>
#include <vector>

namespace rhea::kvm {

// The leaves for KVM_SET_CPUID2. `spec` as on the command line: "qemu64" or "host", and edits, as
// in "host,-avx2". A feature of the model that the host lacks is left out; one that was asked for
// by name and cannot be had is a ConfigError.
std::vector<kvm_cpuid_entry2> make_cpuid(int device, std::string_view spec, unsigned apic_id);

// Throws ConfigError.
void set_cpuid(int vcpu, const std::vector<kvm_cpuid_entry2> &leaves);

} // namespace rhea::kvm
