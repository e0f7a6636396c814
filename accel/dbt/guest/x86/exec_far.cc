// Far jumps and calls, software interrupts, and the fast system calls. SDM volume 2; 5.8 of volume
// 3; AMD64 manual volume 2, 6.1 (SYSCALL).
//
// Jumps and calls through task gates and to TSS descriptors (the hardware task switch) are not
// implemented: #GP with the selector.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

bool real_or_v8086(const Cpu &cpu) {
    return !protected_mode(cpu) || v8086(cpu);
}

// Where a far transfer goes once descriptors have been checked.
struct FarTarget {
    Descriptor descriptor;
    Segment code;
    u16 selector; // RPL is the new CPL
    u64 offset;
};

void enter(Cpu &cpu, const FarTarget &target) {
    cpu.seg[cs] = target.code;
    cpu.seg[cs].selector = target.selector;
    cpu.seg[cs].attributes |= Segment::accessed;
    cpu.rip = target.offset;
}

// A code segment named directly: privilege does not change.
Outcome check_direct(Context &context, u16 selector, u64 offset, FarTarget &target, Fault &fault) {
    const Cpu &cpu = context.cpu;
    const Descriptor &d = target.descriptor;
    const bool allowed =
        d.conforming() ? d.dpl() <= cpu.cpl : (selector & 3u) <= cpu.cpl && d.dpl() == cpu.cpl;
    if (!allowed || (long_mode_active(cpu) && d.long_code() && d.big()))
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    target.code = segment_of(d, selector);
    target.selector = u16((selector & ~3u) | cpu.cpl);
    target.offset = offset;
    if (!valid_target(cpu, target.code, offset))
        return raise(fault, vector::gp, 0);
    return mark_descriptor(context, d, Segment::accessed, fault);
}

// What a call gate leads to. `level` is the CPL there: inner only for calls.
struct GateTarget {
    FarTarget far;
    unsigned level, size, parameters;
};

Outcome read_call_gate(Context &context, u16 gate_selector, const Descriptor &gate, bool call,
                       GateTarget &out, Fault &fault) {
    const Cpu &cpu = context.cpu;
    if (gate.dpl() < cpu.cpl || gate.dpl() < (gate_selector & 3u))
        return raise(fault, vector::gp, selector_error(gate_selector));
    if (!gate.present())
        return raise(fault, vector::np, selector_error(gate_selector));
    const bool wide = long_mode_active(cpu), narrow = gate.type() == system_type::call_gate16;
    const u16 selector = gate.gate_selector();
    Descriptor &d = out.far.descriptor;
    RHEA_T0_TRY(read_code_descriptor(context, selector, 0, d, fault));
    const bool same_level = d.dpl() == cpu.cpl;
    const bool allowed = call || d.conforming() ? d.dpl() <= cpu.cpl : same_level;
    if (!allowed || (wide && !d.long_code()))
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    out.level = d.conforming() ? cpu.cpl : d.dpl();
    out.size = wide ? 8 : narrow ? 2 : 4;
    out.parameters = wide ? 0 : unsigned(gate.low >> 32) & 31;
    out.far.code = segment_of(d, selector);
    out.far.selector = u16((selector & ~3u) | out.level);
    out.far.offset = narrow ? gate.low & 0xffff : gate.gate_offset();
    if (!valid_target(cpu, out.far.code, out.far.offset))
        return raise(fault, vector::gp, 0);
    return mark_descriptor(context, d, Segment::accessed, fault);
}

// A system descriptor as the target: only call gates are left after this.
Outcome require_call_gate(Context &context, u16 selector, Descriptor &d, Fault &fault) {
    const bool wide = long_mode_active(context.cpu);
    if (d.type() != system_type::call_gate32 && (wide || d.type() != system_type::call_gate16))
        return raise(fault, vector::gp, selector_error(selector));
    return wide ? read_wide_descriptor(context, selector, vector::gp, 0, d, fault) : Outcome::ok;
}

