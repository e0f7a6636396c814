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

void FlagState::make_native() {
    if (now_.native)
        return;
    if (!form_known_) {
        e_.bind(e_.call(), stubs_.load_flags - delta_);
    } else if (form_ == CcForm::host_ah_al) {
        e_.mov(r13, rax);
        e_.load_sized(rax, gs_at(offset_cc_source), 2);
        e_.byte(0x04); // add al, 7Fh: OF as SETO found it
        e_.byte(0x7f);
        e_.sahf();
        e_.mov(rax, r13);
    } else { // do the operation again
        const unsigned size = 1u << (u32(form_) & 3);
        const CcForm form = CcForm(u32(form_) & ~3u);
        e_.load(r13, gs_at(offset_cc_result));
        const Mem source = gs_at(offset_cc_source);
        auto sized = [&](unsigned group) {
            e_.op({.prefix = u8(size == 2 ? 0x66 : 0),
                   .byte = u8(group << 3 | (size == 1 ? 2 : 3)),
                   .wide = size == 8},
                  r13, source);
        };
        if (form == CcForm::logic) {
            e_.test(r13, r13, size);
        } else if (form == CcForm::compare) {
            sized(7);
        } else if (form == CcForm::sub) {
            e_.alu(0, r13, source);
            sized(5);
        } else {
            e_.alu(5, r13, source);
            sized(0);
        }
    }
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
