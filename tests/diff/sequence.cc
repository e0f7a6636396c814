#include "tests/diff/generator.h"

#include "accel/dbt/guest/x86/exec.h"

#include <algorithm>
#include <cstring>

namespace rhea::dbt::diff {
namespace {

using namespace x86;

bool fits_sequences(const Form &form) {
    switch (form.op) {
    case Op::inc:
    case Op::dec:
    case Op::neg:
    case Op::not_:
    case Op::test:
    case Op::bswap:
    case Op::cmpxchg:
    case Op::cmpxchg8b:
    case Op::xadd:
    case Op::mov:
    case Op::movzx:
    case Op::movsx:
    case Op::lea:
    case Op::xchg:
    case Op::push:
    case Op::pop:
    case Op::cbw:
    case Op::cwd:
    case Op::setcc:
    case Op::cmovcc:
    case Op::movnti:
    case Op::lahf:
    case Op::sahf:
    case Op::jcc:
    case Op::jmp:
    case Op::loop:
    case Op::loope:
    case Op::loopne:
    case Op::jcxz:
    case Op::nop:
    case Op::clc:
    case Op::stc:
    case Op::cmc:
    case Op::cld:
    case Op::std_:
    case Op::pushf:
    case Op::salc:
    case Op::fpu:
    case Op::fwait:
    case Op::emms:
    case Op::mmx:
    case Op::sse:
    case Op::lfence:
    case Op::pause:
    case Op::stmxcsr: return true;
    default:
        return form.op < Op::test || (form.op >= Op::mul && form.op <= Op::idiv) ||
               (form.op >= Op::rol && form.op <= Op::bsr);
    }
}

std::vector<const Form *> sequence_forms() {
    std::vector<const Form *> list;
    for (const Form &form : forms) {
        if (fits_sequences(form))
            list.push_back(&form);
    }
    return list;
}

bool by_register(const Insn &insn) { // a shift by CL
    return insn.operand_count > 1 && insn.operand[insn.operand_count - 1].kind == OperandKind::gpr;
}
bool is_shift(Op op) {
    return op >= Op::rol && op <= Op::shrd;
}

// Flags that the result depends on. Those that a shift by zero passes on are not among them.
u32 true_reads(const Insn &insn) {
    if (!is_shift(insn.op))
        return insn.flags_read;
    return insn.op == Op::rcl || insn.op == Op::rcr ? flag::cf : 0;
}

u32 undefined_after(const Insn &insn, u32 before) {
    const bool keeps = is_shift(insn.op) && (insn.flags_read & insn.flags_written & ~flag::cf) != 0;
    u32 after = (keeps ? before : before & ~insn.flags_written) | insn.flags_undefined;
    if (is_shift(insn.op) && insn.operand_size <= 2 && insn.op >= Op::shl) {
        if (by_register(insn) || insn.immediate % 32 >= 8u * insn.operand_size)
            after |= insn.op >= Op::shld ? flag::arithmetic : flag::cf;
    }
    return after & flag::arithmetic;
}

bool writes_stack_pointer(const Insn &insn) {
    return std::any_of(std::begin(insn.operand), std::end(insn.operand), [](const Operand &o) {
        return o.kind == OperandKind::gpr && !o.high && o.index == rsp &&
               (o.access & access::write) != 0;
    });
}

bool is_branch(Op op) {
    return op == Op::jcc || op == Op::jmp || (op >= Op::loop && op <= Op::jcxz);
}

} // namespace

bool Generator::make_item(const Form &form, bool code64, Input &input, unsigned offset,
                          Insn &insn) {
    const CodeSize size = code64 ? CodeSize::bits64 : CodeSize::bits32;
    Input one;
    encode(form, code64, one);
    if (decode(one.bytes, size, insn) != DecodeStatus::ok || insn.op != form.op)
        return false;
    if (insn.segment_override && insn.segment != ds)
        return false;
    if (insn.address_size != (code64 ? 8 : 4) || writes_stack_pointer(insn))
        return false;
    // The result is undefined if the count is larger than the operand.
    if ((insn.op == Op::shld || insn.op == Op::shrd) && insn.operand_size == 2)
        return false;
    const Operand *memory = nullptr;
    for (const Operand &operand : insn.operand) {
        if (operand.kind == OperandKind::memory)
            memory = &operand;
    }
    if (memory != nullptr && insn.op != Op::lea) {
        if ((insn.op >= Op::bt && insn.op <= Op::btc) && insn.operand[1].kind == OperandKind::gpr)
            return false;
        if (insn.op == Op::fpu && insn.operand[0].size > 10)
            return false;
        const u64 target = pick_target(insn, memory->size, memory->aligned);
        const u64 address = input.state.rip + offset;
        if (insn.base == moffs_register) {
            std::memcpy(one.bytes.data() + modrm_at_, &target, insn.address_size);
        } else {
            u8 &modrm = one.bytes[modrm_at_];
            modrm = u8((modrm & 0x38) | 5);
            if (decode(one.bytes, size, insn) != DecodeStatus::ok)
                return false;
            patch(one, modrm_at_ + 1, i32(code64 ? target - (address + insn.length) : target), 4);
        }
    }
    if (is_branch(insn.op) && insn.operand[0].size > 1)
        return false; // what follows decides the distance; a byte is enough
    if (decode(one.bytes, size, insn) != DecodeStatus::ok || insn.op != form.op)
        return false;
    std::memcpy(input.bytes.data() + offset, one.bytes.data(), insn.length);
    return true;
}

void Generator::make_sequence(bool code64, const Cpu &model, Input &input, Sequence &sequence) {
    static const std::vector<const Form *> list = sequence_forms();
    input.code64 = code64;
    random_state(input);
    input.state.rip = chance(85) ? code_base + 0x400 + below(0x600) : code_base + page - below(24);
    input.state.gpr[rsp] = (data_base + 0x1000 + below(0x400)) & ~u64{7};
    sequence.items.clear();
    const unsigned wanted = 2 + unsigned(below(9));
    const bool integer_only = chance(60);
    unsigned offset = 0;
    u32 undefined = 0, undefined_at_targets = 0;
    unsigned jump_from = 0, jump_over = 0; // a branch that waits for its target: items to skip
    for (unsigned tries = 0; tries < 1000 && sequence.items.size() < wanted; ++tries) {
        const Form &form = *list[below(list.size())];
        if (integer_only && form.op >= Op::fpu)
            continue;
        Insn insn;
        if (!make_item(form, code64, input, offset, insn))
            continue;
        if (insn.cpuid_feature != 0 && !cpu_has(model, insn.cpuid_feature))
            continue;
        if ((true_reads(insn) & undefined) != 0)
            continue;
        if (is_branch(insn.op) && jump_over != 0)
            continue;
        sequence.items.push_back({insn, offset, undefined});
        offset += insn.length;
        if (jump_over != 0 && --jump_over == 0) {
            input.bytes[jump_from - 1] = u8(offset - jump_from);
            undefined_at_targets |= undefined_after(insn, undefined);
            undefined = undefined_at_targets;
        } else {
            undefined = undefined_after(insn, undefined);
        }
        if (is_branch(insn.op)) {
            jump_from = offset;
            jump_over = 1 + unsigned(below(3));
            undefined_at_targets = undefined;
        }
    }
    if (jump_over != 0) {
        input.bytes[jump_from - 1] = u8(offset - jump_from);
        undefined |= undefined_at_targets;
    }
    sequence.undefined_after = undefined;
    input.length = offset;
}

} // namespace rhea::dbt::diff