Outcome jump_far(Context &context, u16 selector, u64 offset, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (real_or_v8086(cpu)) {
        if (offset > cpu.seg[cs].limit)
            return raise(fault, vector::gp, 0);
        load_real_segment(cpu, cs, selector);
        cpu.rip = offset;
        update_mode(cpu);
        return Outcome::ok;
    }
    if (null_selector(selector))
        return raise(fault, vector::gp, 0);
    FarTarget target;
    Descriptor &d = target.descriptor;
    RHEA_T0_TRY(read_descriptor(context, selector, vector::gp, 0, d, fault));
    if (d.system()) {
        RHEA_T0_TRY(require_call_gate(context, selector, d, fault));
        GateTarget gate;
        RHEA_T0_TRY(read_call_gate(context, selector, d, false, gate, fault));
        enter(cpu, gate.far);
        update_mode(cpu);
        return Outcome::ok;
    }
    if (!d.code())
        return raise(fault, vector::gp, selector_error(selector));
    RHEA_T0_TRY(check_direct(context, selector, offset, target, fault));
    enter(cpu, target);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome push_return(Context &context, FarStack &stack, unsigned size, Fault &fault) {
    const Cpu &cpu = context.cpu;
    RHEA_T0_TRY(push(context, stack, size, cpu.seg[cs].selector, fault));
    return push(context, stack, size, cpu.rip, fault);
}

// Through a gate to an inner level: new stack from the TSS, parameters copied.
Outcome call_inner(Context &context, const GateTarget &gate, Fault &fault) {
    Cpu &cpu = context.cpu;
    Segment inner;
    u64 pointer;
    FarStack stack;
    if (gate.size == 8) {
        RHEA_T0_TRY(tss_stack_64(context, gate.level, 0, pointer, fault));
        inner = null_segment(u16(gate.level), gate.level);
        stack = wide_stack(inner, pointer, Privilege::supervisor, 0);
    } else {
        RHEA_T0_TRY(tss_stack(context, gate.level, 0, inner, pointer, fault));
        stack = inner_stack(inner, pointer, selector_error(inner.selector));
    }
    FarStack outer = current_stack(cpu);
    u64 parameters[31];
    for (unsigned i = 0; i < gate.parameters; ++i)
        RHEA_T0_TRY(pop(context, outer, gate.size, parameters[i], fault));
    RHEA_T0_TRY(push(context, stack, gate.size, cpu.seg[ss].selector, fault));
    RHEA_T0_TRY(push(context, stack, gate.size, cpu.gpr[rsp], fault));
    for (unsigned i = gate.parameters; i-- > 0;)
        RHEA_T0_TRY(push(context, stack, gate.size, parameters[i], fault));
    RHEA_T0_TRY(push_return(context, stack, gate.size, fault));
    enter(cpu, gate.far);
    cpu.seg[ss] = inner;
    cpu.gpr[rsp] = stack_pointer(stack);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome call_far(Context &context, u16 selector, u64 offset, unsigned size, Fault &fault) {
    Cpu &cpu = context.cpu;
    FarStack stack = current_stack(cpu);
    if (real_or_v8086(cpu)) {
        if (offset > cpu.seg[cs].limit)
            return raise(fault, vector::gp, 0);
        RHEA_T0_TRY(push_return(context, stack, size, fault));
        cpu.gpr[rsp] = stack_pointer(stack);
        load_real_segment(cpu, cs, selector);
        cpu.rip = offset;
        update_mode(cpu);
        return Outcome::ok;
    }
    if (null_selector(selector))
        return raise(fault, vector::gp, 0);
    FarTarget target;
    Descriptor &d = target.descriptor;
    RHEA_T0_TRY(read_descriptor(context, selector, vector::gp, 0, d, fault));
    if (d.system()) {
        RHEA_T0_TRY(require_call_gate(context, selector, d, fault));
        GateTarget gate;
        RHEA_T0_TRY(read_call_gate(context, selector, d, true, gate, fault));
        if (gate.level != cpu.cpl)
            return call_inner(context, gate, fault);
        if (gate.size == 8) // the frame is a 64-bit one even from compatibility mode
            stack = wide_stack(cpu.seg[ss], cpu.gpr[rsp], Privilege::current, 0);
        target = gate.far;
        size = gate.size;
    } else {
        if (!d.code())
            return raise(fault, vector::gp, selector_error(selector));
        RHEA_T0_TRY(check_direct(context, selector, offset, target, fault));
    }
    RHEA_T0_TRY(push_return(context, stack, size, fault));
    enter(cpu, target);
    cpu.gpr[rsp] = stack_pointer(stack);
    update_mode(cpu);
    return Outcome::ok;
}

// selector:offset in memory, offset first.
Outcome read_far_pointer(Context &context, const Insn &insn, u16 &selector, u64 &offset,
                         Fault &fault) {
    u8 pointer[10] = {};
    const unsigned size = insn.operand_size;
    RHEA_T0_TRY(read_segmented(context, insn.segment, effective_offset(context.cpu, insn), pointer,
                               size + 2, fault));
    offset = 0;
    for (unsigned i = size; i-- > 0;)
        offset = offset << 8 | pointer[i];
    selector = u16(pointer[size] | pointer[size + 1] << 8);
    return Outcome::ok;
}

Outcome jmp_far_direct(Context &context, const Insn &insn, Fault &fault) noexcept {
    return jump_far(context, insn.selector, insn.immediate & size_mask(insn.operand_size), fault);
}
Outcome jmp_far_indirect(Context &context, const Insn &insn, Fault &fault) noexcept {
    u16 selector;
    u64 offset;
    RHEA_T0_TRY(read_far_pointer(context, insn, selector, offset, fault));
    return jump_far(context, selector, offset, fault);
}
Outcome call_far_direct(Context &context, const Insn &insn, Fault &fault) noexcept {
    return call_far(context, insn.selector, insn.immediate & size_mask(insn.operand_size),
                    insn.operand_size, fault);
}
Outcome call_far_indirect(Context &context, const Insn &insn, Fault &fault) noexcept {
    u16 selector;
    u64 offset;
    RHEA_T0_TRY(read_far_pointer(context, insn, selector, offset, fault));
    return call_far(context, selector, offset, insn.operand_size, fault);
}

Outcome int_n(Context &context, const Insn &insn, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    if (v8086(cpu) && (cpu.rflags & flag::iopl) != flag::iopl)
        return raise(fault, vector::gp, 0);
    return deliver_event(context, {u8(insn.immediate), false, true, false, 0}, fault);
}
Outcome int_3(Context &context, const Insn &, Fault &fault) noexcept {
    return deliver_event(context, {vector::bp, false, true, false, 0}, fault);
}
Outcome int_o(Context &context, const Insn &, Fault &fault) noexcept {
    if (!(context.cpu.rflags & flag::of))
        return Outcome::ok;
    return deliver_event(context, {vector::of, false, true, false, 0}, fault);
}
// INT1 acts as the hardware does: no check of the gate's DPL.
Outcome int_1(Context &context, const Insn &, Fault &fault) noexcept {
    return deliver_event(context, {vector::db, false, false, false, 0}, fault);
}

// The flat segments that SYSCALL and its kin load without looking at a table.
Segment fixed_code(u16 selector, bool wide, unsigned level) {
    const u16 size = wide ? Segment::long_mode : Segment::big;
    return {0, 0xffff'ffff, selector,
            u16(Segment::granular | size | Segment::present | level << 5 | Segment::user |
                Segment::code | Segment::readable | Segment::accessed)};
}
Segment fixed_stack(u16 selector, unsigned level) {
    return {0, 0xffff'ffff, selector,
            u16(Segment::granular | Segment::big | Segment::present | level << 5 | Segment::user |
                Segment::writable | Segment::accessed)};
}

Outcome syscall(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!(cpu.efer & efer::sce) || !protected_mode(cpu))
        return raise(fault, vector::ud);
    const u16 selector = u16(cpu.star >> 32 & 0xfffc);
    const bool wide = long_mode_active(cpu);
    if (wide) {
        cpu.gpr[rcx] = cpu.rip;
        cpu.gpr[r11] = cpu.rflags & ~u64{flag::rf};
        cpu.rip = mode_64(cpu) ? cpu.lstar : cpu.cstar;
        cpu.rflags &= ~(cpu.sfmask & 0xffff'ffff);
    } else {
        cpu.gpr[rcx] = u32(cpu.rip);
        cpu.rip = u32(cpu.star);
        cpu.rflags &= ~u64{flag::if_ | flag::vm};
    }
    cpu.rflags = (cpu.rflags & ~u64{flag::rf | flag::vm}) | flag::always_one;
    cpu.seg[cs] = fixed_code(selector, wide, 0);
    cpu.seg[ss] = fixed_stack(u16(selector + 8), 0);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome sysret(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!(cpu.efer & efer::sce) || !protected_mode(cpu))
        return raise(fault, vector::ud);
    const bool wide = insn.operand_size == 8;
    if (cpu.cpl != 0 || v8086(cpu) || (wide && !canonical(cpu.gpr[rcx])))
        return raise(fault, vector::gp, 0);
    const u16 base = u16(cpu.star >> 48);
    cpu.rip = wide ? cpu.gpr[rcx] : u32(cpu.gpr[rcx]);
    if (long_mode_active(cpu))
        cpu.rflags = (cpu.gpr[r11] & 0x3c'7fd7) | flag::always_one;
    else
        cpu.rflags |= flag::if_;
    cpu.seg[cs] = fixed_code(u16((wide ? base + 16 : base) | 3), wide, 3);
    cpu.seg[ss] = fixed_stack(u16((base + 8) | 3), 3);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome sysenter(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u16 selector = u16(cpu.sysenter_cs & 0xfffc);
    if (!protected_mode(cpu) || selector == 0)
        return raise(fault, vector::gp, 0);
    const bool wide = long_mode_active(cpu);
    cpu.rflags &= ~u64{flag::vm | flag::if_ | flag::rf};
    cpu.gpr[rsp] = wide ? cpu.sysenter_esp : u32(cpu.sysenter_esp);
    cpu.rip = wide ? cpu.sysenter_eip : u32(cpu.sysenter_eip);
    cpu.seg[cs] = fixed_code(selector, wide, 0);
    cpu.seg[ss] = fixed_stack(u16(selector + 8), 0);
    update_mode(cpu);
    return Outcome::ok;
}

Outcome sysexit(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u16 base = u16(cpu.sysenter_cs & 0xfffc);
    const bool wide = insn.operand_size == 8;
    if (!protected_mode(cpu) || cpu.cpl != 0 || base == 0 ||
        (wide && (!canonical(cpu.gpr[rcx]) || !canonical(cpu.gpr[rdx]))))
        return raise(fault, vector::gp, 0);
    cpu.gpr[rsp] = wide ? cpu.gpr[rcx] : u32(cpu.gpr[rcx]);
    cpu.rip = wide ? cpu.gpr[rdx] : u32(cpu.gpr[rdx]);
    const u16 code = u16((base + (wide ? 32 : 16)) | 3);
    cpu.seg[cs] = fixed_code(code, wide, 3);
    cpu.seg[ss] = fixed_stack(u16(code + 8), 3);
    update_mode(cpu);
    return Outcome::ok;
}

} // namespace

// In exec_return.cc.
Outcome return_far(Context &context, const Insn &insn, Fault &fault) noexcept;
Outcome return_from_interrupt(Context &context, const Insn &insn, Fault &fault) noexcept;

namespace {

constexpr ExecutorEntry entries[] = {
    {Op::jmp_far, jmp_far_direct},
    {Op::jmp_far_indirect, jmp_far_indirect},
    {Op::call_far, call_far_direct},
    {Op::call_far_indirect, call_far_indirect},
    {Op::ret_far, return_far},
    {Op::iret, return_from_interrupt},
    {Op::int_, int_n},
    {Op::int3, int_3},
    {Op::int1, int_1},
    {Op::into, int_o},
    {Op::syscall, syscall},
    {Op::sysret, sysret},
    {Op::sysenter, sysenter},
    {Op::sysexit, sysexit},
};

} // namespace

ExecutorGroup far_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
