// T0: near branches, the stack, and the flags register.

#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {
namespace {

Outcome do_nothing(Context &, const Insn &, Fault &) noexcept {
    return Outcome::ok;
}

Outcome undefined(Context &, const Insn &, Fault &fault) noexcept {
    return raise(fault, vector::ud);
}

Outcome jump_relative(Context &context, const Insn &insn, Fault &fault) noexcept {
    return branch_to(context, context.cpu.rip + insn.immediate, insn.operand_size, fault);
}

Outcome jump_on_condition(Context &context, const Insn &insn, Fault &fault) noexcept {
    return condition_holds(context.cpu.rflags, insn.condition) ? jump_relative(context, insn, fault)
                                                               : Outcome::ok;
}

Outcome jump_indirect(Context &context, const Insn &insn, Fault &fault) noexcept {
    u64 target = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, target, fault));
    return branch_to(context, target, insn.operand_size, fault);
}

Outcome call_to(Context &context, const Insn &insn, u64 target, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u64 back = cpu.rip;
    StackCursor stack = stack_cursor(cpu);
    RHEA_T0_TRY(branch_to(context, target, insn.operand_size, fault));
    RHEA_T0_TRY(push(context, stack, insn.operand_size, back, fault));
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome call_relative(Context &context, const Insn &insn, Fault &fault) noexcept {
    return call_to(context, insn, context.cpu.rip + insn.immediate, fault);
}

Outcome call_indirect(Context &context, const Insn &insn, Fault &fault) noexcept {
    u64 target = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, target, fault));
    return call_to(context, insn, target, fault);
}

Outcome return_near(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    StackCursor stack = stack_cursor(cpu);
    u64 target = 0;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, target, fault));
    RHEA_T0_TRY(branch_to(context, target, insn.operand_size, fault));
    if (insn.operand_count > 0)
        stack.pointer += insn.immediate & 0xffff;
    commit(cpu, stack);
    return Outcome::ok;
}

template <Op op> Outcome loop(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u64 count = (cpu.gpr[rcx] - 1) & size_mask(insn.address_size);
    const bool zero = (cpu.rflags & flag::zf) != 0;
    const bool taken = count != 0 && (op == Op::loop || zero == (op == Op::loope));
    if (taken)
        RHEA_T0_TRY(jump_relative(context, insn, fault));
    write_gpr(cpu, rcx, insn.address_size, count);
    return Outcome::ok;
}

Outcome jump_on_zero_count(Context &context, const Insn &insn, Fault &fault) noexcept {
    if ((context.cpu.gpr[rcx] & size_mask(insn.address_size)) != 0)
        return Outcome::ok;
    return jump_relative(context, insn, fault);
}

Outcome push_operand(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault)); // PUSH RSP pushes the old value
    StackCursor stack = stack_cursor(cpu);
    RHEA_T0_TRY(push(context, stack, insn.operand_size, value, fault));
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome pop_operand(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const u64 old = cpu.gpr[rsp];
    StackCursor stack = stack_cursor(cpu);
    u64 value = 0;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, value, fault));
    commit(
        cpu,
        stack); // a destination based on RSP is addressed with its new value; POP RSP overwrites it
    const Outcome outcome = write_operand(context, insn, 0, value, fault);
    if (outcome != Outcome::ok)
        cpu.gpr[rsp] = old;
    return outcome;
}

Outcome push_all(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    StackCursor stack = stack_cursor(cpu);
    for (unsigned n = 0; n < 8; ++n)
        RHEA_T0_TRY(push(context, stack, insn.operand_size, cpu.gpr[n], fault));
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome pop_all(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    StackCursor stack = stack_cursor(cpu);
    u64 values[8] = {};
    for (unsigned n = 8; n-- > 0;)
        RHEA_T0_TRY(pop(context, stack, insn.operand_size, values[n], fault));
    for (unsigned n = 0; n < 8; ++n)
        if (n != rsp)
            write_gpr(cpu, n, insn.operand_size, values[n]);
    commit(cpu, stack);
    return Outcome::ok;
}

// SDM volume 2, ENTER: the nesting level is the second immediate, modulo 32.
Outcome enter(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand_size, level = insn.selector & 31;
    StackCursor stack = stack_cursor(cpu);
    RHEA_T0_TRY(push(context, stack, size, cpu.gpr[rbp], fault));
    const u64 frame = stack.pointer;
    if (level > 0) {
        u64 outer = cpu.gpr[rbp];
        for (unsigned n = 1; n < level; ++n) {
            u64 linear = 0, value = 0;
            outer = (outer - size) & stack.mask;
            RHEA_T0_TRY(linear_address(context, ss, outer, size, AccessType::read, linear, fault));
            RHEA_T0_TRY(load_linear(context, linear, size, value, fault));
            RHEA_T0_TRY(push(context, stack, size, value, fault));
        }
        RHEA_T0_TRY(push(context, stack, size, frame, fault));
    }
    stack.pointer = (stack.pointer - (insn.immediate & 0xffff)) & stack.mask;
    u64 linear = 0; // the new top must be writable, though nothing is stored there
    RHEA_T0_TRY(linear_address(context, ss, stack.pointer, size, AccessType::write, linear, fault));
    RHEA_T0_TRY(probe_write(context, linear, size, Privilege::current, fault));
    write_gpr(cpu, rbp, size, frame);
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome leave(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    StackCursor stack = stack_cursor(cpu);
    stack.pointer = cpu.gpr[rbp] & stack.mask;
    u64 value = 0;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, value, fault));
    commit(cpu, stack);
    write_gpr(cpu, rbp, insn.operand_size, value);
    return Outcome::ok;
}

