#pragma once
// The intermediate form of T1: a flat array of operations for one linear block, in guest order,
// with side exits. What it fixes, and what the back end may rely on:
//   - guest registers are named directly (they have fixed homes in T1); `temp` and `kept` carry
//   values between operations of
//     the same guest instruction: `temp` is cheap and dies at the next memory access, `kept`
//     survives it;
//   - every memory access is its own `Address`, checked when it executes; the guest state before an
//   operation that can
//     fault is that of the guest instruction's start, so a fault needs only the instruction's
//     offset to be precise;
//   - arithmetic flags are one value with masks: what an operation reads and what it writes. Where
//   they live (host flags,
//     lazy form in memory) is the back end's business, operation by operation.
//   - `native` stands for "this very guest instruction, with other registers": a host of the same
//   architecture encodes it
//     again, any other host expands it or calls the interpreter.
// Code holds no guest-virtual address: branch targets and PC-relative values are offsets from the
// page of the block.

#include "dm/core/types.h"

#include <array>

namespace rhea::dbt::ir {

inline constexpr u8 no_value = 0xff;
inline constexpr u8 temp = 0xfe, kept = 0xfd; // as registers
inline constexpr u8 page_relative = 0xfc;     // as an address base: the page's virtual base

// Offset = base + index << scale + displacement, cut to `offset_size` bytes; linear = segment base
// + offset, cut to `linear_size` bytes.
struct Address {
    u8 base = no_value, index = no_value, scale = 0;
    u8 segment = no_value; // whose base is added; no_value where it is known to be zero
    u8 offset_size = 8, linear_size = 8;
    i64 displacement = 0;
};

enum class Kind : u8 {
    native, // instruction `instruction`; its memory operand, if any, is `address` with `access`
    divide, // native DIV/IDIV whose divisor is in a register or memory; leaves for T0 where it
            // would fault
    load,   // destination = memory[address], zero-extended
    store,  // memory[address] = source (register, temp, immediate or page-relative)
    set,    // destination = source, all `size` bytes, no flags
    add,    // destination = source register + immediate, no flags, cut to `size`
    set_address,    // destination = address (LEA), cut to `size`
    jump,           // to page offset `immediate`
    jump_looked_up, // the same, but its mapping must be looked up each time: it lies in two pages
    branch,         // the same if `condition` holds, else go on
    branch_count_zero, // JCXZ by `size`: if the count register (by address size) is zero
    jump_indirect,     // to the linear address in `source`
    read_flags,        // destination = RFLAGS as PUSHF stores it
    clear_flags,       // RFLAGS &= ~immediate: of the flags that EFLAGS does not hold meanwhile
    set_flags,         // RFLAGS |= immediate; IF with a shadow, which the block still holds
    read_time,         // RDTSC
    swap_gs,           // SWAPGS
    string_forward,    // leaves for T0 if the direction flag is set
    compare,           // flags of source - temp, in `size` bytes
    use_x87,           // the x87 registers are about to be used
    load_x87_control,  // FLDCW; leaves for T0 if it unmasks an exception
    read_selector,     // destination = selector of segment register `immediate`
    interpret_here,    // T0 runs the instruction (`size` bytes long); the block goes on if it can
    interpret, // leaves: T0 runs the instruction at `offset`
    nothing,
};

enum class SourceKind : u8 { none, reg, immediate, page_offset };

struct Op {
    Kind kind = Kind::nothing;
    u8 size = 8;   // bytes of the access or the result
    u8 access = 0; // native: 1 read, 2 write, 3 both
    u8 condition = 0;
    u8 destination = no_value;
    u8 source = no_value;
    SourceKind source_kind = SourceKind::none;
    bool aligned = false; // the access faults unless aligned to its size
    u16 offset = 0;       // of the guest instruction in its page
    u16 instruction = 0;  // index into the block's instructions
    u32 flags_read = 0, flags_written = 0;
    Address address{};
    i64 immediate = 0;
};

inline constexpr unsigned max_instructions = 64, max_ops = max_instructions * 8;

struct Block {
    u16 start = 0, end = 0; // page offsets: first byte, one past the last
    unsigned count = 0;
    std::array<Op, max_ops> op;
    Op &append(const Op &o) { return op[count++] = o; }
};

} // namespace rhea::dbt::ir
