#pragma once
// The canonical CPU state to and from what KVM's ioctls carry. Called while the vCPU is outside
// guest code, with nothing of an access left to complete.

#include "accel/x86_state.h"

#include <vector>

namespace rhea::kvm {

// The numbers of the MSRs that this host's vCPU has of those that are state.
std::vector<u32> state_msrs(int vcpu);

// False: an ioctl failed, errno says how. HLT, wait-for-SIPI and CR8 are the owner's to keep.
bool get_state(int vcpu, const std::vector<u32> &msrs, accel::X86State &state) noexcept;
bool set_state(int vcpu, const std::vector<u32> &msrs, const accel::X86State &state) noexcept;

// Power-on, or INIT, which keeps `before`'s floating point, MSRs and cache mode (SDM volume 3,
// table 9-1). `signature` is CPUID's leaf 1 EAX.
accel::X86State reset_state(u32 signature, const std::vector<u32> &msrs);
accel::X86State init_state(u32 signature, const accel::X86State &before);

} // namespace rhea::kvm
