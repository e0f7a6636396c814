#include "accel/dbt/guest/x86/lower.h"

#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/exec.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

using ir::Kind;
using ir::SourceKind;

enum class Result : u8 {
    next,      // translated, the block goes on
    end,       // translated, the block ends here
    interpret, // T0 must run it
};

class Lowering {
public:
    Lowering(u32 mode, const Cpu &cpu, LoweredBlock &out)
        : mode_(mode), cpu_(cpu), out_(out), ir_(out.ir) {}

    Result lower(Insn &insn, u16 offset);
    void interpret(u16 offset) { ir_.append({.kind = Kind::interpret, .offset = offset}); }
    void jump(u16 from, i64 to, bool looked_up = false) {
        ir_.append({.kind = looked_up ? Kind::jump_looked_up : Kind::jump,
                    .offset = from,
                    .immediate = to});
    }

private:
    bool code64() const { return (mode_ & mode::code_mask) == mode::code64; }
    u8 word() const { return code64() ? 8 : 4; }

    ir::Op &append(const ir::Op &prototype) {
        ir::Op &o = ir_.append(prototype);
        o.offset = offset_;
        o.instruction = u16(out_.insn_count);
        return o;
    }
    const Operand *memory_operand(const Insn &insn) const {
        for (unsigned i = 0; i < insn.operand_count; ++i)
            if (insn.operand[i].kind == OperandKind::memory)
                return &insn.operand[i];
        return nullptr;
    }
    // False: the segment is one that this mode does not promise to be flat.
    bool address_of(const Insn &insn, ir::Address &a) const {
        a = {};
        a.offset_size = insn.address_size;
        a.linear_size = word();
        a.scale = insn.scale;
        a.index = insn.index == no_register ? ir::no_value : insn.index;
        a.displacement = insn.displacement;
        if (insn.base == rip_register) {
            a.base = ir::page_relative;
            a.displacement += offset_ + insn.length;
        } else if (insn.base == moffs_register) {
            a.base = ir::no_value;
            a.displacement = insn.address_size == 4 ? i32(insn.immediate) : i64(insn.immediate);
            if (a.displacement != i32(a.displacement))
                return false; // more than a host instruction's displacement: T0
        } else {
            a.base = insn.base == no_register ? ir::no_value : insn.base;
        }
        if (insn.address_size == 2)
            return false;
        if (insn.segment == cs && (mode_ & mode::code_mask) != mode::code64)
            return false; // flat, but not writable and perhaps not readable
        if (insn.segment == fs || insn.segment == gs) {
            if (!(mode_ & (insn.segment == fs ? mode::flat_fs : mode::flat_gs)))
                return false;
            a.segment = insn.segment;
        }
        return true;
    }
    ir::Address stack(i64 displacement) const {
        return {.base = rsp,
                .offset_size = word(),
                .linear_size = word(),
                .displacement = displacement};
    }

    Result native(const Insn &insn, Kind kind = Kind::native);
    Result push(const Insn &insn);
    Result pop(const Insn &insn);
    Result call(const Insn &insn);
    Result call_indirect(const Insn &insn, bool is_call);
    Result ret(const Insn &insn);
    Result x87(const Insn &insn);
    Result string(const Insn &insn);
    Result interpret_here(const Insn &insn) {
        append({.kind = Kind::interpret_here, .size = insn.length});
        return Result::next;
    }
    void push_value(SourceKind kind, u8 reg, i64 immediate);
    bool load_target(const Insn &insn);
    i64 branch_target(const Insn &insn) const {
        return i64(offset_) + insn.length + i64(insn.immediate);
    }

    const u32 mode_;
    const Cpu &cpu_;
    LoweredBlock &out_;
    ir::Block &ir_;
    u16 offset_ = 0;
};

Result Lowering::native(const Insn &insn, Kind kind) {
    ir::Op o{.kind = kind,
             .size = insn.operand_size,
             .flags_read = insn.flags_read,
             .flags_written = insn.flags_written};
    if (const Operand *m = memory_operand(insn); m && m->access) {
        if (m->size == 0 || m->size > 16 || !address_of(insn, o.address))
            return Result::interpret;
        o.size = m->size;
        o.access = m->access;
        o.aligned = m->aligned && m->size > 1;
    }
    append(o);
    return Result::next;
}

