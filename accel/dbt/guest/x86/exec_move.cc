// T0: moves, conversions and decimal adjustment.

#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {
namespace {

// Also MOVZX (operands are read zero-extended) and MOVNTI (a hint only).
Outcome move(Context &context, const Insn &insn, Fault &fault) noexcept {
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    return write_operand(context, insn, 0, value, fault);
}

Outcome move_sign_extended(Context &context, const Insn &insn, Fault &fault) noexcept {
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    write_gpr(context.cpu, insn.operand[0], u64(sign_extend(value, insn.operand[1].size)));
    return Outcome::ok;
}

Outcome move_swapped(Context &context, const Insn &insn, Fault &fault) noexcept {
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    return write_operand(context, insn, 0,
                         __builtin_bswap64(value) >> (64 - 8 * insn.operand[0].size), fault);
}

Outcome load_address(Context &context, const Insn &insn, Fault &) noexcept {
    write_gpr(context.cpu, insn.operand[0], effective_offset(context.cpu, insn));
    return Outcome::ok;
}

Outcome exchange(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned place = insn.operand[1].kind == OperandKind::memory ? 1 : 0;
    const Operand &other = insn.operand[1 - place];
    const u64 replacement = read_gpr(cpu, other);
    u64 before = 0;
    if (insn.operand[place].kind == OperandKind::gpr) {
        before = read_gpr(cpu, insn.operand[place]);
        write_gpr(cpu, insn.operand[place], replacement);
    } else { // locked, with or without the prefix
        u64 linear = 0;
        RHEA_T0_TRY(operand_address(context, insn, place, AccessType::write, linear, fault));
        const auto change = [&before, replacement](u64 old) noexcept {
            before = old;
            return replacement;
        };
        RHEA_T0_TRY(modify_linear(context, linear, insn.operand[place].size, true, change, fault));
    }
    write_gpr(cpu, other, before);
    return Outcome::ok;
}

Outcome swap_bytes(Context &context, const Insn &insn, Fault &) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    const u64 value = read_gpr(cpu, insn.operand[0]);
    // BSWAP of a 16-bit register is undefined; Intel and AMD cores clear it.
    write_gpr(cpu, insn.operand[0], size == 2 ? 0 : __builtin_bswap64(value) >> (64 - 8 * size));
    return Outcome::ok;
}

Outcome convert_in_accumulator(Context &context, const Insn &insn,
                               Fault &) noexcept { // CBW, CWDE, CDQE
    Cpu &cpu = context.cpu;
    write_gpr(cpu, rax, insn.operand_size, u64(sign_extend(cpu.gpr[rax], insn.operand_size / 2)));
    return Outcome::ok;
}

Outcome convert_to_pair(Context &context, const Insn &insn, Fault &) noexcept { // CWD, CDQ, CQO
    Cpu &cpu = context.cpu;
    write_gpr(cpu, rdx, insn.operand_size, u64(sign_extend(cpu.gpr[rax], insn.operand_size) >> 63));
    return Outcome::ok;
}

Outcome translate_byte(Context &context, const Insn &insn, Fault &fault) noexcept { // XLAT
    Cpu &cpu = context.cpu;
    const u64 offset = (cpu.gpr[rbx] + (cpu.gpr[rax] & 0xff)) & size_mask(insn.address_size);
    u8 value = 0;
    RHEA_T0_TRY(read_segmented(context, insn.segment, offset, &value, 1, fault));
    write_gpr(cpu, rax, 1, value);
    return Outcome::ok;
}

constexpr u32 ah_flags = flag::arithmetic & ~flag::of;

Outcome load_ah_from_flags(Context &context, const Insn &, Fault &) noexcept {
    Cpu &cpu = context.cpu;
    const u64 ah = (cpu.rflags & ah_flags) | flag::always_one;
    cpu.gpr[rax] = (cpu.gpr[rax] & ~u64{0xff00}) | ah << 8;
    return Outcome::ok;
}

Outcome store_ah_into_flags(Context &context, const Insn &, Fault &) noexcept {
    Cpu &cpu = context.cpu;
    cpu.rflags = (cpu.rflags & ~u64{ah_flags}) | (cpu.gpr[rax] >> 8 & ah_flags);
    return Outcome::ok;
}

Outcome set_al_on_carry(Context &context, const Insn &, Fault &) noexcept { // SALC, undocumented
    write_gpr(context.cpu, rax, 1, (context.cpu.rflags & flag::cf) != 0 ? 0xff : 0);
    return Outcome::ok;
}

