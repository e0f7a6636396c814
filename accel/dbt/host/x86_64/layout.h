#pragma once
// Offsets in the Area as generated code addresses them, and the homes of guest registers.

#include "accel/dbt/host/x86_64/emitter.h"
#include "accel/dbt/runtime/area.h"

namespace rhea::dbt::host {

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
#define RHEA_CPU_OFFSET(member) i32(offsetof(Area, cpu) + offsetof(x86::Cpu, member))
inline constexpr i32 offset_gpr = RHEA_CPU_OFFSET(gpr), offset_rip = RHEA_CPU_OFFSET(rip),
                     offset_page_base = RHEA_CPU_OFFSET(page_base),
                     offset_requests = RHEA_CPU_OFFSET(requests),
                     offset_local_requests = RHEA_CPU_OFFSET(local_requests),
                     offset_cc_form = RHEA_CPU_OFFSET(cc_form),
                     offset_cc_result = RHEA_CPU_OFFSET(cc_result),
                     offset_cc_source = RHEA_CPU_OFFSET(cc_source),
                     offset_rflags = RHEA_CPU_OFFSET(rflags),
                     offset_scratch = RHEA_CPU_OFFSET(scratch),
                     offset_mxcsr = RHEA_CPU_OFFSET(mxcsr),
                     offset_host_mxcsr = RHEA_CPU_OFFSET(host_mxcsr),
                     offset_xmm = RHEA_CPU_OFFSET(xmm), offset_segments = RHEA_CPU_OFFSET(seg),
                     offset_tlb = RHEA_CPU_OFFSET(tlb), offset_fpu = RHEA_CPU_OFFSET(fpu),
                     offset_tsc_offset = RHEA_CPU_OFFSET(tsc_offset),
                     offset_kernel_gs_base = RHEA_CPU_OFFSET(kernel_gs_base),
                     offset_deferred = RHEA_CPU_OFFSET(deferred_requests);
#undef RHEA_CPU_OFFSET
inline constexpr i32 offset_self = offsetof(Area, self), offset_key = offsetof(Area, dispatch_key),
                     offset_link = offsetof(Area, link), offset_jump = offsetof(Area, jump),
                     offset_native_stack = offsetof(Area, native_stack),
                     offset_fpu_live = offsetof(Area, fpu_live);
#pragma GCC diagnostic pop
static_assert(offset_gpr == 0, "the registers are addressed most");
static_assert(offset_local_requests == offset_requests + 4 && offset_requests % 8 == 0,
              "tested as one word");
static_assert(sizeof(mmu::TlbEntry) == 32 && sizeof(JumpEntry) == 32);

// The host register that holds a guest register, or no_reg.
inline constexpr Reg home(u8 guest) {
    if (guest == x86::rsp)
        return r12;
    return guest < 12 ? Reg(guest) : no_reg;
}
inline Mem gpr_slot(u8 guest) {
    return gs_at(offset_gpr + guest * 8);
}

} // namespace rhea::dbt::host
