// Exceptions and interrupts: through the IVT in real mode, the IDT elsewhere. SDM volume 3, chapter
// 6; 20.1.4 (real mode), 20.2 and 20.3 (v8086), 6.14 (64-bit mode).
//
// Task gates and the hardware task switch are not implemented: an event that arrives at a task gate
// becomes #GP with the gate's index, as if the gate had a type that CPUs do not know.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/flags.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

// Exceptions that report the instruction before it has run: their frame has RF set, so that an
// instruction breakpoint on the restarted instruction does not fire again (SDM volume 3, 17.3.1.1).
bool sets_resume_flag(const Event &event) {
    if (event.software || event.interrupt)
        return false;
    switch (event.vector) {
    case vector::de:
    case vector::br:
    case vector::ud:
    case vector::nm:
    case vector::ts:
    case vector::np:
    case vector::ss:
    case vector::gp:
    case vector::pf:
    case vector::mf:
    case vector::ac:
    case vector::xm: return true;
    default: return false;
    }
}

struct Delivery {
    Context &context;
    const Event &event;
    Fault &fault;
    u32 ext;         // EXT bit of error codes
    u64 flags_image; // what is pushed

    Outcome bad_gate(u8 vector_number) const {
        return raise(fault, vector_number, u32{event.vector} * 8 + 2 + ext);
    }
};

Outcome deliver_real(Delivery &d) {
    Cpu &cpu = d.context.cpu;
    const u32 at = u32{d.event.vector} * 4;
    if (at + 3 > cpu.idt.limit)
        return d.bad_gate(vector::gp);
    u32 pointer = 0;
    RHEA_T0_TRY(
        read_memory(d.context, cpu.idt.base + at, &pointer, 4, Privilege::supervisor, d.fault));
    FarStack stack = current_stack(cpu);
    RHEA_T0_TRY(push(d.context, stack, 2, d.flags_image, d.fault));
    RHEA_T0_TRY(push(d.context, stack, 2, cpu.seg[cs].selector, d.fault));
    RHEA_T0_TRY(push(d.context, stack, 2, cpu.rip, d.fault));
    cpu.gpr[rsp] = stack_pointer(stack);
    load_real_segment(cpu, cs, u16(pointer >> 16));
    cpu.rip = pointer & 0xffff;
    cpu.rflags &= ~u64{flag::if_ | flag::tf | flag::ac | flag::rf};
    return Outcome::ok;
}

// The gate's descriptor and target, checked as far as they do not depend on the stack.
struct Target {
    Descriptor gate, code_descriptor;
    Segment code;
    u64 offset;
    unsigned level; // CPL of the handler
    bool interrupt_gate;
    unsigned size; // of the frame's slots
};

Outcome read_gate(Delivery &d, Target &target) {
    const Cpu &cpu = d.context.cpu;
    const bool wide = long_mode_active(cpu);
    const u32 entry = wide ? 16 : 8, at = u32{d.event.vector} * entry;
    if (at + entry - 1 > cpu.idt.limit)
        return d.bad_gate(vector::gp);
    Descriptor &gate = target.gate;
    gate.address = cpu.idt.base + at;
    gate.high = 0;
    RHEA_T0_TRY(read_memory(d.context, gate.address, &gate.low, 8, Privilege::supervisor, d.fault));
    if (wide)
        RHEA_T0_TRY(read_memory(d.context, gate.address + 8, &gate.high, 8, Privilege::supervisor,
                                d.fault));
    using namespace system_type;
    const unsigned type = gate.type();
    const bool narrow = type == interrupt_gate16 || type == trap_gate16;
    const bool normal = type == interrupt_gate32 || type == trap_gate32;
    if (!gate.system() || !(normal || (narrow && !wide)))
        return d.bad_gate(vector::gp);
    if (d.event.software && gate.dpl() < cpu.cpl)
        return raise(d.fault, vector::gp, u32{d.event.vector} * 8 + 2);
    if (!gate.present())
        return d.bad_gate(vector::np);
    target.interrupt_gate = type == interrupt_gate16 || type == interrupt_gate32;
    target.size = wide ? 8 : narrow ? 2 : 4;
    target.offset = narrow ? gate.low & 0xffff : gate.gate_offset();
    return Outcome::ok;
}

