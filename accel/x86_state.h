#pragma once
// The canonical state of an x86 vCPU: what every engine can give and take, and what is saved.
// KVM's, Xen's and the translator's own forms convert to and from it, so that a paused machine can
// go on under another engine. Plain values. Registers as in the Intel SDM, volumes 1 and 3.

#include "dm/core/types.h"

#include <array>
#include <utility>
#include <vector>

namespace rhea::accel {

struct X86Segment {
    u64 base = 0;
    u32 limit = 0xffff; // bytes, granularity applied
    u16 selector = 0;
    u16 attributes = 0; // descriptor bits 40..47 in bits 0..7 (type, S, DPL, P), 52..55 (AVL, L,
                        // D/B, G) in bits 12..15
};
struct X86Table {
    u64 base = 0;
    u32 limit = 0xffff;
};
struct X86State {
    std::array<u64, 16> gpr{}; // rax rcx rdx rbx rsp rbp rsi rdi r8 … r15
    u64 rip = 0, rflags = 2;
    std::array<X86Segment, 6> segment{}; // es cs ss ds fs gs
    X86Segment ldt{}, tr{};
    X86Table gdt{}, idt{};
    u64 cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0, efer = 0, apic_base = 0;
    std::array<u64, 8> dr{};
    std::array<u64, 4> pdpte{};
    std::array<u8, 512> fxsave{};           // FXSAVE64 image, XMM registers included
    std::vector<std::pair<u32, u64>> msr{}; // number, value
    bool halted = false, interrupt_shadow = false, nmi_blocked = false, nmi_pending = false,
         wait_for_sipi = false;
    // An event whose delivery had begun: vector -1 if none.
    int pending_vector = -1;
    bool pending_has_error_code = false, pending_software = false;
    u32 pending_error_code = 0;
};

} // namespace rhea::accel
