// T0: addition to division. Flags that the SDM calls undefined are what current Intel cores give
// (seen on the host), so that T0, and T1 which lets the host CPU compute them, agree:
// AND/OR/XOR/TEST clear AF; MUL and IMUL set SF and PF from the low half and clear ZF and AF; DIV
// and IDIV leave the flags alone.

#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {
namespace {

struct Result {
    u64 value;
    u32 flags;
};

// Carry, auxiliary and overflow flags from the vector of carries (or borrows) out of each bit.
u32 carry_flags(u64 carries, unsigned size) noexcept {
    const unsigned top = 8 * size - 1;
    u32 flags = ((carries >> top) & 1) != 0 ? flag::cf : 0;
    if ((carries & 8) != 0)
        flags |= flag::af;
    if ((((carries >> top) ^ (carries >> (top - 1))) & 1) != 0)
        flags |= flag::of;
    return flags;
}

Result add_with(u64 a, u64 b, unsigned carry, unsigned size) noexcept {
    const u64 sum = a + b + carry;
    return {sum, carry_flags((a & b) | ((a | b) & ~sum), size) | result_flags(sum, size)};
}
Result subtract(u64 a, u64 b, unsigned borrow, unsigned size) noexcept {
    const u64 difference = a - b - borrow;
    return {difference,
            carry_flags((~a & b) | ((~a | b) & difference), size) | result_flags(difference, size)};
}

template <Op op> Result compute(u64 a, u64 b, unsigned carry, unsigned size) noexcept {
    if constexpr (op == Op::add)
        return add_with(a, b, 0, size);
    else if constexpr (op == Op::adc)
        return add_with(a, b, carry, size);
    else if constexpr (op == Op::sub || op == Op::cmp)
        return subtract(a, b, 0, size);
    else if constexpr (op == Op::sbb)
        return subtract(a, b, carry, size);
    else {
        const u64 value = op == Op::or_ ? a | b : op == Op::xor_ ? a ^ b : a & b;
        return {value, result_flags(value, size)};
    }
}

template <Op op> Outcome arithmetic(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size, carry = unsigned(cpu.rflags & flag::cf);
    u64 source = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, source, fault));
    u32 flags = 0;
    if constexpr (op == Op::cmp || op == Op::test) {
        u64 first = 0;
        RHEA_T0_TRY(read_operand(context, insn, 0, first, fault));
        flags = compute<op>(first, source, carry, size).flags;
    } else {
        const auto change = [&flags, source, carry, size](u64 old) noexcept {
            const Result result = compute<op>(old, source, carry, size);
            flags = result.flags;
            return result.value;
        };
        RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    }
    set_arithmetic(cpu, flags);
    return Outcome::ok;
}

template <int step> Outcome increment(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u32 flags = 0;
    const auto change = [&flags, size](u64 old) noexcept {
        const Result result = step > 0 ? add_with(old, 1, 0, size) : subtract(old, 1, 0, size);
        flags = result.flags;
        return result.value;
    };
    RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    set_arithmetic(cpu, (flags & ~flag::cf) | u32(cpu.rflags & flag::cf));
    return Outcome::ok;
}

Outcome negate(Context &context, const Insn &insn, Fault &fault) noexcept {
    const unsigned size = insn.operand[0].size;
    u32 flags = 0;
    const auto change = [&flags, size](u64 old) noexcept {
        const Result result = subtract(0, old, 0, size);
        flags = result.flags;
        return result.value;
    };
    RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    set_arithmetic(context.cpu, flags);
    return Outcome::ok;
}

Outcome complement(Context &context, const Insn &insn, Fault &fault) noexcept {
    return modify_operand(
        context, insn, 0, [](u64 old) noexcept { return ~old; }, fault);
}

Outcome exchange_add(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    const u64 addend = read_gpr(cpu, insn.operand[1]);
    u64 before = 0;
    u32 flags = 0;
    const auto change = [&](u64 old) noexcept {
        const Result result = add_with(old, addend, 0, size);
        before = old;
        flags = result.flags;
        return result.value;
    };
    if (insn.operand[0].kind ==
        OperandKind::gpr) { // source first: with the same register twice the sum must stay
        const u64 sum = change(read_gpr(cpu, insn.operand[0]));
        write_gpr(cpu, insn.operand[1], before);
        write_gpr(cpu, insn.operand[0], sum);
    } else {
        RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
        write_gpr(cpu, insn.operand[1], before);
    }
    set_arithmetic(cpu, flags);
    return Outcome::ok;
}

