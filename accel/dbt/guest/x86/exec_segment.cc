// Instructions that load, store and inspect segment and descriptor-table registers. SDM volume 2;
// checks in volume 3, chapter 5.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

bool plain_protected(const Cpu &cpu) {
    return protected_mode(cpu) && !v8086(cpu);
}

SegmentName segment_operand(const Insn &insn, unsigned n) {
    return SegmentName(insn.operand[n].index < segment_count ? insn.operand[n].index : u8(ds));
}

// MOV SS and POP SS hold off interrupts for one instruction (SDM volume 3, 6.8.3).
void shadow_after(Cpu &cpu, SegmentName name) {
    if (name == ss)
        cpu.interrupt_shadow = true;
}

Outcome mov_from_seg(Context &context, const Insn &insn, Fault &fault) noexcept {
    return write_operand(context, insn, 0, context.cpu.seg[segment_operand(insn, 1)].selector,
                         fault);
}

Outcome mov_to_seg(Context &context, const Insn &insn, Fault &fault) noexcept {
    const SegmentName name = segment_operand(insn, 0);
    if (name == cs)
        return raise(fault, vector::ud);
    u64 selector;
    RHEA_T0_TRY(read_operand(context, insn, 1, selector, fault));
    RHEA_T0_TRY(load_segment(context, name, u16(selector), fault));
    shadow_after(context.cpu, name);
    return Outcome::ok;
}

Outcome push_seg(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    StackCursor stack = stack_cursor(cpu);
    RHEA_T0_TRY(
        push(context, stack, insn.operand_size, cpu.seg[segment_operand(insn, 0)].selector, fault));
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome pop_seg(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const SegmentName name = segment_operand(insn, 0);
    StackCursor stack = stack_cursor(cpu);
    u64 selector;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, selector, fault));
    RHEA_T0_TRY(load_segment(context, name, u16(selector), fault));
    commit(cpu, stack); // with the stack size that the pop was made with
    shadow_after(cpu, name);
    return Outcome::ok;
}

// LES, LDS, LSS, LFS, LGS.
Outcome load_far(Context &context, const Insn &insn, Fault &fault) noexcept {
    SegmentName name = es;
    switch (insn.opcode) {
    case 0xc4: name = es; break;
    case 0xc5: name = ds; break;
    case 0xb2: name = ss; break;
    case 0xb4: name = fs; break;
    default: name = gs; break;
    }
    u8 pointer[10] = {};
    const u64 at = effective_offset(context.cpu, insn);
    RHEA_T0_TRY(read_segmented(context, insn.segment, at, pointer, insn.operand_size + 2u, fault));
    const u16 selector = u16(pointer[insn.operand_size] | pointer[insn.operand_size + 1] << 8);
    u64 offset = 0;
    for (unsigned i = insn.operand_size; i-- > 0;)
        offset = offset << 8 | pointer[i];
    RHEA_T0_TRY(load_segment(context, name, selector, fault));
    write_gpr(context.cpu, insn.operand[0], offset);
    return Outcome::ok;
}

// LGDT and LIDT take a 24-bit base with 16-bit operands.
Outcome load_table(Context &context, const Insn &insn, TableRegister &table, Fault &fault) {
    const Cpu &cpu = context.cpu;
    if (cpu.cpl != 0)
        return raise(fault, vector::gp, 0);
    const bool wide = mode_64(cpu);
    u8 image[10] = {};
    RHEA_T0_TRY(read_segmented(context, insn.segment, effective_offset(cpu, insn), image,
                               wide ? 10 : 6, fault));
    u64 base = 0;
    const unsigned size = wide ? 8 : insn.operand_size == 2 ? 3 : 4;
    for (unsigned i = size; i-- > 0;)
        base = base << 8 | image[2 + i];
    if (wide && !canonical(base))
        return raise(fault, vector::gp, 0);
    table = {base, u32(image[0] | image[1] << 8), 0};
    return Outcome::ok;
}
Outcome lgdt(Context &context, const Insn &insn, Fault &fault) noexcept {
    return load_table(context, insn, context.cpu.gdt, fault);
}
Outcome lidt(Context &context, const Insn &insn, Fault &fault) noexcept {
    return load_table(context, insn, context.cpu.idt, fault);
}

