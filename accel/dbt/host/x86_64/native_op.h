#pragma once
// One guest instruction encoded again for the host: with guest registers replaced by their homes
// and the memory operand by [r14]. Also what the flag tracking wants to know of it.

#include "accel/dbt/guest/x86/insn.h"
#include "accel/dbt/host/x86_64/emitter.h"

namespace rhea::dbt::host {

struct FlagRecipe;

class NativeOp {
public:
    explicit NativeOp(const x86::Insn &insn) : insn_(insn) {}

    // Memory operands are at [r14]. Clobbers r13, r15, and r14 if there is no memory operand.
    // EFLAGS is as the instruction leaves it, because the moves around it have no flags.
    void emit(Emitter &e, bool memory) const;

    // Every arithmetic flag is new (or undefined) whatever the operands are: nothing of the old
    // ones is left.
    bool writes_all_flags() const;
    u32 registers_written() const; // guest general registers, one bit each
    FlagRecipe flag_recipe() const;

private:
    const x86::Insn &insn_;
};

} // namespace rhea::dbt::host
