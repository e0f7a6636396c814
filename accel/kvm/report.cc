#include "accel/kvm/report.h"

#include "dm/core/log.h"

#include <array>
#include <cstdio>
#include <linux/kvm.h>
#include <sys/ioctl.h>

namespace rhea::kvm {
namespace {

// The bytes at a linear address, as text; only what is RAM is looked at.
std::string code_at(int vcpu, Accessor &accessor, u64 linear) {
    std::string text;
    for (u64 i = 0; i < 16; ++i) {
        kvm_translation t{};
        t.linear_address = linear + i;
        if (::ioctl(vcpu, KVM_TRANSLATE, &t) < 0 || !t.valid)
            break;
        const Range *range = accessor.find(Space::memory, t.physical_address);
        if (!range || !range->ram)
            break;
        std::array<char, 4> byte{};
        const u8 *at = range->ram->host() + range->offset + (t.physical_address - range->first);
        std::snprintf(byte.data(), byte.size(), " %02x", *at);
        text += byte.data();
    }
    return text.empty() ? " (not in RAM)" : text;
}

} // namespace

void report_stuck(int vcpu, unsigned index, Accessor &accessor, const std::string &what) noexcept {
    kvm_regs r{};
    kvm_sregs s{};
    if (::ioctl(vcpu, KVM_GET_REGS, &r) < 0 || ::ioctl(vcpu, KVM_GET_SREGS, &s) < 0) {
        RHEA_LOG(error, "KVM cannot go on with CPU %u: %s; it stays stopped", index, what.c_str());
        return;
    }
    RHEA_LOG(error,
             "KVM cannot go on with CPU %u: %s; it stays stopped. rip %llx rflags %llx rax %llx "
             "rbx %llx rcx %llx rdx %llx rsi %llx rdi %llx rsp %llx rbp %llx cs %x base %llx "
             "ss %x cr0 %llx cr2 %llx cr3 %llx cr4 %llx efer %llx; code%s",
             index, what.c_str(), r.rip, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp,
             r.rbp, s.cs.selector, s.cs.base, s.ss.selector, s.cr0, s.cr2, s.cr3, s.cr4, s.efer,
             code_at(vcpu, accessor, s.cs.base + r.rip).c_str());
}

} // namespace rhea::kvm
