#pragma once
// The numbers of the ioctls whose argument ends in an array of any length. The kernel's header
// declares that array in a way that makes the struct, and with it the number, larger in C++ than in
// C (an empty struct has a size there). Here the sizes are the kernel's.

#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace rhea::kvm::abi {

inline constexpr unsigned head_size = 8;
inline constexpr unsigned long get_supported_cpuid =
    _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, head_size);
inline constexpr unsigned long get_msrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, head_size);
inline constexpr unsigned long set_msrs = _IOC(_IOC_WRITE, KVMIO, 0x89, head_size);
inline constexpr unsigned long set_cpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, head_size);
inline constexpr unsigned long get_xsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
inline constexpr unsigned long set_xsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);

} // namespace rhea::kvm::abi