void Lowering::push_value(SourceKind kind, u8 reg, i64 immediate) {
    append({.kind = Kind::store,
            .size = word(),
            .source = reg,
            .source_kind = kind,
            .address = stack(-i64(word())),
            .immediate = immediate});
    append({.kind = Kind::add,
            .size = word(),
            .destination = rsp,
            .source = rsp,
            .immediate = -i64(word())});
}

Result Lowering::push(const Insn &insn) {
    if (insn.operand_size != word())
        return Result::interpret;
    const Operand &o = insn.operand[0];
    if (o.kind == OperandKind::gpr) {
        push_value(SourceKind::reg, o.index, 0);
    } else if (o.kind == OperandKind::immediate) {
        push_value(SourceKind::immediate, ir::no_value, i64(insn.immediate));
    } else {
        ir::Address a;
        if (!address_of(insn, a))
            return Result::interpret;
        append({.kind = Kind::load, .size = word(), .destination = ir::kept, .address = a});
        push_value(SourceKind::reg, ir::kept, 0);
    }
    return Result::next;
}

Result Lowering::pop(const Insn &insn) {
    const Operand &o = insn.operand[0];
    if (insn.operand_size != word() || o.kind != OperandKind::gpr)
        return Result::interpret; // POP to memory is rare
    append({.kind = Kind::load, .size = word(), .destination = ir::temp, .address = stack(0)});
    append({.kind = Kind::add,
            .size = word(),
            .destination = rsp,
            .source = rsp,
            .immediate = word()});
    append({.kind = Kind::set,
            .size = word(),
            .destination = o.index,
            .source = ir::temp,
            .source_kind = SourceKind::reg});
    return Result::next;
}

Result Lowering::call(const Insn &insn) {
    if (insn.operand_size != word())
        return Result::interpret;
    push_value(SourceKind::page_offset, ir::no_value, i64(offset_) + insn.length);
    jump(offset_, branch_target(insn));
    return Result::end;
}

// The target of an indirect jump or call into `kept`.
bool Lowering::load_target(const Insn &insn) {
    if (insn.operand_size != word())
        return false;
    const Operand &o = insn.operand[0];
    if (o.kind == OperandKind::gpr) {
        append({.kind = Kind::set,
                .size = word(),
                .destination = ir::kept,
                .source = o.index,
                .source_kind = SourceKind::reg});
        return true;
    }
    ir::Address a;
    if (!address_of(insn, a))
        return false;
    append({.kind = Kind::load, .size = word(), .destination = ir::kept, .address = a});
    return true;
}

Result Lowering::call_indirect(const Insn &insn, bool is_call) {
    if (!load_target(insn))
        return Result::interpret;
    if (is_call)
        push_value(SourceKind::page_offset, ir::no_value, i64(offset_) + insn.length);
    append({.kind = Kind::jump_indirect, .size = word(), .source = ir::kept});
    return Result::end;
}

Result Lowering::ret(const Insn &insn) {
    if (insn.operand_size != word())
        return Result::interpret;
    const i64 drop = insn.operand_count ? i64(insn.immediate) : 0;
    append({.kind = Kind::load, .size = word(), .destination = ir::temp, .address = stack(0)});
    append({.kind = Kind::add,
            .size = word(),
            .destination = rsp,
            .source = rsp,
            .immediate = word() + drop});
    append({.kind = Kind::jump_indirect, .size = word(), .source = ir::temp});
    return Result::end;
}