Outcome compare_and_exchange(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    const u64 expected = cpu.gpr[rax] & size_mask(size), desired = read_gpr(cpu, insn.operand[1]);
    u64 before = 0;
    if (insn.operand[0].kind == OperandKind::gpr) {
        before = read_gpr(cpu, insn.operand[0]);
        if (before == expected)
            write_gpr(cpu, insn.operand[0], desired);
    } else { // written in either case: it faults if it is not writable
        const auto change = [&](u64 old) noexcept {
            before = old;
            return old == expected ? desired : old;
        };
        RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    }
    if (before != expected)
        write_gpr(cpu, rax, size, before);
    set_arithmetic(cpu, subtract(expected, before, 0, size).flags);
    return Outcome::ok;
}

#if defined(__x86_64__)
bool compare_exchange_16(u8 *at, u64 &low, u64 &high, u64 new_low, u64 new_high) noexcept {
    bool done = false;
    asm volatile("lock cmpxchg16b %[at]"
                 : [at] "+m"(*reinterpret_cast<unsigned __int128 *>(at)), "+a"(low), "+d"(high),
                   "=@ccz"(done)
                 : "b"(new_low), "c"(new_high)
                 : "memory");
    return done;
}
#endif

// CMPXCHG8B, and with REX.W CMPXCHG16B. Changes ZF only.
Outcome compare_exchange_double(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned half = insn.operand_size == 8 ? 8 : 4, size = 2 * half;
    const u64 mask = size_mask(half);
    const u64 expected[2] = {cpu.gpr[rax] & mask, cpu.gpr[rdx] & mask};
    const u64 desired[2] = {cpu.gpr[rbx] & mask, cpu.gpr[rcx] & mask};
    u64 linear = 0, before[2] = {};
    RHEA_T0_TRY(linear_address(context, insn.segment, effective_offset(cpu, insn), size,
                               AccessType::write, linear, fault));
    if (half == 8 && (linear & 15) != 0)
        return raise(fault, vector::gp, 0);
    if (half == 4) {
        const u64 wanted = expected[0] | expected[1] << 32,
                  replacement = desired[0] | desired[1] << 32;
        u64 found = 0;
        const auto change = [&](u64 old) noexcept {
            found = old;
            return old == wanted ? replacement : old;
        };
        RHEA_T0_TRY(modify_linear(context, linear, 8, insn.lock, change, fault));
        before[0] = found & mask;
        before[1] = found >> 32;
    } else {
        u8 *host = nullptr;
#if defined(__x86_64__)
        host = direct_pointer(context, linear, 16, AccessType::write, Privilege::current);
        if (host != nullptr) {
            before[0] = expected[0];
            before[1] = expected[1];
            compare_exchange_16(host, before[0], before[1], desired[0], desired[1]);
        }
#endif
        if (host == nullptr) {
            RHEA_T0_TRY(probe_write(context, linear, 16, Privilege::current, fault));
            RHEA_T0_TRY(read_memory(context, linear, before, 16, Privilege::current, fault));
            const bool equal = before[0] == expected[0] && before[1] == expected[1];
            RHEA_T0_TRY(write_memory(context, linear, equal ? desired : before, 16,
                                     Privilege::current, fault));
        }
    }
    if (before[0] == expected[0] && before[1] == expected[1]) {
        cpu.rflags |= flag::zf;
    } else {
        cpu.rflags &= ~u64{flag::zf};
        write_gpr(cpu, rax, half, before[0]);
        write_gpr(cpu, rdx, half, before[1]);
    }
    return Outcome::ok;
}

u32 multiply_flags(u64 low, unsigned size, bool overflow) noexcept {
    return (result_flags(low, size) & (flag::sf | flag::pf)) | (overflow ? flag::cf | flag::of : 0);
}

// The double-width pair: AX for bytes, else DX:AX, EDX:EAX, RDX:RAX.
void write_pair(Cpu &cpu, unsigned size, u64 low, u64 high) noexcept {
    if (size == 1) {
        write_gpr(cpu, rax, 2, (low & 0xff) | (high & 0xff) << 8);
    } else {
        write_gpr(cpu, rax, size, low);
        write_gpr(cpu, rdx, size, high);
    }
}