unsigned iopl(const Cpu &cpu) noexcept {
    return unsigned(cpu.rflags & flag::iopl) >> 12;
}

// Virtual-8086 mode extensions (CR4.VME) and protected-mode virtual interrupts (CR4.PVI) are not
// modelled; the CPU model does not report them: with IOPL below 3 these instructions fault in v8086
// mode, as on CPUs without them.
Outcome push_flags(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (v8086(cpu) && iopl(cpu) < 3)
        return raise(fault, vector::gp, 0);
    StackCursor stack = stack_cursor(cpu);
    const u64 image = cpu.rflags & ~u64{flag::vm | flag::rf};
    RHEA_T0_TRY(push(context, stack, insn.operand_size, image, fault));
    commit(cpu, stack);
    return Outcome::ok;
}

Outcome pop_flags(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (v8086(cpu) && iopl(cpu) < 3)
        return raise(fault, vector::gp, 0);
    StackCursor stack = stack_cursor(cpu);
    u64 image = 0;
    RHEA_T0_TRY(pop(context, stack, insn.operand_size, image, fault));
    u32 may_change = flag::arithmetic | flag::tf | flag::df | flag::nt;
    if (insn.operand_size > 2)
        may_change |= flag::ac | flag::id;
    if (cpu.cpl == 0)
        may_change |= flag::iopl;
    if (cpu.cpl <= iopl(cpu))
        may_change |= flag::if_;
    const u64 old = cpu.rflags;
    cpu.rflags = ((old & ~u64{may_change | flag::rf}) | (image & may_change)) | flag::always_one;
    commit(cpu, stack);
    if (((old ^ cpu.rflags) & (flag::tf | flag::ac)) != 0)
        update_mode(cpu);
    return Outcome::ok;
}

template <u32 clear, u32 set>
Outcome change_flag(Context &context, const Insn &, Fault &) noexcept {
    context.cpu.rflags = (context.cpu.rflags & ~u64{clear}) | set;
    return Outcome::ok;
}

Outcome complement_carry(Context &context, const Insn &, Fault &) noexcept {
    context.cpu.rflags ^= flag::cf;
    return Outcome::ok;
}

Outcome clear_interrupts(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (cpu.cpl > iopl(cpu))
        return raise(fault, vector::gp, 0);
    cpu.rflags &= ~u64{flag::if_};
    return Outcome::ok;
}

Outcome set_interrupts(Context &context, const Insn &, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (cpu.cpl > iopl(cpu))
        return raise(fault, vector::gp, 0);
    if ((cpu.rflags & flag::if_) == 0)
        cpu.interrupt_shadow = true;
    cpu.rflags |= flag::if_;
    return Outcome::ok;
}

// BOUND: signed index against the pair in memory.
Outcome check_bounds(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand_size;
    u64 pair = 0, linear = 0;
    RHEA_T0_TRY(linear_address(context, insn.segment, effective_offset(cpu, insn), 2 * size,
                               AccessType::read, linear, fault));
    RHEA_T0_TRY(load_linear(context, linear, 2 * size, pair, fault));
    const i64 index = sign_extend(read_gpr(cpu, insn.operand[0]), size);
    if (index < sign_extend(pair, size) || index > sign_extend(pair >> (8 * size), size))
        return raise(fault, vector::br);
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::jcc, jump_on_condition},
    {Op::jmp, jump_relative},
    {Op::jmp_indirect, jump_indirect},
    {Op::call, call_relative},
    {Op::call_indirect, call_indirect},
    {Op::ret, return_near},
    {Op::loop, loop<Op::loop>},
    {Op::loope, loop<Op::loope>},
    {Op::loopne, loop<Op::loopne>},
    {Op::jcxz, jump_on_zero_count},
    {Op::push, push_operand},
    {Op::pop, pop_operand},
    {Op::pusha, push_all},
    {Op::popa, pop_all},
    {Op::enter, enter},
    {Op::leave, leave},
    {Op::pushf, push_flags},
    {Op::popf, pop_flags},
    {Op::clc, change_flag<flag::cf, 0>},
    {Op::stc, change_flag<0, flag::cf>},
    {Op::cmc, complement_carry},
    {Op::cld, change_flag<flag::df, 0>},
    {Op::std_, change_flag<0, flag::df>},
    {Op::cli, clear_interrupts},
    {Op::sti, set_interrupts},
    {Op::bound, check_bounds},
    {Op::nop, do_nothing},
    {Op::pause, do_nothing},
    {Op::endbr, do_nothing}, // without CET, a NOP
    {Op::prefetch, do_nothing},
    {Op::ud, undefined},
};

} // namespace

ExecutorGroup control_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