// The mode promises that all x87 exceptions are masked and none is pending (Core::block_mode), so
// the host runs these as they are. What loads or clears that state goes to T0.
Result Lowering::x87(const Insn &insn) {
    if (!(mode_ & mode::x87))
        return Result::interpret;
    const bool memory = insn.modrm < 0xc0;
    const unsigned group = insn.modrm >> 3 & 7;
    // FLDENV, FNSTENV, FRSTOR, FNSAVE: pointers that only T0 keeps, and a new control word.
    if (memory && (insn.opcode == 0xd9 || insn.opcode == 0xdd) && (group == 4 || group == 6))
        return Result::interpret;
    append({.kind = Kind::use_x87});
    if (insn.opcode == 0xd9 && memory && group == 5) {
        ir::Op o{.kind = Kind::load_x87_control, .size = 2};
        if (!address_of(insn, o.address))
            return Result::interpret;
        append(o);
        return Result::next;
    }
    return native(insn);
}

// One element of a string instruction. With REP, T0 is faster: it moves pages at once.
Result Lowering::string(const Insn &insn) {
    if (insn.prefix_rep || insn.address_size != word() || insn.segment == fs || insn.segment == gs)
        return interpret_here(insn);
    const u8 size = insn.operand_size;
    const ir::Address source{.base = rsi, .offset_size = word(), .linear_size = word()},
        destination{.base = rdi, .offset_size = word(), .linear_size = word()};
    auto advance = [&](u8 reg) {
        append({.kind = Kind::add,
                .size = word(),
                .destination = reg,
                .source = reg,
                .immediate = size});
    };
    append({.kind = Kind::string_forward});
    switch (insn.op) {
    case Op::lods:
        append({.kind = Kind::load, .size = size, .destination = ir::temp, .address = source});
        append({.kind = Kind::set,
                .size = size,
                .destination = rax,
                .source = ir::temp,
                .source_kind = SourceKind::reg});
        advance(rsi);
        break;
    case Op::stos:
        append({.kind = Kind::store,
                .size = size,
                .source = rax,
                .source_kind = SourceKind::reg,
                .address = destination});
        advance(rdi);
        break;
    case Op::movs:
        append({.kind = Kind::load, .size = size, .destination = ir::kept, .address = source});
        append({.kind = Kind::store,
                .size = size,
                .source = ir::kept,
                .source_kind = SourceKind::reg,
                .address = destination});
        advance(rsi);
        advance(rdi);
        break;
    case Op::scas:
        append({.kind = Kind::load, .size = size, .destination = ir::temp, .address = destination});
        advance(rdi);
        append({.kind = Kind::compare,
                .size = size,
                .source = rax,
                .flags_written = flag::arithmetic});
        break;
    default: // CMPS
        append({.kind = Kind::load, .size = size, .destination = ir::kept, .address = source});
        append({.kind = Kind::load, .size = size, .destination = ir::temp, .address = destination});
        advance(rsi);
        advance(rdi);
        append({.kind = Kind::compare,
                .size = size,
                .source = ir::kept,
                .flags_written = flag::arithmetic});
        break;
    }
    return Result::next;
}