Outcome multiply(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 factor = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, factor, fault));
    const auto product =
        static_cast<unsigned __int128>(cpu.gpr[rax] & size_mask(size)) * (factor & size_mask(size));
    const u64 low = u64(product) & size_mask(size), high = u64(product >> (8 * size));
    write_pair(cpu, size, low, high);
    set_arithmetic(cpu, multiply_flags(low, size, high != 0));
    return Outcome::ok;
}

Outcome multiply_signed_wide(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 factor = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, factor, fault));
    const auto product =
        static_cast<__int128>(sign_extend(cpu.gpr[rax], size)) * sign_extend(factor, size);
    const u64 low = u64(product) & size_mask(size), high = u64(product >> (8 * size));
    write_pair(cpu, size, low, high);
    set_arithmetic(cpu, multiply_flags(low, size, product != sign_extend(low, size)));
    return Outcome::ok;
}

Outcome multiply_signed(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size, first = insn.operand_count == 3 ? 1 : 0;
    u64 a = 0, b = 0;
    RHEA_T0_TRY(read_operand(context, insn, first, a, fault));
    RHEA_T0_TRY(read_operand(context, insn, first + 1, b, fault));
    const auto product = static_cast<__int128>(sign_extend(a, size)) * sign_extend(b, size);
    const u64 low = u64(product) & size_mask(size);
    write_gpr(cpu, insn.operand[0], low);
    set_arithmetic(cpu, multiply_flags(low, size, product != sign_extend(low, size)));
    return Outcome::ok;
}

unsigned __int128 dividend_pair(const Cpu &cpu, unsigned size) noexcept {
    if (size == 1)
        return cpu.gpr[rax] & 0xffff;
    const u64 mask = size_mask(size);
    return static_cast<unsigned __int128>(cpu.gpr[rdx] & mask) << (8 * size) |
           (cpu.gpr[rax] & mask);
}

Outcome divide(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 divisor = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, divisor, fault));
    const auto dividend = dividend_pair(cpu, size);
    if (divisor == 0 || u64(dividend >> (8 * size)) >= divisor) // a quotient that does not fit
        return raise(fault, vector::de);
    if (size <= 4) // the common sizes: no 128-bit division
        write_pair(cpu, size, u64(dividend) / divisor, u64(dividend) % divisor);
    else
        write_pair(cpu, size, u64(dividend / divisor), u64(dividend % divisor));
    return Outcome::ok;
}

Outcome divide_signed(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    const i64 divisor = sign_extend(value, size);
    if (divisor == 0)
        return raise(fault, vector::de);
    const auto pair = dividend_pair(cpu, size);
    const unsigned unused = 128 - 16 * size;
    const __int128 dividend = static_cast<__int128>(pair << unused) >> unused;
    // By magnitudes, because the smallest dividend over -1 would trap here, too.
    const bool negative = dividend < 0, quotient_negative = negative != (divisor < 0);
    const auto top = negative ? -static_cast<unsigned __int128>(dividend)
                              : static_cast<unsigned __int128>(dividend);
    const u64 bottom = divisor < 0 ? -u64(divisor) : u64(divisor);
    const auto quotient = top / bottom;
    const u64 remainder = u64(top % bottom);
    const u64 limit = (u64{1} << (8 * size - 1)) - (quotient_negative ? 0 : 1);
    if (quotient > limit)
        return raise(fault, vector::de);
    write_pair(cpu, size, quotient_negative ? -u64(quotient) : u64(quotient),
               negative ? -remainder : remainder);
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::add, arithmetic<Op::add>},
    {Op::or_, arithmetic<Op::or_>},
    {Op::adc, arithmetic<Op::adc>},
    {Op::sbb, arithmetic<Op::sbb>},
    {Op::and_, arithmetic<Op::and_>},
    {Op::sub, arithmetic<Op::sub>},
    {Op::xor_, arithmetic<Op::xor_>},
    {Op::cmp, arithmetic<Op::cmp>},
    {Op::test, arithmetic<Op::test>},
    {Op::inc, increment<1>},
    {Op::dec, increment<-1>},
    {Op::neg, negate},
    {Op::not_, complement},
    {Op::xadd, exchange_add},
    {Op::cmpxchg, compare_and_exchange},
    {Op::cmpxchg8b, compare_exchange_double},
    {Op::mul, multiply},
    {Op::imul1, multiply_signed_wide},
    {Op::imul, multiply_signed},
    {Op::div, divide},
    {Op::idiv, divide_signed},
};

} // namespace

ExecutorGroup integer_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
