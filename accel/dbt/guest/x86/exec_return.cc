// RET far and IRET, in all modes. SDM volume 2, RET and IRET; volume 3, 5.8.6 and 6.14.3.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {

// Their places in the executor table are in exec_far.cc.
Outcome return_far(Context &context, const Insn &insn, Fault &fault) noexcept;
Outcome return_from_interrupt(Context &context, const Insn &insn, Fault &fault) noexcept;

namespace {

// What a return frame in protected mode leads to.
struct Return {
    u64 rip, selector;
    u64 rsp, stack_selector; // if it holds a stack
    Segment code, stack;
    unsigned level; // CPL after the return
    bool outer;
};

// The code segment of a return: to the level that its selector's RPL names, the same or an outer
// one.
Outcome check_return_code(Context &context, Return &r, Fault &fault) {
    const Cpu &cpu = context.cpu;
    const u16 selector = u16(r.selector);
    Descriptor d;
    RHEA_T0_TRY(read_code_descriptor(context, selector, 0, d, fault));
    r.level = selector & 3u;
    const bool allowed =
        r.level >= cpu.cpl && (d.conforming() ? d.dpl() <= r.level : d.dpl() == r.level);
    if (!allowed)
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    r.outer = r.level > cpu.cpl;
    r.code = segment_of(d, selector);
    r.code.attributes |= Segment::accessed;
    if (!valid_target(cpu, r.code, r.rip))
        return raise(fault, vector::gp, 0);
    if (!long_mode_active(cpu) || !r.code.is(Segment::long_mode))
        r.rip &= 0xffff'ffff;
    return mark_descriptor(context, d, Segment::accessed, fault);
}

Outcome check_return_stack(Context &context, Return &r, Fault &fault) {
    const Cpu &cpu = context.cpu;
    const u16 selector = u16(r.stack_selector);
    if (null_selector(selector)) {
        // Only to 64-bit code below level 3, which runs with a null SS.
        const bool to_64 = long_mode_active(cpu) && r.code.is(Segment::long_mode);
        if (!to_64 || r.level == 3 || (selector & 3u) != r.level)
            return raise(fault, vector::gp, 0);
        r.stack = null_segment(selector, r.level);
        return Outcome::ok;
    }
    return read_stack_segment(context, selector, r.level, vector::gp, 0, r.stack, fault);
}

// Going out, data segments of the inner level are taken away (5.8.6). A null FS or GS keeps the
// base that its MSR gave it.
void drop_inner_segments(Cpu &cpu, unsigned level) {
    for (const SegmentName name : {es, ds, fs, gs}) {
        const Segment &s = cpu.seg[name];
        const bool conforming_code = s.is(Segment::code) && s.is(Segment::conforming);
        if (s.is(Segment::present) && s.dpl() < level && !conforming_code) {
            const u64 base = s.base; // stays: 64-bit code addresses FS and GS by it
            cpu.seg[name] = null_segment(0);
            cpu.seg[name].base = base;
        }
    }
}

void set_stack_pointer(Cpu &cpu, const Segment &stack, bool wide, u64 pointer) {
    if (wide)
        cpu.gpr[rsp] = pointer;
    else if (stack.is(Segment::big))
        cpu.gpr[rsp] = pointer & 0xffff'ffff;
    else
        cpu.gpr[rsp] = (cpu.gpr[rsp] & ~u64{0xffff}) | (pointer & 0xffff);
}

void enter(Cpu &cpu, const Return &r, bool with_stack) {
    cpu.seg[cs] = r.code;
    cpu.seg[cs].selector = u16(r.selector);
    cpu.rip = r.rip;
    if (with_stack)
        cpu.seg[ss] = r.stack;
    if (r.outer)
        drop_inner_segments(cpu, r.level);
}

Outcome return_real(Context &context, const Insn &insn, u64 discard, Fault &fault) {
    Cpu &cpu = context.cpu;
    FarStack stack = current_stack(cpu);
    u64 rip, selector;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, rip, fault));
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, selector, fault));
    if (rip > cpu.seg[cs].limit)
        return raise(fault, vector::gp, 0);
    set_stack_pointer(cpu, stack.segment, false, stack.pointer + discard);
    load_real_segment(cpu, cs, u16(selector));
    cpu.rip = rip;
    update_mode(cpu);
    return Outcome::ok;
}

// --- IRET

// Flags that an IRET of this operand size may change at this privilege.
u64 iret_flags(const Cpu &cpu, unsigned operand_size) {
    u64 mask = flag::arithmetic | flag::tf | flag::df | flag::nt;
    if (operand_size > 2)
        mask |= flag::rf | flag::ac | flag::id;
    if (cpu.cpl == 0) {
        mask |= flag::iopl;
        if (operand_size > 2)
            mask |= flag::vif | flag::vip;
    }
    if (cpu.cpl <= unsigned(cpu.rflags & flag::iopl) >> 12)
        mask |= flag::if_;
    return mask;
}