Result Lowering::lower(Insn &insn, u16 offset) {
    offset_ = offset;
    if (insn.cpuid_feature != u16(Feature::none) && !cpu_has(cpu_, insn.cpuid_feature) &&
        !without_feature(insn))
        return Result::interpret;
    switch (insn.op) {
    case Op::cmpxchg8b:
        if (!memory_operand(insn))
            return Result::interpret;
        return native(insn);
    case Op::bt:
    case Op::bts:
    case Op::btr:
    case Op::btc:
        // A register bit offset reaches beyond the addressed operand.
        if (memory_operand(insn) && insn.operand[1].kind == OperandKind::gpr)
            return interpret_here(insn);
        return native(insn);
    case Op::add:
    case Op::or_:
    case Op::adc:
    case Op::sbb:
    case Op::and_:
    case Op::sub:
    case Op::xor_:
    case Op::cmp:
    case Op::test:
    case Op::inc:
    case Op::dec:
    case Op::neg:
    case Op::not_:
    case Op::mul:
    case Op::imul1:
    case Op::imul:
    case Op::rol:
    case Op::ror:
    case Op::rcl:
    case Op::rcr:
    case Op::shl:
    case Op::shr:
    case Op::sar:
    case Op::shld:
    case Op::shrd:
    case Op::bsf:
    case Op::bsr:
    case Op::popcnt:
    case Op::lzcnt:
    case Op::tzcnt:
    case Op::bswap:
    case Op::cmpxchg:
    case Op::xadd:
    case Op::mov:
    case Op::movzx:
    case Op::movsx:
    case Op::xchg:
    case Op::cbw:
    case Op::cwd:
    case Op::setcc:
    case Op::cmovcc:
    case Op::movnti:
    case Op::lahf:
    case Op::sahf:
    case Op::clc:
    case Op::stc:
    case Op::cmc: return native(insn);
    case Op::sse: return mode_ & mode::sse ? native(insn) : Result::interpret;
    case Op::fpu: return x87(insn);
    case Op::lods:
    case Op::stos:
    case Op::movs:
    case Op::scas:
    case Op::cmps: return string(insn);
    case Op::mmx:
    case Op::emms:
        if (!(mode_ & mode::x87) || (insn.op == Op::mmx && !(mode_ & mode::sse)))
            return Result::interpret;
        append({.kind = Kind::use_x87});
        return native(insn);
    case Op::fwait: // nothing can be pending while all exceptions are masked
        return mode_ & mode::x87 ? Result::next : Result::interpret;
    case Op::div:
    case Op::idiv:
        return insn.operand_size >= 4 && !insn.operand[0].high && insn.operand[0].size >= 4
                   ? native(insn, Kind::divide)
                   : Result::interpret;
    case Op::lea: {
        ir::Op o{.kind = Kind::set_address,
                 .size = insn.operand_size,
                 .destination = insn.operand[0].index};
        if (insn.operand_size == 2 || !address_of(insn, o.address))
            return Result::interpret;
        o.address.segment = ir::no_value;
        append(o);
        return Result::next;
    }
    case Op::push: return push(insn);
    case Op::pop: return pop(insn);
    case Op::leave:
        if (insn.operand_size != word())
            return Result::interpret;
        append({.kind = Kind::load,
                .size = word(),
                .destination = ir::temp,
                .address = {.base = rbp, .offset_size = word(), .linear_size = word()}});
        append({.kind = Kind::add,
                .size = word(),
                .destination = rsp,
                .source = rbp,
                .immediate = word()});
        append({.kind = Kind::set,
                .size = word(),
                .destination = rbp,
                .source = ir::temp,
                .source_kind = SourceKind::reg});
        return Result::next;
    case Op::call: return call(insn);
    case Op::call_indirect: return call_indirect(insn, true);
    case Op::jmp_indirect: return call_indirect(insn, false);
    case Op::ret: return ret(insn);
    case Op::jmp:
        if (insn.operand_size != word())
            return Result::interpret;
        jump(offset_, branch_target(insn));
        return Result::end;
    case Op::jcc:
        if (insn.operand_size != word())
            return Result::interpret;
        append({.kind = Kind::branch,
                .condition = insn.condition,
                .flags_read = insn.flags_read,
                .immediate = branch_target(insn)});
        return Result::next;
    case Op::jcxz:
        if (insn.operand_size != word() || insn.address_size == 2)
            return Result::interpret;
        append({.kind = Kind::branch_count_zero,
                .size = insn.address_size,
                .immediate = branch_target(insn)});
        return Result::next;
    case Op::pushf:
        if (insn.operand_size != word() || mode_ & mode::vm86)
            return Result::interpret;
        append({.kind = Kind::read_flags, .destination = ir::kept, .flags_read = flag::arithmetic});
        push_value(SourceKind::reg, ir::kept, 0);
        return Result::next;
    case Op::cli:
        if (mode_ & mode::user || !(mode_ & mode::protected_))
            return Result::interpret;
        append({.kind = Kind::clear_flags, .immediate = flag::if_});
        return Result::next;
    case Op::sti:
        if (mode_ & mode::user || !(mode_ & mode::protected_))
            return Result::interpret;
        append({.kind = Kind::set_flags, .immediate = flag::if_});
        return Result::next;
    case Op::mov_from_seg:
        if (insn.operand[0].kind != OperandKind::gpr || insn.operand_size < 4)
            return Result::interpret;
        append({.kind = Kind::read_selector,
                .size = insn.operand_size,
                .destination = insn.operand[0].index,
                .immediate = insn.operand[1].index});
        return Result::next;
    case Op::swapgs:
        if (!code64() || mode_ & mode::user)
            return Result::interpret;
        append({.kind = Kind::swap_gs});
        return Result::next;
    case Op::cld: append({.kind = Kind::clear_flags, .immediate = flag::df}); return Result::next;
    case Op::std_: append({.kind = Kind::set_flags, .immediate = flag::df}); return Result::next;
    case Op::rdtsc:
        if (mode_ & mode::no_tsc)
            return Result::interpret;
        append({.kind = Kind::read_time});
        return Result::next;
    case Op::nop:
    case Op::endbr:
    case Op::prefetch:
    case Op::pause:
    case Op::lfence:
    case Op::mfence:
    case Op::sfence: // one vCPU thread, and x86 hosts order stores as guests do
        return Result::next;
    // Neither transfers of control nor I/O: worth staying in the block for.
    case Op::mov_from_cr:
    case Op::mov_to_seg:
    case Op::push_seg:
    case Op::pop_seg:
    case Op::popf:
    case Op::rdmsr:
    case Op::cpuid:
    case Op::invlpg:
    case Op::rdtscp:
    case Op::xlat: return interpret_here(insn);
    default: return Result::interpret;
    }
}

} // namespace

