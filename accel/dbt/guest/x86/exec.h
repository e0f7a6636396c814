#pragma once
// Inside T0: how the executors of instruction groups are written and what they share. Not for use
// outside guest/x86.
//
// execute() sets cpu.rip to the next instruction, calls the executor, and puts rip back if it did
// not end in `ok`. So a branch just assigns cpu.rip. An executor must have changed nothing when it
// returns `fault` or `exit`, because the instruction will then be delivered as faulting, or run
// again; string instructions commit iteration by iteration.

#include "accel/dbt/guest/x86/memory.h"

namespace rhea::dbt::x86 {

using Executor = Outcome (*)(Context &, const Insn &, Fault &) noexcept;

#define RHEA_T0_TRY(expression)                                                                    \
    do {                                                                                           \
        if (const ::rhea::dbt::x86::Outcome rhea_outcome = (expression);                           \
            rhea_outcome != ::rhea::dbt::x86::Outcome::ok) [[unlikely]]                            \
            return rhea_outcome;                                                                   \
    } while (false)

// --- faults: fill `fault` and return Outcome::fault
inline Outcome raise(Fault &fault, u8 vector) noexcept {
    fault = {vector, false, 0, 0};
    return Outcome::fault;
}
inline Outcome raise(Fault &fault, u8 vector, u32 error_code) noexcept {
    fault = {vector, true, error_code, 0};
    return Outcome::fault;
}

// --- segmentation (segmentation.cc)
// Linear address of segment:offset for an access of `size` bytes, with limit, type, canonical and
// v8086 checks (#GP, or #SS for the stack segment).
Outcome linearise(Context &context, u8 segment, u64 offset, unsigned size, AccessType type,
                  u64 &linear, Fault &fault) noexcept;
// Loads a data or stack segment register as MOV/POP/LES do, all checks and mode rules included.
Outcome load_segment(Context &context, SegmentName name, u16 selector, Fault &fault) noexcept;

// --- operands (operands.cc)
u64 effective_offset(const Cpu &cpu,
                     const Insn &insn) noexcept; // of the memory operand, wrapped at address size
inline u64 size_mask(unsigned size) noexcept {
    return size >= 8 ? ~u64{0} : (u64{1} << (8 * size)) - 1;
}
u64 read_gpr(const Cpu &cpu, const Operand &operand) noexcept;
// Writes as the hardware does: 32-bit results clear the upper half, 8- and 16-bit ones keep the
// rest.
void write_gpr(Cpu &cpu, unsigned index, unsigned size, u64 value) noexcept;
void write_gpr(Cpu &cpu, const Operand &operand, u64 value) noexcept;
// Value of operand `n`: register, immediate or memory (zero-extended).
Outcome read_operand(Context &context, const Insn &insn, unsigned n, u64 &value,
                     Fault &fault) noexcept;
Outcome write_operand(Context &context, const Insn &insn, unsigned n, u64 value,
                      Fault &fault) noexcept;
// Before a read-modify-write reads: faults now if the write would.
Outcome probe_operand_write(Context &context, const Insn &insn, unsigned n, Fault &fault) noexcept;
Outcome read_segmented(Context &context, u8 segment, u64 offset, void *to, unsigned size,
                       Fault &fault) noexcept;
Outcome write_segmented(Context &context, u8 segment, u64 offset, const void *from, unsigned size,
                        Fault &fault) noexcept;

// --- the stack: a cursor, so that RSP is committed only when nothing can fault any more (stack.cc)
struct StackCursor {
    u64 pointer; // RSP/ESP/SP as it will be
    u64 base;    // of the stack segment (0 in 64-bit mode)
    u64 mask;    // by SS.B or 64-bit mode
    u8 segment;
};
StackCursor stack_cursor(const Cpu &cpu) noexcept;
Outcome push(Context &context, StackCursor &cursor, unsigned size, u64 value,
             Fault &fault) noexcept;
Outcome pop(Context &context, StackCursor &cursor, unsigned size, u64 &value,
            Fault &fault) noexcept;
void commit(Cpu &cpu, const StackCursor &cursor) noexcept;

// Near control transfer: checks the target (CS limit, canonical) and assigns rip.
Outcome branch_to(Context &context, u64 target, unsigned operand_size, Fault &fault) noexcept;

// --- exits: I/O by replay (io.cc). ok: done (a read's value is in `value`); exit: cpu.exit filled.
Outcome port_access(Context &context, bool write, u16 port, unsigned size, u64 &value) noexcept;
Outcome memory_io(Context &context, bool write, u64 physical, unsigned size, u64 &value) noexcept;
Outcome io_permission(Context &context, u16 port, unsigned size,
                      Fault &fault) noexcept; // IOPL and TSS bitmap
// For CR8, unknown MSRs: the same mechanism with another kind. `kind` is the read or write form.
Outcome other_io(Context &context, ExitKind kind, u64 address, unsigned size, u64 &value) noexcept;

// The executor of each operation; filled by the groups below. Null: #UD.
struct ExecutorEntry {
    Op op;
    Executor run;
};
struct ExecutorGroup {
    const ExecutorEntry *entries;
    usize count;
};
ExecutorGroup integer_executors() noexcept; // arithmetic and logic: exec_integer.cc
ExecutorGroup bit_executors() noexcept;     // shifts, rotates, bit tests: exec_bits.cc
ExecutorGroup move_executors() noexcept;    // moves, conversions, decimal: exec_move.cc
ExecutorGroup control_executors() noexcept; // near branches, stack, flags: exec_control.cc
ExecutorGroup string_executors() noexcept;  // exec_string.cc
ExecutorGroup far_executors() noexcept;     // far transfers, INT, IRET, SYSCALL …: exec_far.cc
ExecutorGroup system_executors() noexcept;  // exec_system.cc
ExecutorGroup segment_executors() noexcept; // exec_segment.cc
ExecutorGroup vector_executors() noexcept;  // x87, MMX, SSE: exec_vector.cc

bool cpu_has(const Cpu &cpu, u16 feature) noexcept; // Feature of decode.h (cpuid.cc)

} // namespace rhea::dbt::x86
