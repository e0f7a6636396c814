#pragma once
// The x86 vCPU as the translator holds it: everything architectural, plus what the two tiers share
// (lazy flags, TLB, request word, exit record). Owned by dbt::Core, one per vCPU; only that vCPU's
// thread touches it, except `requests`. Translated code addresses it through the host's GS base, so
// the order of the first members is part of the code generator's contract (host/x86_64/layout.h
// checks the offsets); it is a standard-layout type without constructors that allocate, so that it
// can live in memory shared between processes.
//
// Registers follow the Intel SDM, volume 3; MSR numbers are those of volume 4.

#include "accel/dbt/mmu/tlb.h"
#include "dm/core/types.h"

#include <atomic>

namespace rhea::dbt::x86 {

enum Gpr : u8 { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15 };
enum SegmentName : u8 { es, cs, ss, ds, fs, gs, segment_count };

// RFLAGS bits.
namespace flag {
inline constexpr u32 cf = 1u << 0, always_one = 1u << 1, pf = 1u << 2, af = 1u << 4, zf = 1u << 6,
                     sf = 1u << 7, tf = 1u << 8, if_ = 1u << 9, df = 1u << 10, of = 1u << 11,
                     iopl = 3u << 12, nt = 1u << 14, rf = 1u << 16, vm = 1u << 17, ac = 1u << 18,
                     vif = 1u << 19, vip = 1u << 20, id = 1u << 21;
inline constexpr u32 arithmetic = cf | pf | af | zf | sf | of;
} // namespace flag

namespace cr0 {
inline constexpr u64 pe = 1u << 0, mp = 1u << 1, em = 1u << 2, ts = 1u << 3, et = 1u << 4,
                     ne = 1u << 5, wp = 1u << 16, am = 1u << 18, nw = 1u << 29, cd = 1u << 30,
                     pg = 1u << 31;
}
namespace cr4 {
inline constexpr u64 vme = 1u << 0, pvi = 1u << 1, tsd = 1u << 2, de = 1u << 3, pse = 1u << 4,
                     pae = 1u << 5, mce = 1u << 6, pge = 1u << 7, pce = 1u << 8, osfxsr = 1u << 9,
                     osxmmexcpt = 1u << 10, umip = 1u << 11, la57 = 1u << 12, vmxe = 1u << 13,
                     fsgsbase = 1u << 16, pcide = 1u << 17, osxsave = 1u << 18, smep = 1u << 20,
                     smap = 1u << 21, pke = 1u << 22;
}
namespace efer {
inline constexpr u64 sce = 1u << 0, lme = 1u << 8, lma = 1u << 10, nxe = 1u << 11, svme = 1u << 12,
                     ffxsr = 1u << 14;
}

// Exception vectors.
namespace vector {
inline constexpr u8 de = 0, db = 1, nmi = 2, bp = 3, of = 4, br = 5, ud = 6, nm = 7, df = 8,
                    ts = 10, np = 11, ss = 12, gp = 13, pf = 14, mf = 16, ac = 17, mc = 18, xm = 19;
}

// A segment register with its hidden part. `attributes` holds bits 40..55 of the descriptor in bits
// 0..15 (type, S, DPL, P, then AVL, L, D/B, G in bits 12..15; the limit's bits 8..11 are zero), as
// the Intel VMX access rights do.
struct Segment {
    u64 base;
    u32 limit; // in bytes, granularity already applied
    u16 selector;
    u16 attributes;

