#pragma once
// Front end of T1: decoded x86 instructions to IR. Knows the guest, not the host. What it does not
// translate it turns into `interpret`, which ends the block.

#include "accel/dbt/guest/x86/insn.h"
#include "accel/dbt/ir/op.h"

#include <array>
#include <span>

namespace rhea::dbt::x86 {

// A block to be: the instructions (kept, because `native` operations refer to them) and their
// operations.
struct LoweredBlock {
    std::array<Insn, ir::max_instructions> insn;
    unsigned insn_count = 0;
    ir::Block ir;
};

// Translates from `offset` in the page whose bytes are `page`, for the mode that `mode` describes
// (system.h). Stops at the first instruction that ends a block, at one that crosses the end of the
// page, or after `limit` (at most max_instructions). An empty block (no instruction could be
// translated) has one operation, `interpret`. `cpu` is asked for features only.
void lower_block(std::span<const u8> page, u16 offset, u32 mode, const Cpu &cpu, unsigned limit,
                 LoweredBlock &out) noexcept;
// The same for one instruction, which may go on in the next page: `bytes` are those from `offset`
// on.
void lower_one(std::span<const u8> bytes, u16 offset, u32 mode, const Cpu &cpu,
               LoweredBlock &out) noexcept;

} // namespace rhea::dbt::x86
