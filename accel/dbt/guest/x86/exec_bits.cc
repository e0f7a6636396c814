// T0: shifts, rotates, bit tests and scans. Undefined flags are those of current Intel cores (seen
// on the host): OF after a shift or rotate by more than one is that of a shift by one; AF is
// cleared by shifts, kept by rotates; BT changes CF only; bit counts clear what they do not define.

#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {
namespace {

struct Result {
    u64 value;
    u32 flags; // those in `changed`
    u32 changed;
};

bool bit_of(u64 value, unsigned index) noexcept {
    return ((value >> index) & 1) != 0;
}

// `count` is masked and not zero; `a` has no bits above `size`.
template <Op op> Result shift(u64 a, unsigned count, unsigned size, bool carry) noexcept {
    const unsigned bits = 8 * size, top = bits - 1;
    u64 value = 0;
    bool out = false, overflow = false;
    if constexpr (op == Op::shl) {
        value = count < bits ? a << count : 0;
        out = count <= bits && bit_of(a, bits - count);
        overflow = bit_of(a, top) != bit_of(a, top - 1);
    } else if constexpr (op == Op::shr) {
        value = count < bits ? a >> count : 0;
        out = count <= bits && bit_of(a, count - 1);
        overflow = bit_of(a, top);
    } else if constexpr (op == Op::sar) {
        const i64 wide = sign_extend(a, size);
        value = u64(wide >> (count < 63 ? count : 63));
        out = bit_of(u64(wide), count - 1 < 63 ? count - 1 : 63);
    } else if constexpr (op == Op::rol) {
        const unsigned by = count % bits;
        value = by != 0 ? a << by | a >> (bits - by) : a;
        return {value,
                (bit_of(value, 0) ? flag::cf : 0) |
                    (bit_of(a, top) != bit_of(a, top - 1) ? flag::of : 0),
                flag::cf | flag::of};
    } else if constexpr (op == Op::ror) {
        const unsigned by = count % bits;
        value = by != 0 ? a >> by | a << (bits - by) : a;
        return {value,
                (bit_of(value, top) ? flag::cf : 0) |
                    (bit_of(a, 0) != bit_of(a, top) ? flag::of : 0),
                flag::cf | flag::of};
    } else { // through carry: bits + 1 places
        const unsigned by = count % (bits + 1);
        if (by == 0)
            return {a, 0, 0};
        const auto wide = static_cast<unsigned __int128>(carry ? 1 : 0) << bits | a;
        const auto turned = op == Op::rcl ? wide << by | wide >> (bits + 1 - by)
                                          : wide >> by | wide << (bits + 1 - by);
        out = ((turned >> bits) & 1) != 0;
        overflow = op == Op::rcl ? bit_of(a, top) != bit_of(a, top - 1) : bit_of(a, top) != carry;
        return {u64(turned), (out ? flag::cf : 0) | (overflow ? flag::of : 0), flag::cf | flag::of};
    }
    return {value, result_flags(value, size) | (out ? flag::cf : 0) | (overflow ? flag::of : 0),
            flag::arithmetic};
}

void change_flags(Cpu &cpu, u32 flags, u32 changed) noexcept {
    cpu.rflags = (cpu.rflags & ~u64{changed}) | flags;
}

template <Op op>
Outcome shift_or_rotate(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 count = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, count, fault));
    count &= size == 8 ? 63 : 31;
    const bool carry = (cpu.rflags & flag::cf) != 0;
    u32 flags = 0, changed = 0;
    const auto change = [&](u64 old) noexcept {
        if (count == 0)
            return old;
        const Result result = shift<op>(old, unsigned(count), size, carry);
        flags = result.flags;
        changed = result.changed;
        return result.value;
    };
    RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    change_flags(cpu, flags, changed);
    return Outcome::ok;
}

// 16-bit forms with counts above 16 (undefined by the SDM) shift through destination : source :
// destination.
template <bool left>
Outcome shift_double(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size, bits = 8 * size, top = bits - 1;
    u64 source = 0, amount = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, source, fault));
    RHEA_T0_TRY(read_operand(context, insn, 2, amount, fault));
    const unsigned count = unsigned(amount) & (size == 8 ? 63 : 31);
    u32 flags = 0;
    const auto change = [&](u64 old) noexcept {
        if (count == 0)
            return old;
        u64 value = 0;
        bool out = false, overflow = false;
        if (size == 8) {
            value = left ? old << count | source >> (64 - count)
                         : old >> count | source << (64 - count);
            out = left ? bit_of(old, 64 - count) : bit_of(old, count - 1);
        } else if (left) { // old is on top; what leaves the top comes in again below the source
            const auto wide =
                static_cast<unsigned __int128>(old) << (2 * bits) | u64{source} << bits | old;
            value = u64(wide >> (2 * bits - count)) & size_mask(size);
            out = ((wide >> (3 * bits - count)) & 1) != 0;
        } else {
            const auto wide =
                static_cast<unsigned __int128>(old) << (2 * bits) | u64{source} << bits | old;
            value = u64(wide >> count) & size_mask(size);
            out = ((wide >> (count - 1)) & 1) != 0;
        }
        overflow =
            left ? bit_of(old, top) != bit_of(old, top - 1) : bit_of(old, top) != bit_of(source, 0);
        flags = result_flags(value, size) | (out ? flag::cf : 0) | (overflow ? flag::of : 0);
        return value;
    };
    RHEA_T0_TRY(modify_operand(context, insn, 0, change, fault));
    if (count != 0)
        set_arithmetic(cpu, flags);
    return Outcome::ok;
}