    static constexpr u16 accessed = 1, writable = 2, readable = 2, expand_down = 4, conforming = 4,
                         code = 8, user = 16, present = 128, available = 1u << 12,
                         long_mode = 1u << 13, big = 1u << 14, granular = 1u << 15;
    unsigned type() const { return attributes & 15; }
    unsigned dpl() const { return (attributes >> 5) & 3; }
    bool is(u16 bit) const { return (attributes & bit) != 0; }
};
struct TableRegister {
    u64 base;
    u32 limit;
    u32 reserved;
};
struct alignas(16) Xmm {
    u64 low, high;
};

// The x87 and SSE image in FXSAVE64 form (SDM volume 1, 10.5.1); the XMM part of it is unused,
// `Cpu::xmm` has them.
struct alignas(16) FxImage {
    u16 control, status;
    u8 tag, reserved0;
    u16 opcode;
    u64 instruction, data;
    u32 mxcsr, mxcsr_mask;
    struct {
        u64 mantissa;
        u16 exponent, reserved[3];
    } st[8];
    Xmm unused_xmm[16];
    u8 unused[96];
};
static_assert(sizeof(FxImage) == 512);

// How the arithmetic flags are held while translated code runs ("lazy flags"). T0 always works on
// `rflags`: materialise_flags() (flags.h) brings any form back to `in_rflags`.
//   in_rflags     rflags has them
//   host_ah_al    cc_source holds LAHF's AH in bits 8..15 and SETO's byte in bits 0..7
//   add…logic     by operation: cc_result is what the operation gave, cc_source its second operand;
//   `compare` keeps both
//                 operands (cc_result is the first one). The low two bits are log2 of the operand's
//                 bytes.
enum class CcForm : u32 {
    in_rflags = 0,
    host_ah_al = 4,
    add = 8,
    sub = 12,
    compare = 16,
    logic = 20
};

// Requests to a running vCPU. The low half may be set by any thread (then kicked out of blocks at
// their next entry), the high half only by the vCPU's own thread; translated code tests the whole
// word at once.
namespace request {
inline constexpr u32 interrupt = 1, nmi = 2, stop = 4, flush_tlb = 8, code_written = 16, init = 32,
                     sipi = 64, map_changed = 128;
}

// What the vCPU's run loop must do for it. `value` is the datum to write, or is filled in by
// whoever serves a read.
enum class ExitKind : u8 {
    none, // nothing: the request word was set, or the instruction budget ran out
    port_read,
    port_write,
    memory_read, // guest-physical address that is not RAM
    memory_write,
    msr_read, // an MSR that the core does not own (APIC base, x2APIC, MTRRs are ours)
    msr_write,
    task_priority_read, // CR8
    task_priority_write,
    halt,
    shutdown,         // triple fault
    interrupt_window, // request::interrupt is set and an interrupt can be taken now
    nmi_window,       // the same for request::nmi
};
struct Exit {
    ExitKind kind;
    u8 size; // 1, 2, 4, 8
    u8 reserved[6];
    u64 address; // port, guest-physical address or MSR number
    u64 value;
};

// I/O that the instruction being executed has already done. An instruction that needs I/O leaves
// with an exit record before it has changed anything; it is then executed again, with the accesses
// served so far answered from this log (writes are skipped). So an instruction may be restarted any
// number of times and every device access happens once.
struct IoLog {
    static constexpr u32 capacity = 160; // FXRSTOR of 512 bytes, unaligned, in pieces of 4
    u32 served;                          // entries that hold an answer
    u32 cursor;                          // how many this execution has used
    u64 value[capacity];
};

struct PendingEvent { // an exception or interrupt being delivered; for double-fault rules and saved
                      // state
    u8 vector;
    bool valid, has_error_code, software;
    u32 error_code;
};

struct CpuidLeaf {
    u32 leaf, subleaf; // subleaf ~0u: any
    u32 eax, ebx, ecx, edx;
};

struct Cpu {
    // --- what translated code addresses most: offsets below 128 encode short
    u64 gpr[16];
    // --- and the rest of its working set
    u64 rip;                   // offset in CS (RIP, EIP or IP); exact whenever C++ code runs
    u64 page_base;             // linear address of the page that holds the code being run
    std::atomic<u32> requests; // request:: bits of other threads
    u32 local_requests;        // request:: bits of our own
    CcForm cc_form;            // plus log2 of the operand's bytes in the low two bits
    u32 deferred_requests;     // of local_requests' bits: what waits for IF; STI copies it there
    u64 cc_result, cc_source;
    u64 rflags;     // arithmetic bits valid only if cc_form is in_rflags
    u64 scratch[8]; // spills of translated code; meaning only within one instruction
    u32 mxcsr, host_mxcsr;
    u32 mode; // block_mode() of the current state: what a translation depends on besides its bytes
    u32 cpl;  // 0 in real mode, 3 in v8086
    Xmm xmm[16];
    Segment seg[segment_count];

    Segment ldt, tr;
    TableRegister gdt, idt;
    u64 cr0, cr2, cr3, cr4, efer;
    u64 dr[8]; // 4 and 5 unused
    FxImage fpu;

    u64 star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, sysenter_cs, sysenter_esp,
        sysenter_eip, pat, apic_base, mtrr_def_type, misc_enable, mcg_status, mcg_ctl;
    u64 mtrr_fixed[11], mtrr_variable[16];
    u64 mc_bank[4 * 10];
    u64 pdpte[4];   // PAE: loaded at MOV CR3, not re-read by walks
    i64 tsc_offset; // guest TSC = host TSC + this
    u64 a20_mask;   // ~0, or ~(1 << 20)
    u64 phys_mask;  // low MAXPHYADDR bits

    bool halted;
    bool interrupt_shadow; // the next instruction boundary takes no interrupt (after STI, MOV SS,
                           // POP SS)
    bool nmi_blocked;
    bool nmi_pending, single_step_pending;
    bool in_delivery;
    bool wait_for_sipi, smm;
    PendingEvent pending;
    Exit exit;
    IoLog io;

    u32 cpuid_count;
    u32 cpuid_reserved;
    CpuidLeaf cpuid[48];
    u64 features_1_edx_ecx; // leaf 1: EDX low, ECX high: tests like "has SYSENTER" read these three
    u64 features_8000_0001; // the same of leaf 8000_0001h
    u64 features_7_ebx_ecx;

    u64 instructions; // executed by T0, for statistics
    mmu::Tlb tlb;
};

inline bool protected_mode(const Cpu &c) {
    return (c.cr0 & cr0::pe) != 0;
}
inline bool v8086(const Cpu &c) {
    return (c.rflags & flag::vm) != 0;
}
inline bool long_mode_active(const Cpu &c) {
    return (c.efer & efer::lma) != 0;
}
// 64-bit mode proper: long mode active and the current code segment is a 64-bit one.
inline bool mode_64(const Cpu &c) {
    return long_mode_active(c) && c.seg[cs].is(Segment::long_mode);
}

} // namespace rhea::dbt::x86
