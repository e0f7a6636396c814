#include "accel/dbt/host/x86_64/flag_state.h"

#include "accel/dbt/host/x86_64/layout.h"

namespace rhea::dbt::host {

using x86::CcForm;

void FlagState::write(const FlagRecipe &recipe) {
    if (recipe.form == CcForm::in_rflags) {
        e_.mov(r13, rax);
        e_.lahf();
        e_.seto_al();
        e_.store_sized(gs_at(offset_cc_source), rax, 2);
        e_.mov(rax, r13);
        e_.store_imm32(gs_at(offset_cc_form), i32(CcForm::host_ah_al));
        return;
    }
    e_.store(gs_at(offset_cc_result), home(recipe.result));
    if (recipe.has_source) {
        if (recipe.source != ir::no_value)
            e_.store(gs_at(offset_cc_source), home(recipe.source));
        else
            e_.store_imm32(gs_at(offset_cc_source), recipe.immediate, 8);
    }
    e_.store_imm32(gs_at(offset_cc_form), i32(recipe.form));
}

void FlagState::save() {
    if (!now_.native || now_.memory)
        return;
    write(now_.recipe);
    now_.memory = true;
    form_known_ = true;
    form_ = now_.recipe.form == CcForm::in_rflags ? CcForm::host_ah_al : now_.recipe.form;
}

void emit_flags_from_ah_al(Emitter &e) {
    e.mov(r13, rax);
    e.load_sized(rax, gs_at(offset_cc_source), 2);
    e.byte(0x04); // add al, 7Fh: OF as SETO found it
    e.byte(0x7f);
    e.sahf();
    e.mov(rax, r13);
}

void emit_operation_again(Emitter &e, CcForm form, unsigned size) {
    const Mem source = gs_at(offset_cc_source);
    auto sized = [&](unsigned group) {
        e.op({.prefix = u8(size == 2 ? 0x66 : 0),
              .byte = u8(group << 3 | (size == 1 ? 2 : 3)),
              .wide = size == 8},
             r13, source);
    };
    e.load(r13, gs_at(offset_cc_result));
    if (form == CcForm::logic) {
        e.test(r13, r13, size);
    } else if (form == CcForm::compare) {
        sized(7);
    } else if (form == CcForm::sub) {
        e.alu(0, r13, source);
        sized(5);
    } else {
        e.alu(5, r13, source);
        sized(0);
    }
}

void FlagState::make_native() {
    if (now_.native)
        return;
    if (!form_known_)
        e_.bind(e_.call(), stubs_.load_flags - delta_);
    else if (form_ == CcForm::host_ah_al)
        emit_flags_from_ah_al(e_);
    else
        emit_operation_again(e_, CcForm(u32(form_) & ~3u), 1u << (u32(form_) & 3));
    now_.native = true;
    now_.recipe = {};
}

void FlagState::defined(const NativeOp &op) {
    now_.native = true;
    now_.memory = false;
    now_.recipe = op.flag_recipe();
}

void FlagState::registers_written(u32 guest_registers) {
    const FlagRecipe &r = now_.recipe;
    if (r.form == CcForm::in_rflags)
        return;
    if (guest_registers >> r.result & 1 ||
        (r.source != ir::no_value && guest_registers >> r.source & 1))
        now_.recipe = {};
}

} // namespace rhea::dbt::host