void lower_block(std::span<const u8> page, u16 offset, u32 mode, const Cpu &cpu, unsigned limit,
                 LoweredBlock &out) noexcept {
    Lowering lowering(mode, cpu, out);
    const CodeSize size =
        (mode & mode::code_mask) == mode::code64 ? CodeSize::bits64 : CodeSize::bits32;
    out.ir.count = 0;
    out.insn_count = 0;
    out.ir.start = offset;
    u32 at = offset;
    bool in_shadow = false; // the instruction before was STI
    for (;;) {
        const bool full = out.insn_count == limit || at >= page.size();
        Result result = Result::interpret;
        bool crosses = false;
        const unsigned mark = out.ir.count;
        if (!full) {
            Insn &insn = out.insn[out.insn_count];
            const DecodeStatus status = decode(page.subspan(at), size, insn);
            if (status == DecodeStatus::ok)
                result = lowering.lower(insn, u16(at));
            crosses = status == DecodeStatus::truncated && out.insn_count > 0;
        }
        if (result == Result::interpret) {
            out.ir.count = mark; // forget what was lowered of it before we knew
            if (in_shadow) {     // T0 runs the STI as well, because it knows the shadow
                out.ir.count = mark - 1;
                --out.insn_count;
                at -= 1; // STI is one byte
                lowering.interpret(u16(at));
            } else if (full || crosses) { // what lies in two pages is a block of its own
                lowering.jump(u16(at - 1), at, crosses);
            } else {
                lowering.interpret(u16(at));
            }
            break;
        }
        const Insn &insn = out.insn[out.insn_count];
        at += insn.length;
        ++out.insn_count;
        if (result == Result::end)
            break;
        if (in_shadow) { // interrupts are looked at when a block is entered, so this one ends here
            lowering.jump(u16(at - 1), at);
            break;
        }
        in_shadow = insn.op == Op::sti;
    }
    out.ir.end = u16(at);
}

void lower_one(std::span<const u8> bytes, u16 offset, u32 mode, const Cpu &cpu,
               LoweredBlock &out) noexcept {
    Lowering lowering(mode, cpu, out);
    out.ir.count = 0;
    out.insn_count = 0;
    out.ir.start = offset;
    Insn &insn = out.insn[0];
    Result result = Result::interpret;
    if (decode(bytes, CodeSize(mode & mode::code_mask), insn) == DecodeStatus::ok &&
        insn.op != Op::sti)
        result = lowering.lower(insn, offset);
    const u32 end = offset + (result == Result::interpret ? 1u : insn.length);
    if (result == Result::interpret) {
        out.ir.count = 0;
        lowering.interpret(offset);
    } else {
        ++out.insn_count;
        if (result == Result::next)
            lowering.jump(offset, end);
    }
    out.ir.end = u16(end);
}

} // namespace rhea::dbt::x86