Outcome read_handler(Delivery &d, Target &target) {
    const Cpu &cpu = d.context.cpu;
    const u16 selector = target.gate.gate_selector();
    Descriptor &code = target.code_descriptor;
    RHEA_T0_TRY(read_code_descriptor(d.context, selector, d.ext, code, d.fault));
    const bool wrong_size = long_mode_active(cpu) && !code.long_code();
    if (code.dpl() > cpu.cpl || wrong_size)
        return raise(d.fault, vector::gp, selector_error(selector, d.ext));
    if (!code.present())
        return raise(d.fault, vector::np, selector_error(selector, d.ext));
    target.level = code.conforming() ? cpu.cpl : code.dpl();
    if (v8086(cpu) && target.level != 0)
        return raise(d.fault, vector::gp, selector_error(selector, d.ext));
    target.code = segment_of(code, selector);
    if (!valid_target(cpu, target.code, target.offset))
        return raise(d.fault, vector::gp, d.ext);
    return Outcome::ok;
}

// The registers, once nothing can fault any more.
void enter_handler(Delivery &d, const Target &target, const FarStack &stack) {
    Cpu &cpu = d.context.cpu;
    cpu.seg[cs] = target.code;
    cpu.seg[cs].selector = u16((target.code.selector & ~3u) | target.level);
    cpu.seg[cs].attributes |= Segment::accessed;
    cpu.rip = target.offset;
    cpu.gpr[rsp] = stack_pointer(stack);
    cpu.rflags &= ~u64{flag::tf | flag::vm | flag::rf | flag::nt};
    if (target.interrupt_gate)
        cpu.rflags &= ~u64{flag::if_};
}

Outcome push_frame(Delivery &d, const Target &target, FarStack &stack, bool with_stack,
                   u64 old_rsp) {
    Cpu &cpu = d.context.cpu;
    const unsigned size = target.size;
    if (with_stack) {
        RHEA_T0_TRY(push(d.context, stack, size, cpu.seg[ss].selector, d.fault));
        RHEA_T0_TRY(push(d.context, stack, size, old_rsp, d.fault));
    }
    RHEA_T0_TRY(push(d.context, stack, size, d.flags_image, d.fault));
    RHEA_T0_TRY(push(d.context, stack, size, cpu.seg[cs].selector, d.fault));
    RHEA_T0_TRY(push(d.context, stack, size, cpu.rip, d.fault));
    if (d.event.has_error_code)
        RHEA_T0_TRY(push(d.context, stack, size, d.event.error_code, d.fault));
    return mark_descriptor(d.context, target.code_descriptor, Segment::accessed, d.fault);
}

Outcome deliver_protected(Delivery &d) {
    Cpu &cpu = d.context.cpu;
    Target target;
    RHEA_T0_TRY(read_gate(d, target));
    RHEA_T0_TRY(read_handler(d, target));
    if (target.level == cpu.cpl) {
        FarStack stack = current_stack(cpu);
        stack.error_code = d.ext;
        RHEA_T0_TRY(push_frame(d, target, stack, false, 0));
        enter_handler(d, target, stack);
        return Outcome::ok;
    }
    Segment inner;
    u64 pointer;
    RHEA_T0_TRY(tss_stack(d.context, target.level, d.ext, inner, pointer, d.fault));
    FarStack stack = inner_stack(inner, pointer, selector_error(inner.selector, d.ext));
    const bool from_v8086 = v8086(cpu);
    if (from_v8086)
        for (const SegmentName name : {gs, fs, ds, es})
            RHEA_T0_TRY(push(d.context, stack, target.size, cpu.seg[name].selector, d.fault));
    RHEA_T0_TRY(push_frame(d, target, stack, true, cpu.gpr[rsp]));
    enter_handler(d, target, stack);
    cpu.seg[ss] = inner;
    if (from_v8086)
        for (const SegmentName name : {gs, fs, ds, es})
            cpu.seg[name] = null_segment(0);
    return Outcome::ok;
}

