#pragma once
// Back end of T1 on x86-64: IR to host code. Where things are while it runs:
//   guest rax rcx rdx rbx rbp rsi rdi r8–r11: in the same host registers
//   guest rsp: in r12
//   guest r12–r15: in memory behind GS (Cpu::gpr)
//   r13, r15: scratch; r14: the address, then the host pointer, of the access at hand
//   rsp: the host's stack; GS base: the vCPU's Area; xmm0–15 and MXCSR: the guest's
//
// Arithmetic flags are in EFLAGS right after the instruction that made them, and are written to
// memory only when something is about to destroy EFLAGS or to leave (flag_state.h): flags that
// the next instruction overwrites cost nothing.

#include "accel/dbt/guest/x86/lower.h"
#include "accel/dbt/host/x86_64/emitter.h"

#include <span>

namespace rhea::dbt::host {

// The shared routines at the start of the code cache, as addresses in it.
struct Stubs {
    const u8 *enter;       // void (*)(Area *, const u8 *code), called by C++
    const u8 *leave;       // jumped to with r15d = Leave, rip stored
    const u8 *lookup;      // jumped to with r14 = linear target
    const u8 *slow_access; // called with r14 = linear address, r13d = AccessDescriptor; r14 = host
                           // pointer on return
    const u8 *interpret_here; // called with r13d = offset of the instruction | its length << 12
    const u8 *load_x87;       // called: the x87 registers from cpu.fpu; clobbers r13
    const u8 *load_flags;     // called: EFLAGS from whatever form the flags have; clobbers r13
};

struct HostFeatures {
    bool bmi2 = false;
};
HostFeatures detect_host_features() noexcept;

// An access's descriptor for the slow path: bits 0..11 offset of the instruction in its
// page, 12..19 size, 20 write.
inline constexpr u32 access_descriptor(u16 offset, unsigned size, bool write) {
    return u32(offset) | size << 12 | (write ? 1u << 20 : 0);
}

// Where a direct jump within the page left the block: the branch to patch, and what to go back to.
struct LinkSite {
    u8 *branch;         // its 4-byte displacement (writable alias)
    const u8 *unlinked; // code to run while the target is not translated (executable address)
    u16 target;         // page offset
    bool forward;       // it lies behind the jump: no loop can close here, so requests need no look
};

inline constexpr unsigned max_links = ir::max_instructions + 2;

struct Generated {
    const u8 *entry = nullptr;           // executable address
    const u8 *entry_unchecked = nullptr; // the same behind the test for requests
    u32 size = 0;                        // bytes
    unsigned link_count = 0;
    LinkSite link[max_links];
    bool overflow = false; // the buffer was too small
};

struct CodeBuffer {
    u8 *begin, *end;      // writable alias
    i64 executable_delta; // executable address = writable + this
};

void write_stubs(CodeBuffer buffer, Stubs &stubs, u32 &size) noexcept;

// `links`: for link n, the value that the code hands to the run loop when it leaves through it
// (links[n]).
void generate(const x86::LoweredBlock &block, u32 mode, CodeBuffer buffer, const Stubs &stubs,
              HostFeatures features, std::span<void *const> links, Generated &out) noexcept;

} // namespace rhea::dbt::host
