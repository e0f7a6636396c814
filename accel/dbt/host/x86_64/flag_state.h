#pragma once
// Where the guest's arithmetic flags are while a block is generated: in EFLAGS, in memory, or both.
// They are written to memory as late as possible: before something destroys EFLAGS, or when the
// block is left. As operands if the instruction that made them allows it and its registers are
// still intact (two or three stores), else by LAHF and SETO.

#include "accel/dbt/host/x86_64/codegen.h"
#include "accel/dbt/host/x86_64/native_op.h"

namespace rhea::dbt::host {

// How the flags in EFLAGS could be written to memory as operands.
struct FlagRecipe {
    x86::CcForm form =
        x86::CcForm::in_rflags; // with the size in its low bits; in_rflags: no such way
    u8 result = ir::no_value;   // guest register
    u8 source = ir::no_value;   // guest register, or none: `immediate`
    i32 immediate = 0;
    bool has_source = false;
};

struct FlagSnapshot {
    bool native = false, memory = true;
    FlagRecipe recipe;
};

// EFLAGS from what is in memory, for a form known when the code is written. Both destroy r13.
void emit_flags_from_ah_al(Emitter &e);
// The operation again: `form` without its size bits, `size` in bytes.
void emit_operation_again(Emitter &e, x86::CcForm form, unsigned size);

class FlagState {
public:
    FlagState(Emitter &e, const Stubs &stubs, i64 delta) : e_(e), stubs_(stubs), delta_(delta) {}

    // Makes the copy in memory right. Destroys r13, no flags.
    void save();
    // The same, and from now on EFLAGS counts as destroyed.
    void before_clobber() {
        save();
        now_.native = false;
    }
    // Brings the flags into EFLAGS. Destroys r13 and r15.
    void make_native();
    // C++ code has run: the flags are in memory, in a form that is not known here.
    void left_to_interpreter() {
        now_ = {};
        form_known_ = false;
    }
    // EFLAGS has just been made by this instruction.
    void defined(const NativeOp &op);
    // The same for an instruction of ours.
    void defined() { now_ = {.native = true, .memory = false, .recipe = {}}; }
    void registers_written(u32 guest_registers);
    void register_written(u8 guest_register) { registers_written(1u << guest_register); }

    FlagSnapshot snapshot() const { return now_; }
    // For code out of line: saves as it was at the snapshot, and changes nothing of the present
    // state.
    void save_snapshot(const FlagSnapshot &s) {
        if (s.native && !s.memory)
            write(s.recipe);
    }

private:
    void write(const FlagRecipe &recipe);

    Emitter &e_;
    const Stubs &stubs_;
    const i64 delta_;
    FlagSnapshot now_;
    // The form of the copy in memory, if this block wrote it.
    bool form_known_ = false;
    x86::CcForm form_ = x86::CcForm::in_rflags;
};

} // namespace rhea::dbt::host