Outcome deliver_long(Delivery &d) {
    Cpu &cpu = d.context.cpu;
    Target target;
    RHEA_T0_TRY(read_gate(d, target));
    RHEA_T0_TRY(read_handler(d, target));
    const unsigned interrupt_stack = unsigned(target.gate.low >> 32) & 7;
    const bool inner = target.level != cpu.cpl;
    u64 pointer = cpu.gpr[rsp];
    if (interrupt_stack != 0)
        RHEA_T0_TRY(tss_stack_64(d.context, 3 + interrupt_stack, d.ext, pointer, d.fault));
    else if (inner)
        RHEA_T0_TRY(tss_stack_64(d.context, target.level, d.ext, pointer, d.fault));
    const u64 old_rsp = cpu.gpr[rsp];
    FarStack stack =
        wide_stack(cpu.seg[ss], pointer & ~u64{15},
                   target.level == 3 ? Privilege::current : Privilege::supervisor, d.ext);
    RHEA_T0_TRY(push_frame(d, target, stack, true, old_rsp));
    enter_handler(d, target, stack);
    if (inner)
        cpu.seg[ss] = null_segment(u16(target.level), target.level);
    return Outcome::ok;
}

enum class Class : u8 { benign, contributory, page_fault };
Class class_of(u8 number) {
    switch (number) {
    case vector::de:
    case vector::ts:
    case vector::np:
    case vector::ss:
    case vector::gp: return Class::contributory;
    case vector::pf: return Class::page_fault;
    default: return Class::benign;
    }
}

// SDM volume 3, table 6-5: an exception while `first` was being delivered is handled after it, or
// both become #DF.
bool makes_double_fault(u8 first, u8 second) {
    const Class a = class_of(first), b = class_of(second);
    return (a == Class::contributory && b == Class::contributory) ||
           (a == Class::page_fault && b != Class::benign);
}

Step shut_down(Cpu &cpu) {
    cpu.exit = {};
    cpu.exit.kind = ExitKind::shutdown;
    return Step::exit;
}

Step deliver_all(Context &context, Event event) {
    Cpu &cpu = context.cpu;
    materialise_flags(cpu);
    for (;;) {
        Fault fault{};
        switch (deliver_event(context, event, fault)) {
        case Outcome::ok: cpu.halted = false; return Step::done;
        case Outcome::exit: return Step::exit;
        case Outcome::fault: break;
        }
        if (fault.vector == vector::pf)
            cpu.cr2 = fault.address;
        // An interrupt's vector is no exception's, however low it is.
        if (!event.interrupt && event.vector == vector::df &&
            class_of(fault.vector) != Class::benign)
            return shut_down(cpu);
        if (!event.interrupt && makes_double_fault(event.vector, fault.vector))
            event = {vector::df, true, false, false, 0};
        else
            event = {fault.vector, fault.has_error_code, false, false, fault.error_code};
    }
}

// An interrupt whose delivery leaves for I/O is remembered: its vector has been taken from the
// controller.
Step deliver_external(Context &context, u8 number) {
    Cpu &cpu = context.cpu;
    cpu.io.cursor = 0;
    cpu.pending = {number, true, false, false, 0};
    const Step step = deliver_all(context, {number, false, false, true, 0});
    if (step == Step::exit)
        return step;
    cpu.pending.valid = false;
    cpu.io.served = cpu.io.cursor = 0;
    return step;
}

} // namespace

Outcome deliver_event(Context &context, const Event &event, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u64 image = sets_resume_flag(event) ? cpu.rflags | flag::rf : cpu.rflags;
    Delivery d{context, event, fault, event.software ? 0u : 1u, image};
    if (!protected_mode(cpu))
        RHEA_T0_TRY(deliver_real(d));
    else if (long_mode_active(cpu))
        RHEA_T0_TRY(deliver_long(d));
    else
        RHEA_T0_TRY(deliver_protected(d));
    if (event.vector == vector::db && !event.software && !event.interrupt)
        cpu.dr[7] &= ~u64{1 << 13}; // GD
    cpu.interrupt_shadow = false;
    update_mode(cpu);
    return Outcome::ok;
}

Step deliver_exception(Context &context, u8 number, bool has_error_code, u32 error_code) noexcept {
    return deliver_all(context, {number, has_error_code, false, false, error_code});
}

Step deliver_interrupt(Context &context, u8 number) noexcept {
    return deliver_external(context, number);
}

Step deliver_nmi(Context &context) noexcept {
    const Step step = deliver_external(context, vector::nmi);
    context.cpu.nmi_blocked = true; // until IRET
    return step;
}

Step resume_delivery(Context &context) noexcept {
    return deliver_external(context, context.cpu.pending.vector);
}

bool interrupts_enabled(const Cpu &cpu) noexcept {
    return (cpu.rflags & flag::if_) && !cpu.interrupt_shadow && cpu.io.served == 0 &&
           !cpu.pending.valid && !cpu.single_step_pending;
}

} // namespace rhea::dbt::x86