void assign_flags(Cpu &cpu, u64 image, u64 mask) {
    cpu.rflags = (cpu.rflags & ~mask) | (image & mask) | flag::always_one;
}

Outcome iret_real(Context &context, const Insn &insn, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (v8086(cpu) && (cpu.rflags & flag::iopl) != flag::iopl)
        return raise(fault, vector::gp, 0);
    FarStack stack = current_stack(cpu);
    u64 rip, selector, flags;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, rip, fault));
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, selector, fault));
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, flags, fault));
    if (rip > cpu.seg[cs].limit)
        return raise(fault, vector::gp, 0);
    u64 mask = iret_flags(cpu, insn.operand_size) & ~u64{flag::vif | flag::vip};
    assign_flags(cpu, flags, mask);
    set_stack_pointer(cpu, stack.segment, false, stack.pointer);
    load_real_segment(cpu, cs, u16(selector));
    cpu.rip = rip;
    return Outcome::ok;
}

// From level 0 of 32-bit protected mode to a v8086 task.
Outcome iret_to_v8086(Context &context, FarStack &stack, const Return &r, u64 flags, Fault &fault) {
    Cpu &cpu = context.cpu;
    u64 pointer, selectors[5]; // SS, ES, DS, FS, GS
    RHEA_T0_TRY(pop(context, stack, 4, pointer, fault));
    for (u64 &selector : selectors)
        RHEA_T0_TRY(pop(context, stack, 4, selector, fault));
    assign_flags(cpu, flags, 0x1f'7fd5 | flag::id);
    constexpr SegmentName order[] = {ss, es, ds, fs, gs};
    for (unsigned i = 0; i < 5; ++i)
        load_real_segment(cpu, order[i], u16(selectors[i]));
    load_real_segment(cpu, cs, u16(r.selector));
    cpu.rip = r.rip & 0xffff;
    cpu.gpr[rsp] = pointer & 0xffff'ffff;
    return Outcome::ok;
}

Outcome iret_protected(Context &context, const Insn &insn, Fault &fault) {
    Cpu &cpu = context.cpu;
    // A return to the task that called (NT) is a hardware task switch, which is not implemented; in
    // long mode it is #GP.
    if (cpu.rflags & flag::nt)
        return raise(fault, vector::gp, 0);
    const unsigned size = insn.operand_size;
    const bool from_64 = mode_64(cpu);
    FarStack stack = current_stack(cpu);
    Return r{};
    u64 flags;
    RHEA_T0_TRY(pop(context, stack, size, r.rip, fault));
    RHEA_T0_TRY(pop(context, stack, size, r.selector, fault));
    RHEA_T0_TRY(pop(context, stack, size, flags, fault));
    if ((flags & flag::vm) && size == 4 && cpu.cpl == 0 && !long_mode_active(cpu))
        return iret_to_v8086(context, stack, r, flags, fault);
    RHEA_T0_TRY(check_return_code(context, r, fault));
    const bool with_stack = from_64 || r.outer;
    if (with_stack) {
        RHEA_T0_TRY(pop(context, stack, size, r.rsp, fault));
        RHEA_T0_TRY(pop(context, stack, size, r.stack_selector, fault));
        RHEA_T0_TRY(check_return_stack(context, r, fault));
    }
    assign_flags(cpu, flags, iret_flags(cpu, size));
    enter(cpu, r, with_stack);
    const bool to_64 = mode_64(cpu);
    if (with_stack)
        set_stack_pointer(cpu, r.stack, to_64, r.rsp);
    else
        set_stack_pointer(cpu, stack.segment, stack.wide, stack.pointer);
    return Outcome::ok;
}

} // namespace

Outcome return_far(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u64 discard = insn.operand_count > 0 ? insn.immediate & 0xffff : 0;
    if (!protected_mode(cpu) || v8086(cpu))
        return return_real(context, insn, discard, fault);
    FarStack stack = current_stack(cpu);
    Return r{};
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, r.rip, fault));
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, r.selector, fault));
    RHEA_T0_TRY(check_return_code(context, r, fault));
    if (!r.outer) {
        enter(cpu, r, false);
        set_stack_pointer(cpu, stack.segment, stack.wide, stack.pointer + discard);
        update_mode(cpu);
        return Outcome::ok;
    }
    stack.pointer = (stack.pointer & ~stack.mask) | ((stack.pointer + discard) & stack.mask);
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, r.rsp, fault));
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, r.stack_selector, fault));
    RHEA_T0_TRY(check_return_stack(context, r, fault));
    enter(cpu, r, true);
    set_stack_pointer(cpu, r.stack, mode_64(cpu), r.rsp + discard);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome return_from_interrupt(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!protected_mode(cpu) || v8086(cpu))
        RHEA_T0_TRY(iret_real(context, insn, fault));
    else
        RHEA_T0_TRY(iret_protected(context, insn, fault));
    cpu.nmi_blocked = false;
    update_mode(cpu);
    return Outcome::ok;
}

} // namespace rhea::dbt::x86
