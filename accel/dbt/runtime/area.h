#pragma once
// One vCPU's memory as translated code sees it: the guest CPU and what chaining needs, behind the
// host's GS base. It lives in a shared mapping at an address of its own, with plain members only,
// so that a later tier can map it in other processes.

#include "accel/dbt/guest/x86/state.h"

#include <cstddef>

namespace rhea::dbt {

// Where an indirect jump goes: filled by the run loop when a jump misses, read by translated code.
// Valid while `key` is the vCPU's dispatch_key: that changes with the mode and with the generation
// of the address space's code mappings.
struct JumpEntry {
    u64 linear, key;
    const u8 *code;
    u64 reserved;
};
inline constexpr unsigned jump_bits = 12, jump_size = 1u << jump_bits;

// Why translated code came back.
enum class Leave : u32 {
    request,   // the request word is set; rip is exact
    lookup,    // a jump to rip, which the jump cache does not know
    link,      // the same, and `link` wants to be patched
    interpret, // T0 runs the instruction at rip
    resume,    // a slow path has done what was to be done (delivered a fault): go on at the new rip
    exit,      // the exit record is filled
};

struct Area {
    x86::Cpu cpu;
    Area *self;
    u64 dispatch_key;
    void *link;   // cache::Link that was followed, for Leave::link
    void *owner;  // dbt::Core
    u32 fpu_live; // the x87 registers are in the host's; else in cpu.fpu. 0 whenever C++ code looks
    u32 reserved;
    u64 native_stack; // host RSP while translated code runs
    JumpEntry jump[jump_size];
    alignas(16) u8 bounce[64]; // data of loads that cross pages
};

inline constexpr unsigned jump_index(u64 linear) {
    return unsigned(linear ^ linear >> 12) & (jump_size - 1);
}

} // namespace rhea::dbt