bool user_mode_instruction_prevented(const Cpu &cpu) {
    return (cpu.cr4 & cr4::umip) && cpu.cpl != 0;
}

Outcome store_table(Context &context, const Insn &insn, const TableRegister &table, Fault &fault) {
    const Cpu &cpu = context.cpu;
    if (user_mode_instruction_prevented(cpu))
        return raise(fault, vector::gp, 0);
    u8 image[10];
    image[0] = u8(table.limit);
    image[1] = u8(table.limit >> 8);
    for (unsigned i = 0; i < 8; ++i)
        image[2 + i] = u8(table.base >> (8 * i));
    return write_segmented(context, insn.segment, effective_offset(cpu, insn), image,
                           mode_64(cpu) ? 10 : 6, fault);
}
Outcome sgdt(Context &context, const Insn &insn, Fault &fault) noexcept {
    return store_table(context, insn, context.cpu.gdt, fault);
}
Outcome sidt(Context &context, const Insn &insn, Fault &fault) noexcept {
    return store_table(context, insn, context.cpu.idt, fault);
}

// LLDT and LTR: descriptors of 16 bytes in long mode.
Outcome system_segment(Context &context, u16 selector, Descriptor &d, Fault &fault) {
    if (long_mode_active(context.cpu))
        return read_wide_descriptor(context, selector, vector::gp, 0, d, fault);
    return read_descriptor(context, selector, vector::gp, 0, d, fault);
}

Outcome lldt(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!plain_protected(cpu))
        return raise(fault, vector::ud);
    if (cpu.cpl != 0)
        return raise(fault, vector::gp, 0);
    u64 value;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    const u16 selector = u16(value);
    if (null_selector(selector)) {
        cpu.ldt = null_segment(selector);
        return Outcome::ok;
    }
    if (selector & 4)
        return raise(fault, vector::gp, selector_error(selector));
    Descriptor d;
    RHEA_T0_TRY(system_segment(context, selector, d, fault));
    if (!d.system() || d.type() != system_type::ldt)
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    cpu.ldt = segment_of(d, selector);
    return Outcome::ok;
}

Outcome ltr(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!plain_protected(cpu))
        return raise(fault, vector::ud);
    if (cpu.cpl != 0)
        return raise(fault, vector::gp, 0);
    u64 value;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    const u16 selector = u16(value);
    if (null_selector(selector))
        return raise(fault, vector::gp, 0);
    if (selector & 4)
        return raise(fault, vector::gp, selector_error(selector));
    Descriptor d;
    RHEA_T0_TRY(system_segment(context, selector, d, fault));
    const bool available = d.type() == system_type::tss32 ||
                           (d.type() == system_type::tss16 && !long_mode_active(cpu));
    if (!d.system() || !available)
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    RHEA_T0_TRY(mark_descriptor(context, d, 2, fault)); // busy
    cpu.tr = segment_of(d, selector);
    cpu.tr.attributes |= 2;
    return Outcome::ok;
}

Outcome store_selector(Context &context, const Insn &insn, u16 selector, Fault &fault) {
    if (!plain_protected(context.cpu))
        return raise(fault, vector::ud);
    if (user_mode_instruction_prevented(context.cpu))
        return raise(fault, vector::gp, 0);
    return write_operand(context, insn, 0, selector, fault);
}
Outcome sldt(Context &context, const Insn &insn, Fault &fault) noexcept {
    return store_selector(context, insn, context.cpu.ldt.selector, fault);
}
Outcome str(Context &context, const Insn &insn, Fault &fault) noexcept {
    return store_selector(context, insn, context.cpu.tr.selector, fault);
}

// Looks at a descriptor on behalf of LAR, LSL, VERR, VERW: anything wrong with the selector is an
// answer and no fault. Page faults on the tables remain faults.
Outcome inspect(Context &context, u16 selector, Descriptor &d, bool &found, Fault &fault) {
    found = false;
    if (null_selector(selector))
        return Outcome::ok;
    const Outcome outcome = read_descriptor(context, selector, vector::gp, 0, d, fault);
    if (outcome == Outcome::fault && fault.vector == vector::gp)
        return Outcome::ok;
    if (outcome != Outcome::ok)
        return outcome;
    if (d.system() && long_mode_active(context.cpu) && d.type() != system_type::task_gate) {
        const Outcome wide = read_wide_descriptor(context, selector, vector::gp, 0, d, fault);
        if (wide == Outcome::fault && fault.vector == vector::gp)
            return Outcome::ok;
        if (wide != Outcome::ok)
            return wide;
    }
    found = true;
    return Outcome::ok;
}

