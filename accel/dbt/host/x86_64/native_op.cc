#include "accel/dbt/host/x86_64/native_op.h"

#include "accel/dbt/host/x86_64/flag_state.h"
#include "accel/dbt/host/x86_64/layout.h"

namespace rhea::dbt::host {
namespace {

using x86::Insn;
using x86::Op;
using x86::Operand;
using x86::OperandField;
using x86::OperandKind;

// Bytes of immediate in the encoding.
unsigned immediate_bytes(const Insn &i) {
    const unsigned z = i.operand_size >= 4 ? 4 : i.operand_size;
    if (i.map == 3)
        return 1;
    if (i.map == 1) {
        switch (i.opcode) {
        case 0x70:
        case 0x71:
        case 0x72:
        case 0x73:
        case 0xa4:
        case 0xac:
        case 0xba:
        case 0xc2:
        case 0xc4:
        case 0xc5:
        case 0xc6: return 1;
        default: return 0;
        }
    }
    if (i.map != 0)
        return 0;
    switch (i.opcode) {
    case 0x6b:
    case 0x80:
    case 0x82:
    case 0x83:
    case 0xc0:
    case 0xc1:
    case 0xc6:
    case 0xa8: return 1;
    case 0x69:
    case 0x81:
    case 0xc7:
    case 0xa9: return z;
    case 0xf6: return (i.modrm >> 3 & 7) < 2 ? 1 : 0;
    case 0xf7: return (i.modrm >> 3 & 7) < 2 ? z : 0;
    default:
        if (i.opcode < 0x40 && (i.opcode & 7) == 4)
            return 1;
        if (i.opcode < 0x40 && (i.opcode & 7) == 5)
            return z;
        return 0;
    }
}

// F2 and F3 are part of the opcode only here; elsewhere they mean nothing, or something that must
// not be passed on.
bool keeps_repeat_prefix(const Insn &i) {
    return i.op == Op::sse || i.op == Op::mmx || i.op == Op::popcnt || i.op == Op::lzcnt ||
           i.op == Op::tzcnt;
}

bool count_in_cl(const Insn &i) {
    return (i.map == 0 && (i.opcode == 0xd2 || i.opcode == 0xd3)) ||
           (i.map == 1 && (i.opcode == 0xa5 || i.opcode == 0xad));
}

// The registers of one instruction while it is encoded.
class Encoding {
public:
    Encoding(Emitter &e, const Insn &insn, bool memory) : e_(e), insn_(insn), memory_(memory) {
        // Without REX the high bytes of the legacy registers are there as they are.
        for (unsigned i = 0; i < insn.operand_count; ++i) {
            const Operand &o = insn.operand[i];
            if (o.kind == OperandKind::gpr && o.high)
                high_ = true;
            else if (o.kind == OperandKind::gpr && o.field != OperandField::implied &&
                     home(o.index) != o.index)
                plain_ = false;
        }
        if (memory)
            plain_ = false;
    }

    // The host register number to encode for this operand, loaded if need be.
    u8 use(const Operand &o) {
        if (o.kind != OperandKind::gpr)
            return o.index;
        if (o.high) {
            if (plain_)
                return u8(o.index + 4);
            const Reg scratch = take();
            e_.store(gs_at(offset_scratch), home(o.index));
            e_.load_sized(scratch, gs_at(offset_scratch + 1), 1);
            return pending(o, scratch);
        }
        if (o.size == 1 && o.index >= 4 && o.index < 8)
            force_rex_ = true;
        if (home(o.index) != no_reg)
            return home(o.index);
        for (unsigned i = 0; i < used_; ++i) // the same register twice
            if (!slot_[i].operand->high && slot_[i].operand->index == o.index) {
                slot_[i].written |= (o.access & x86::access::write) != 0;
                return slot_[i].reg;
            }
        const Reg scratch = take();
        e_.load(scratch, gpr_slot(o.index));
        return pending(o, scratch);
    }

    // Puts back what was written to stand-ins.
    void finish() {
        for (unsigned i = 0; i < used_; ++i) {
            const Slot &s = slot_[i];
            if (!s.written)
                continue;
            if (!s.operand->high) {
                e_.store(gpr_slot(s.operand->index), s.reg);
                continue;
            }
            const Reg whole = home(s.operand->index);
            e_.store(gs_at(offset_scratch), whole);
            e_.store_sized(gs_at(offset_scratch + 1), s.reg, 1);
            e_.load(whole, gs_at(offset_scratch));
        }
    }