template <Op op> Outcome bit_test(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 offset = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, offset, fault));
    const u64 bit = u64{1} << (offset & (8 * size - 1));
    bool was_set = false;
    const auto change = [&was_set, bit](u64 old) noexcept {
        was_set = (old & bit) != 0;
        return op == Op::bts   ? old | bit
               : op == Op::btr ? old & ~bit
               : op == Op::btc ? old ^ bit
                               : old;
    };
    if (insn.operand[0].kind == OperandKind::gpr) {
        const u64 value = change(read_gpr(cpu, insn.operand[0]));
        if (op != Op::bt)
            write_gpr(cpu, insn.operand[0], value);
    } else {
        u64 address = effective_offset(cpu, insn), linear = 0;
        if (insn.operand[1].kind ==
            OperandKind::gpr) { // a bit string: the offset reaches beyond the operand, signed
            const i64 units = sign_extend(offset, size) >> (size == 8 ? 6 : size == 4 ? 5 : 4);
            address = (address + u64(units) * size) & size_mask(insn.address_size);
        }
        RHEA_T0_TRY(linear_address(context, insn.segment, address, size,
                                   op == Op::bt ? AccessType::read : AccessType::write, linear,
                                   fault));
        if (op == Op::bt) {
            u64 value = 0;
            RHEA_T0_TRY(load_linear(context, linear, size, value, fault));
            change(value);
        } else {
            RHEA_T0_TRY(modify_linear(context, linear, size, insn.lock, change, fault));
        }
    }
    change_flags(cpu, was_set ? flag::cf : 0, flag::cf);
    return Outcome::ok;
}

template <bool reverse>
Outcome bit_scan(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    if (value == 0) { // the destination is left alone, all 64 bits of it
        set_arithmetic(cpu, flag::zf | flag::pf);
        return Outcome::ok;
    }
    const unsigned index =
        reverse ? 63 - unsigned(__builtin_clzll(value)) : unsigned(__builtin_ctzll(value));
    write_gpr(cpu, insn.operand[0], index);
    set_arithmetic(cpu, result_flags(index, insn.operand[0].size) & flag::pf);
    return Outcome::ok;
}

template <Op op> Outcome count_bits(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned bits = 8 * insn.operand[0].size;
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, value, fault));
    u32 flags = 0;
    u64 result = 0;
    if (op == Op::popcnt) {
        result = u64(__builtin_popcountll(value));
        flags = value == 0 ? flag::zf : 0;
    } else {
        if (value == 0)
            result = bits;
        else
            result = op == Op::tzcnt ? unsigned(__builtin_ctzll(value))
                                     : unsigned(__builtin_clzll(value)) - (64 - bits);
        flags = (value == 0 ? flag::cf : 0) | (result == 0 ? flag::zf : 0);
    }
    write_gpr(cpu, insn.operand[0], result);
    set_arithmetic(cpu, flags);
    return Outcome::ok;
}

constexpr ExecutorEntry entries[] = {
    {Op::rol, shift_or_rotate<Op::rol>}, {Op::ror, shift_or_rotate<Op::ror>},
    {Op::rcl, shift_or_rotate<Op::rcl>}, {Op::rcr, shift_or_rotate<Op::rcr>},
    {Op::shl, shift_or_rotate<Op::shl>}, {Op::shr, shift_or_rotate<Op::shr>},
    {Op::sar, shift_or_rotate<Op::sar>}, {Op::shld, shift_double<true>},
    {Op::shrd, shift_double<false>},     {Op::bt, bit_test<Op::bt>},
    {Op::bts, bit_test<Op::bts>},        {Op::btr, bit_test<Op::btr>},
    {Op::btc, bit_test<Op::btc>},        {Op::bsf, bit_scan<false>},
    {Op::bsr, bit_scan<true>},           {Op::popcnt, count_bits<Op::popcnt>},
    {Op::lzcnt, count_bits<Op::lzcnt>},  {Op::tzcnt, count_bits<Op::tzcnt>},
};

} // namespace

ExecutorGroup bit_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