bool visible(const Cpu &cpu, const Descriptor &d, u16 selector) {
    if (d.code() && d.conforming())
        return true;
    return d.dpl() >= cpu.cpl && d.dpl() >= (selector & 3u);
}

void set_zero_flag(Cpu &cpu, bool value) {
    cpu.rflags = value ? cpu.rflags | flag::zf : cpu.rflags & ~u64{flag::zf};
}

// System descriptor types that LAR (and of these, LSL) know; SDM volume 2, tables 3-51 and 3-63.
bool lar_type(const Cpu &cpu, unsigned type) {
    using namespace system_type;
    if (long_mode_active(cpu))
        return type == ldt || type == tss32 || type == tss32_busy || type == call_gate32;
    return type == tss16 || type == ldt || type == tss16_busy || type == call_gate16 ||
           type == task_gate || type == tss32 || type == tss32_busy || type == call_gate32;
}
bool lsl_type(const Cpu &cpu, unsigned type) {
    using namespace system_type;
    return lar_type(cpu, type) && type != call_gate16 && type != call_gate32 && type != task_gate;
}

Outcome lar_or_lsl(Context &context, const Insn &insn, bool limit, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (!plain_protected(cpu))
        return raise(fault, vector::ud);
    u64 value;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    const u16 selector = u16(value);
    Descriptor d;
    bool found;
    RHEA_T0_TRY(inspect(context, selector, d, found, fault));
    if (found)
        found = visible(cpu, d, selector) &&
                (!d.system() || (limit ? lsl_type(cpu, d.type()) : lar_type(cpu, d.type())));
    if (found)
        write_gpr(cpu, insn.operand[0],
                  limit ? segment_of(d, selector).limit : d.low >> 32 & 0x00ff'ff00);
    set_zero_flag(cpu, found);
    return Outcome::ok;
}
Outcome lar(Context &context, const Insn &insn, Fault &fault) noexcept {
    return lar_or_lsl(context, insn, false, fault);
}
Outcome lsl(Context &context, const Insn &insn, Fault &fault) noexcept {
    return lar_or_lsl(context, insn, true, fault);
}

Outcome verify(Context &context, const Insn &insn, bool write, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (!plain_protected(cpu))
        return raise(fault, vector::ud);
    u64 value;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    Descriptor d;
    bool found;
    RHEA_T0_TRY(inspect(context, u16(value), d, found, fault));
    set_zero_flag(cpu, found && visible(cpu, d, u16(value)) &&
                           (write ? d.writable_data() : d.readable()));
    return Outcome::ok;
}
Outcome verr(Context &context, const Insn &insn, Fault &fault) noexcept {
    return verify(context, insn, false, fault);
}
Outcome verw(Context &context, const Insn &insn, Fault &fault) noexcept {
    return verify(context, insn, true, fault);
}

Outcome arpl(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!plain_protected(cpu))
        return raise(fault, vector::ud);
    u64 destination, source;
    RHEA_T0_TRY(read_operand(context, insn, 0, destination, fault));
    RHEA_T0_TRY(read_operand(context, insn, 1, source, fault));
    const bool raised = (destination & 3) < (source & 3);
    if (raised)
        RHEA_T0_TRY(write_operand(context, insn, 0, (destination & ~u64{3}) | (source & 3), fault));
    set_zero_flag(cpu, raised);
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::mov_from_seg, mov_from_seg},
    {Op::mov_to_seg, mov_to_seg},
    {Op::push_seg, push_seg},
    {Op::pop_seg, pop_seg},
    {Op::load_far, load_far},
    {Op::lgdt, lgdt},
    {Op::lidt, lidt},
    {Op::sgdt, sgdt},
    {Op::sidt, sidt},
    {Op::lldt, lldt},
    {Op::ltr, ltr},
    {Op::sldt, sldt},
    {Op::str, str},
    {Op::lar, lar},
    {Op::lsl, lsl},
    {Op::verr, verr},
    {Op::verw, verw},
    {Op::arpl, arpl},
};

} // namespace

ExecutorGroup segment_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
