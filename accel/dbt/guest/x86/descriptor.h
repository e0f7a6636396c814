#pragma once
// Inside T0: segment descriptors, and the stacks of far transfers. Shared by segmentation.cc,
// exec_segment.cc, exec_far.cc, exec_return.cc and deliver.cc. SDM volume 3, 3.4.5
// (descriptors), 5.8 (transfers), 6.14 (64-bit frames).
//
// A far transfer checks everything and pushes its frame before it changes a register, so that a
// fault leaves the CPU as it was.

#include "accel/dbt/guest/x86/exec.h"

namespace rhea::dbt::x86 {

inline bool canonical(u64 linear) noexcept {
    return u64(i64(linear << 16) >> 16) == linear;
}

struct Descriptor {
    u64 low, high; // high: second half of a system descriptor or gate in long mode, else 0
    u64 address;   // linear address of the first half

    unsigned type() const { return unsigned(low >> 40) & 15; }
    bool system() const { return (low >> 44 & 1) == 0; }
    unsigned dpl() const { return unsigned(low >> 45) & 3; }
    bool present() const { return (low >> 47 & 1) != 0; }
    bool code() const { return !system() && (type() & 8) != 0; }
    bool conforming() const { return (type() & 4) != 0; }
    bool writable_data() const { return !system() && (type() & 10) == 2; }
    bool readable() const { return !system() && ((type() & 8) == 0 || (type() & 2) != 0); }
    bool long_code() const { return (low >> 53 & 1) != 0; }
    bool big() const { return (low >> 54 & 1) != 0; }
    // Of gates.
    u16 gate_selector() const { return u16(low >> 16); }
    u64 gate_offset() const { return (low & 0xffff) | (low >> 32 & 0xffff'0000) | high << 32; }
};

namespace system_type {
inline constexpr unsigned tss16 = 1, ldt = 2, tss16_busy = 3, call_gate16 = 4, task_gate = 5,
                          interrupt_gate16 = 6, trap_gate16 = 7, tss32 = 9, tss32_busy = 11,
                          call_gate32 = 12, interrupt_gate32 = 14, trap_gate32 = 15;
}

inline bool null_selector(u16 selector) noexcept {
    return (selector & 0xfffc) == 0;
}
// Error code of a fault that names a selector; `ext` is 1 if an event from outside the program was
// being delivered.
inline u32 selector_error(u16 selector, u32 ext = 0) noexcept {
    return u32(selector & 0xfffc) | ext;
}

// The descriptor of a selector; beyond its table: fault `vector` with the selector as error code.
Outcome read_descriptor(Context &context, u16 selector, u8 vector, u32 ext, Descriptor &out,
                        Fault &fault) noexcept;
// Reads the second half too (long mode's system descriptors).
Outcome read_wide_descriptor(Context &context, u16 selector, u8 vector, u32 ext, Descriptor &out,
                             Fault &fault) noexcept;
Segment segment_of(const Descriptor &descriptor, u16 selector) noexcept;
// Sets type bits in memory: accessed, or a TSS's busy bit.
Outcome mark_descriptor(Context &context, const Descriptor &descriptor, u8 type_bits,
                        Fault &fault) noexcept;

// What a null selector leaves in a data segment register: nothing may be accessed. SS keeps CPL in
// its DPL field.
inline Segment null_segment(u16 selector, unsigned dpl = 0) noexcept {
    return {0, 0, selector, u16(dpl << 5)};
}
// Real and v8086 mode: base from the selector; real mode keeps limit and attributes.
void load_real_segment(Cpu &cpu, SegmentName name, u16 selector) noexcept;

// A code segment for a transfer: not null, in its table, code, not both 64- and 32-bit. Rights and
// presence are the caller's.
Outcome read_code_descriptor(Context &context, u16 selector, u32 ext, Descriptor &out,
                             Fault &fault) noexcept;
// A stack segment for privilege level `cpl`: writable, RPL and DPL equal to it, present. Faults:
// `vector`, or #SS if not present.
Outcome read_stack_segment(Context &context, u16 selector, unsigned cpl, u8 vector, u32 ext,
                           Segment &out, Fault &fault) noexcept;
// May code in this segment start at `target`? Canonical in 64-bit code, within the limit elsewhere.
bool valid_target(const Cpu &cpu, const Segment &code, u64 target) noexcept;

// A stack to build or take apart a frame on. `pointer` is the whole RSP as it will be.
struct FarStack {
    Segment segment;
    u64 pointer, mask;
    bool wide; // 64-bit: neither base nor limit
    Privilege privilege;
    u32 error_code; // of #SS
};
FarStack current_stack(const Cpu &cpu) noexcept;
FarStack inner_stack(const Segment &segment, u64 pointer, u32 error_code) noexcept;
FarStack wide_stack(const Segment &segment, u64 pointer, Privilege privilege,
                    u32 error_code) noexcept;
Outcome push(Context &context, FarStack &stack, unsigned size, u64 value, Fault &fault) noexcept;
Outcome pop(Context &context, FarStack &stack, unsigned size, u64 &value, Fault &fault) noexcept;
// RSP of the finished frame, the upper half zero if addresses have 32 bits.
inline u64 stack_pointer(const FarStack &stack) noexcept {
    return stack.wide ? stack.pointer : stack.pointer & 0xffff'ffff;
}

// SS:SP of an inner level from a 16- or 32-bit TSS.
Outcome tss_stack(Context &context, unsigned level, u32 ext, Segment &ss, u64 &pointer,
                  Fault &fault) noexcept;
// RSP from a 64-bit TSS: levels 0..2, or 3 + IST number for an interrupt stack.
Outcome tss_stack_64(Context &context, unsigned slot, u32 ext, u64 &pointer, Fault &fault) noexcept;

// An event on its way through the IDT (deliver.cc). `software`: INT n, INT3, INTO: the gate's DPL
// is checked, and faults on the way do not count as external. cpu.rip is where the handler is to
// return to.
struct Event {
    u8 vector;
    bool has_error_code, software, interrupt; // interrupt: external or NMI
    u32 error_code;
};
Outcome deliver_event(Context &context, const Event &event, Fault &fault) noexcept;

} // namespace rhea::dbt::x86