    bool force_rex() const { return force_rex_ && !(high_ && plain_); }

private:
    struct Slot {
        const Operand *operand;
        Reg reg;
        bool written;
    };
    Reg take() {
        static constexpr Reg order[] = {r13, r15, r14};
        return order[used_];
    }
    u8 pending(const Operand &o, Reg scratch) {
        slot_[used_++] = {&o, scratch, (o.access & x86::access::write) != 0};
        return scratch;
    }

    Emitter &e_;
    const Insn &insn_;
    const bool memory_;
    bool high_ = false, plain_ = true, force_rex_ = false;
    unsigned used_ = 0;
    Slot slot_[3]{};
};

} // namespace

void NativeOp::emit(Emitter &e, bool memory) const {
    const Insn &in = insn_;
    Opcode o{.prefix = u8(in.prefix_66 ? 0x66 : 0),
             .map = in.map,
             .byte = in.opcode,
             .wide = (in.rex & 8) != 0};
    if (in.prefix_rep && keeps_repeat_prefix(in)) {
        if (o.prefix)
            e.byte(o.prefix);
        o.prefix = in.prefix_rep;
    }
    o.lock = in.lock && memory;
    if (in.op == Op::fpu && !memory) { // its registers are in the ModRM byte
        e.byte(in.opcode);
        e.byte(in.modrm);
        return;
    }
    Encoding registers(e, in, memory);

    const Operand *reg = nullptr, *rm = nullptr, *low = nullptr;
    for (unsigned i = 0; i < in.operand_count; ++i) {
        const Operand &operand = in.operand[i];
        if (operand.kind == OperandKind::memory)
            rm = &operand;
        else if (operand.kind == OperandKind::immediate)
            continue;
        else if (operand.field == OperandField::modrm_reg)
            reg = &operand;
        else if (operand.field == OperandField::modrm_rm)
            rm = &operand;
        else if (operand.field == OperandField::opcode_low_bits)
            low = &operand;
    }
    unsigned immediate = immediate_bytes(in);

    // Encodings with a register in the opcode byte, and MOV to and from an absolute address: as
    // their ModRM twins.
    u8 extension = in.modrm >> 3 & 7;
    if (!in.has_modrm && low) {
        rm = low;
        if (in.op == Op::inc || in.op == Op::dec) {
            o.byte = 0xff;
            extension = in.op == Op::inc ? 0 : 1;
        } else if (in.op == Op::mov) {
            if (!low->high && low->size >= 4) {
                const Reg to = home(low->index);
                e.mov_imm(to == no_reg ? r13 : to,
                          low->size == 4 ? u32(in.immediate) : in.immediate);
                if (to == no_reg)
                    e.store(gpr_slot(low->index), r13);
                return;
            }
            o.byte = low->size == 1 ? 0xc6 : 0xc7;
            extension = 0;
            immediate = low->size;
        } else if (in.op == Op::xchg) {
            o.byte = 0x87;
            static constexpr Operand accumulator{OperandKind::gpr,        x86::rax, 0,
                                                 x86::access::read_write, 0,        0,
                                                 OperandField::modrm_reg};
            reg = &accumulator;
        } else { // BSWAP
            const u8 r = registers.use(*low);
            e.byte(u8(0x40 | (o.wide ? 8 : 0) | (r >= 8 ? 1 : 0)));
            e.byte(0x0f);
            e.byte(u8(0xc8 | (r & 7)));
            registers.finish();
            return;
        }
    } else if (!in.has_modrm && rm) { // A0..A3
        static constexpr Operand al{
            OperandKind::gpr, x86::rax, 1, x86::access::read_write, 0, 0, OperandField::modrm_reg};
        o.byte = u8(in.opcode < 0xa2 ? in.opcode - 0xa0 + 0x8a : in.opcode - 0xa2 + 0x88);
        reg = &al;
    }

    const bool modrm = in.has_modrm || rm;
    if (!modrm) { // accumulator and immediate, CBW, CLC …
        if (o.prefix)
            e.byte(o.prefix);
        if (o.wide)
            e.byte(0x48);
        if (o.map)
            e.byte(0x0f);
        e.byte(o.byte);
    } else {
        const u8 r = reg ? registers.use(*reg) : extension;
        const bool to_memory = rm && rm->kind == OperandKind::memory;
        const u8 m = to_memory || !rm ? u8(in.modrm & 7) : registers.use(*rm);
        o.byte_registers = registers.force_rex();
        if (to_memory)
            e.op(o, r, at(r14));
        else
            e.op(o, r, m);
    }
    for (unsigned i = 0; i < immediate; ++i)
        e.byte(u8((in.op == Op::enter ? 0 : in.immediate) >> (8 * i)));
    registers.finish();
}

bool NativeOp::writes_all_flags() const {
    if ((insn_.flags_written & x86::flag::arithmetic) != x86::flag::arithmetic)
        return false;
    switch (insn_.op) {
    case Op::shl:
    case Op::shr:
    case Op::sar:
    case Op::shld:
    case Op::shrd: {
        if (count_in_cl(insn_))
            return false;
        if (insn_.map == 0 && (insn_.opcode == 0xd0 || insn_.opcode == 0xd1))
            return true;
        return (insn_.immediate & (insn_.operand_size == 8 ? 63 : 31)) != 0;
    }
    case Op::rol:
    case Op::ror:
    case Op::rcl:
    case Op::rcr:
    case Op::inc:
    case Op::dec: return false;
    // Of these the undefined flags are not necessarily written by the host.
    case Op::bt:
    case Op::bts:
    case Op::btr:
    case Op::btc:
    case Op::clc:
    case Op::stc:
    case Op::cmc:
    case Op::cmpxchg8b: return false;
    default: return true;
    }
}

u32 NativeOp::registers_written() const {
    u32 written = 0;
    for (unsigned i = 0; i < insn_.operand_count; ++i) {
        const Operand &o = insn_.operand[i];
        if (o.kind == OperandKind::gpr && (o.access & x86::access::write))
            written |= 1u << o.index;
    }
    constexpr u32 a = 1u << x86::rax, d = 1u << x86::rdx;
    switch (insn_.op) {
    case Op::mul:
    case Op::imul1:
    case Op::cmpxchg8b:
    case Op::cwd:
    case Op::cbw:
    case Op::xchg:
    case Op::mov:
    case Op::lahf:
        return written | a |
               (insn_.op == Op::mul || insn_.op == Op::imul1 || insn_.op == Op::cmpxchg8b ||
                        insn_.op == Op::cwd
                    ? d
                    : 0);
    case Op::cmpxchg: return written | a;
    default: return written;
    }
}

FlagRecipe NativeOp::flag_recipe() const {
    if (insn_.operand_count < 2)
        return {};
    const Operand &a = insn_.operand[0], &b = insn_.operand[1];
    // Operands in registers that have a host register, or an immediate that a store can hold.
    if (a.kind != OperandKind::gpr || a.high || home(a.index) == no_reg)
        return {};
    const bool b_register = b.kind == OperandKind::gpr && !b.high && home(b.index) != no_reg;
    const bool b_immediate =
        b.kind == OperandKind::immediate && i64(insn_.immediate) == i32(insn_.immediate);
    const u32 size = a.size == 1 ? 0 : a.size == 2 ? 1 : a.size == 4 ? 2 : 3;
    FlagRecipe r{.result = a.index};
    auto form = [&](x86::CcForm f) { return x86::CcForm(u32(f) | size); };
    switch (insn_.op) {
    case Op::and_:
    case Op::or_:
    case Op::xor_: r.form = form(x86::CcForm::logic); return r;
    case Op::test:
        if (b_register && b.index == a.index) {
            r.form = form(x86::CcForm::logic);
            return r;
        }
        return {};
    case Op::add:
    case Op::sub:
        if (b_register && b.index == a.index && insn_.op == Op::add)
            return {};
        r.form = form(insn_.op == Op::add ? x86::CcForm::add : x86::CcForm::sub);
        break;
    case Op::cmp: r.form = form(x86::CcForm::compare); break;
    default: return {};
    }
    if (!b_register && !b_immediate)
        return {};
    r.has_source = true;
    r.source = b_register ? b.index : ir::no_value;
    r.immediate = i32(insn_.immediate);
    return r;
}

} // namespace rhea::dbt::host