// DAA and DAS (SDM volume 2): OF is undefined, cleared here.
template <bool subtract> Outcome decimal_adjust(Context &context, const Insn &, Fault &) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned old = unsigned(cpu.gpr[rax] & 0xff);
    const bool carry = (cpu.rflags & flag::cf) != 0;
    unsigned al = old;
    u32 flags = 0;
    if ((old & 15) > 9 || (cpu.rflags & flag::af) != 0) {
        flags |= flag::af;
        if (carry || (subtract ? old < 6 : old > 0xf9))
            flags |= flag::cf;
        al = subtract ? al - 6 : al + 6;
    }
    if (old > 0x99 || carry) {
        flags |= flag::cf;
        al = subtract ? al - 0x60 : al + 0x60;
    } else if (!subtract) {
        flags &= ~flag::cf; // DAA's second test decides alone
    }
    write_gpr(cpu, rax, 1, al);
    set_arithmetic(cpu, flags | result_flags(al, 1));
    return Outcome::ok;
}

template <bool subtract>
Outcome ascii_adjust(Context &context, const Insn &, Fault &) noexcept { // AAA, AAS
    Cpu &cpu = context.cpu;
    unsigned ax = unsigned(cpu.gpr[rax] & 0xffff);
    u32 flags = 0;
    if ((ax & 15) > 9 || (cpu.rflags & flag::af) != 0) {
        ax = subtract ? ax - 0x106 : ax + 0x106;
        flags = flag::af | flag::cf;
    }
    ax &= 0xff0f;
    write_gpr(cpu, rax, 2, ax);
    set_arithmetic(cpu, flags | result_flags(ax, 1));
    return Outcome::ok;
}

Outcome ascii_adjust_multiply(Context &context, const Insn &insn, Fault &fault) noexcept { // AAM
    Cpu &cpu = context.cpu;
    const unsigned base = unsigned(insn.immediate & 0xff), al = unsigned(cpu.gpr[rax] & 0xff);
    if (base == 0)
        return raise(fault, vector::de);
    write_gpr(cpu, rax, 2, (al / base) << 8 | al % base);
    set_arithmetic(cpu, result_flags(al % base, 1));
    return Outcome::ok;
}

Outcome ascii_adjust_divide(Context &context, const Insn &insn, Fault &) noexcept { // AAD
    Cpu &cpu = context.cpu;
    const unsigned base = unsigned(insn.immediate & 0xff), ax = unsigned(cpu.gpr[rax] & 0xffff);
    const unsigned al = ((ax & 0xff) + (ax >> 8) * base) & 0xff;
    write_gpr(cpu, rax, 2, al);
    set_arithmetic(cpu, result_flags(al, 1));
    return Outcome::ok;
}

Outcome set_on_condition(Context &context, const Insn &insn, Fault &fault) noexcept {
    return write_operand(context, insn, 0,
                         condition_holds(context.cpu.rflags, insn.condition) ? 1 : 0, fault);
}

Outcome move_on_condition(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 value = 0; // the source is read, and may fault, in either case; a 32-bit destination is
                   // extended in either case
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    const bool take = condition_holds(cpu.rflags, insn.condition);
    write_gpr(cpu, insn.operand[0], take ? value : read_gpr(cpu, insn.operand[0]));
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::mov, move},
    {Op::movzx, move},
    {Op::movnti, move},
    {Op::movsx, move_sign_extended},
    {Op::movbe, move_swapped},
    {Op::lea, load_address},
    {Op::xchg, exchange},
    {Op::bswap, swap_bytes},
    {Op::bswap16_undefined, swap_bytes},
    {Op::cbw, convert_in_accumulator},
    {Op::cwd, convert_to_pair},
    {Op::xlat, translate_byte},
    {Op::lahf, load_ah_from_flags},
    {Op::sahf, store_ah_into_flags},
    {Op::salc, set_al_on_carry},
    {Op::daa, decimal_adjust<false>},
    {Op::das, decimal_adjust<true>},
    {Op::aaa, ascii_adjust<false>},
    {Op::aas, ascii_adjust<true>},
    {Op::aam, ascii_adjust_multiply},
    {Op::aad, ascii_adjust_divide},
    {Op::setcc, set_on_condition},
    {Op::cmovcc, move_on_condition},
};

} // namespace

ExecutorGroup move_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
