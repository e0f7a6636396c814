#include "accel/kvm/convert.h"

#include "accel/kvm/abi.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <iterator>

namespace rhea::kvm {
namespace {

using accel::X86Segment;
using accel::X86State;

// SDM volume 4, table 2-2; AMD APM volume 2, appendix A; KVM's own clock.
enum Msr : u32 {
    TSC = 0x10,
    MISC_ENABLE = 0x1a0,
    PAT = 0x277,
    MTRR_DEF_TYPE = 0x2ff,
};
constexpr u32 candidates[] = {
    TSC,         0x174,       0x175,       0x176,       MISC_ENABLE, PAT,         MTRR_DEF_TYPE,
    0x200,       0x201,       0x202,       0x203,       0x204,       0x205,       0x206,
    0x207,       0x208,       0x209,       0x20a,       0x20b,       0x20c,       0x20d,
    0x20e,       0x20f,       0x250,       0x258,       0x259,       0x268,       0x269,
    0x26a,       0x26b,       0x26c,       0x26d,       0x26e,       0x26f,       0xc000'0081,
    0xc000'0082, 0xc000'0083, 0xc000'0084, 0xc000'0102, 0xc000'0103, 0x4b56'4d00, 0x4b56'4d01,
};

// kvm_msrs (see abi.h), with room.
struct Msrs {
    u32 count = 0, pad = 0;
    kvm_msr_entry entry[std::size(candidates)];
};
static_assert(offsetof(Msrs, entry) == abi::head_size);

// KVM stops at the first MSR that it refuses; that one is left out and the rest goes on.
template <class Done>
void each_batch(int vcpu, unsigned long request, Msrs &list, Done &&done) noexcept {
    const u32 count = list.count;
    for (u32 at = 0; at < count;) {
        Msrs part{};
        part.count = count - at;
        std::copy_n(list.entry + at, count - at, part.entry);
        const int n = std::clamp(::ioctl(vcpu, request, &part), 0, int(count - at));
        for (int i = 0; i < n; ++i)
            done(part.entry[i]);
        at += u32(n) + 1;
    }
}

kvm_segment to_kvm(const X86Segment &s) {
    const unsigned a = s.attributes;
    kvm_segment k{};
    k.base = s.base;
    k.limit = s.limit;
    k.selector = s.selector;
    k.type = a & 15;
    k.s = a >> 4 & 1;
    k.dpl = a >> 5 & 3;
    k.present = a >> 7 & 1;
    k.avl = a >> 12 & 1;
    k.l = a >> 13 & 1;
    k.db = a >> 14 & 1;
    k.g = a >> 15 & 1;
    k.unusable = !k.present;
    return k;
}

X86Segment from_kvm(const kvm_segment &k) {
    const unsigned present = k.present && !k.unusable;
    return {.base = k.base,
            .limit = k.limit,
            .selector = k.selector,
            .attributes =
                u16((k.type & 15u) | (k.s & 1u) << 4 | (k.dpl & 3u) << 5 | present << 7 |
                    (k.avl & 1u) << 12 | (k.l & 1u) << 13 | (k.db & 1u) << 14 | (k.g & 1u) << 15)};
}

// In the canonical order: es cs ss ds fs gs, rax rcx rdx rbx rsp rbp rsi rdi r8 to r15.
constexpr kvm_segment kvm_sregs::*segments[] = {&kvm_sregs::es, &kvm_sregs::cs, &kvm_sregs::ss,
                                                &kvm_sregs::ds, &kvm_sregs::fs, &kvm_sregs::gs};
constexpr __u64 kvm_regs::*registers[] = {
    &kvm_regs::rax, &kvm_regs::rcx, &kvm_regs::rdx, &kvm_regs::rbx, &kvm_regs::rsp, &kvm_regs::rbp,
    &kvm_regs::rsi, &kvm_regs::rdi, &kvm_regs::r8,  &kvm_regs::r9,  &kvm_regs::r10, &kvm_regs::r11,
    &kvm_regs::r12, &kvm_regs::r13, &kvm_regs::r14, &kvm_regs::r15};

void from_kvm(const kvm_sregs &k, X86State &s) {
    for (usize i = 0; i < 6; ++i)
        s.segment[i] = from_kvm(k.*segments[i]);
    s.ldt = from_kvm(k.ldt);
    s.tr = from_kvm(k.tr);
    s.gdt = {k.gdt.base, k.gdt.limit};
    s.idt = {k.idt.base, k.idt.limit};
    s.cr0 = k.cr0;
    s.cr2 = k.cr2;
    s.cr3 = k.cr3;
    s.cr4 = k.cr4;
    s.cr8 = k.cr8;
    s.efer = k.efer;
    s.apic_base = k.apic_base;
}

kvm_sregs to_kvm(const X86State &s) {
    kvm_sregs k{};
    for (usize i = 0; i < 6; ++i)
        k.*segments[i] = to_kvm(s.segment[i]);
    k.ldt = to_kvm(s.ldt);
    k.tr = to_kvm(s.tr);
    k.gdt.base = s.gdt.base;
    k.gdt.limit = u16(s.gdt.limit);
    k.idt.base = s.idt.base;
    k.idt.limit = u16(s.idt.limit);
    k.cr0 = s.cr0;
    k.cr2 = s.cr2;
    k.cr3 = s.cr3;
    k.cr4 = s.cr4;
    k.cr8 = s.cr8;
    k.efer = s.efer;
    k.apic_base = s.apic_base;
    return k;
}

void from_kvm(const kvm_vcpu_events &e, X86State &s) {
    s.interrupt_shadow = e.interrupt.shadow != 0;
    s.nmi_blocked = e.nmi.masked != 0;
    s.nmi_pending = e.nmi.pending != 0;
    if (e.exception.injected) {
        s.pending_vector = e.exception.nr;
        s.pending_has_error_code = e.exception.has_error_code != 0;
        s.pending_error_code = e.exception.error_code;
    } else if (e.nmi.injected) {
        s.pending_vector = 2;
    } else if (e.interrupt.injected) {
        s.pending_vector = e.interrupt.nr;
        s.pending_software = e.interrupt.soft != 0;
    }
}

kvm_vcpu_events events_of(const X86State &s) {
    kvm_vcpu_events e{};
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    e.interrupt.shadow = s.interrupt_shadow ? KVM_X86_SHADOW_INT_STI : 0;
    e.nmi.masked = s.nmi_blocked;
    e.nmi.pending = s.nmi_pending;
    if (s.pending_vector < 0)
        return e;
    if (s.pending_vector == 2 && !s.pending_software) {
        e.nmi.injected = 1;
    } else if (s.pending_vector < 32 && !s.pending_software) {
        e.exception.injected = 1;
        e.exception.nr = u8(s.pending_vector);
        e.exception.has_error_code = s.pending_has_error_code;
        e.exception.error_code = s.pending_error_code;
    } else {
        e.interrupt.injected = 1;
        e.interrupt.nr = u8(s.pending_vector);
        e.interrupt.soft = s.pending_software;
    }
    return e;
}

// What power-on and INIT both set.
void reset_common(u32 signature, X86State &s) {
    constexpr u16 data = 0x93, code = 0x9b, ldt = 0x82, busy_tss = 0x8b;
    s.gpr.fill(0);
    s.gpr[2] = signature;
    s.rip = 0xfff0;
    s.rflags = 2;
    s.segment.fill({0, 0xffff, 0, data});
    s.segment[1] = {0xffff'0000, 0xffff, 0xf000, code};
    s.ldt = {0, 0xffff, 0, ldt};
    s.tr = {0, 0xffff, 0, busy_tss};
    s.gdt = s.idt = {};
    s.cr2 = s.cr3 = s.cr4 = s.cr8 = s.efer = 0;
    s.dr = {0, 0, 0, 0, 0, 0, 0xffff'0ff0, 0x400};
    s.pdpte.fill(0);
    s.halted = s.interrupt_shadow = s.nmi_blocked = s.nmi_pending = s.wait_for_sipi = false;
    s.pending_vector = -1;
}

} // namespace

std::vector<u32> state_msrs(int vcpu) {
    Msrs list{};
    for (u32 number : candidates)
        list.entry[list.count++].index = number;
    std::vector<u32> have;
    each_batch(vcpu, abi::get_msrs, list, [&](const kvm_msr_entry &e) { have.push_back(e.index); });
    return have;
}

bool get_state(int vcpu, const std::vector<u32> &msrs, X86State &s) noexcept {
    kvm_regs regs{};
    kvm_sregs sregs{};
    kvm_xsave xsave{};
    kvm_debugregs debug{};
    kvm_vcpu_events events{};
    if (::ioctl(vcpu, KVM_GET_REGS, &regs) < 0 || ::ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0 ||
        ::ioctl(vcpu, abi::get_xsave, &xsave) < 0 || ::ioctl(vcpu, KVM_GET_DEBUGREGS, &debug) < 0 ||
        ::ioctl(vcpu, KVM_GET_VCPU_EVENTS, &events) < 0)
        return false;
    for (usize i = 0; i < 16; ++i)
        s.gpr[i] = regs.*registers[i];
    s.rip = regs.rip;
    s.rflags = regs.rflags;
    from_kvm(sregs, s);
    std::memcpy(s.fxsave.data(), xsave.region, s.fxsave.size());
    std::copy_n(debug.db, 4, s.dr.begin());
    s.dr[6] = debug.dr6;
    s.dr[7] = debug.dr7;
    from_kvm(events, s);
    Msrs list{};
    for (u32 number : msrs)
        list.entry[list.count++].index = number;
    each_batch(vcpu, abi::get_msrs, list,
               [&](const kvm_msr_entry &e) { s.msr.emplace_back(e.index, e.data); });
    return true;
}

bool set_state(int vcpu, const std::vector<u32> &msrs, const X86State &s) noexcept {
    kvm_sregs sregs = to_kvm(s);
    kvm_regs regs{};
    for (usize i = 0; i < 16; ++i)
        regs.*registers[i] = s.gpr[i];
    regs.rip = s.rip;
    regs.rflags = s.rflags | 2;
    // The FXSAVE image is the head of an XSAVE image that has x87 and SSE in it and the rest in its
    // initial state (SDM volume 1, 13.4). Reserved bits of MXCSR would be refused.
    kvm_xsave xsave{};
    constexpr usize mxcsr_word = 24 / 4, header_word = 512 / 4;
    std::memcpy(xsave.region, s.fxsave.data(), s.fxsave.size());
    xsave.region[mxcsr_word] &= 0xffff;
    xsave.region[header_word] = 3;
    kvm_debugregs debug{};
    std::copy_n(s.dr.begin(), 4, debug.db);
    debug.dr6 = s.dr[6] & 0xffff'ffff;
    debug.dr7 = s.dr[7] & 0xffff'ffff;
    kvm_vcpu_events events = events_of(s);
    if (::ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ::ioctl(vcpu, abi::set_xsave, &xsave) < 0 ||
        ::ioctl(vcpu, KVM_SET_DEBUGREGS, &debug) < 0 || ::ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
        return false;
    // An engine's state may have MSRs that this one has not: those that both have.
    Msrs list{};
    for (const auto &[n, value] : s.msr)
        if (std::find(msrs.begin(), msrs.end(), n) != msrs.end() &&
            list.count < std::size(list.entry))
            list.entry[list.count++] = {.index = n, .reserved = 0, .data = value};
    each_batch(vcpu, abi::set_msrs, list, [](const kvm_msr_entry &) {});
    return ::ioctl(vcpu, KVM_SET_VCPU_EVENTS, &events) == 0;
}

X86State reset_state(u32 signature, const std::vector<u32> &msrs) {
    X86State s;
    reset_common(signature, s);
    s.cr0 = 0x6000'0010;
    s.fxsave[0] = 0x40;  // control word
    s.fxsave[4] = 0xff;  // all x87 registers in use
    s.fxsave[24] = 0x80; // MXCSR
    s.fxsave[25] = 0x1f;
    for (u32 number : msrs)
        s.msr.emplace_back(number, number == PAT           ? 0x0007'0406'0007'0406
                                   : number == MISC_ENABLE ? 1
                                                           : 0);
    return s;
}

X86State init_state(u32 signature, const X86State &before) {
    constexpr u64 cache_bits = 0x6000'0000, extension_type = 0x10;
    X86State s = before;
    reset_common(signature, s);
    s.cr0 = extension_type | (before.cr0 & cache_bits);
    return s;
}

} // namespace rhea::kvm
