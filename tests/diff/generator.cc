#include "tests/diff/generator.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

namespace rhea::dbt::diff {
namespace {

using namespace x86;

std::string_view next_word(std::string_view &text) {
    while (text.starts_with(' '))
        text.remove_prefix(1);
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(word.size());
    return word;
}
bool has_word(std::string_view text, std::string_view word) {
    while (!text.empty()) {
        if (next_word(text) == word)
            return true;
    }
    return false;
}
unsigned hex_value(std::string_view digits) {
    unsigned value = 0;
    for (const char c : digits.substr(0, 2))
        value = value * 16 + unsigned(c <= '9' ? c - '0' : c - 'A' + 10);
    return value;
}

constexpr Op untestable[] = {
    // system calls, exceptions on purpose, other segments
    Op::int_,
    Op::int1,
    Op::iret,
    Op::syscall,
    Op::sysenter,
    Op::sysret,
    Op::sysexit,
    Op::vmcall,
    Op::mov_to_seg,
    Op::pop_seg,
    Op::load_far,
    Op::jmp_far,
    Op::call_far,
    Op::jmp_far_indirect,
    Op::call_far_indirect,
    Op::ret_far,
    // what they give depends on the machine or on the kernel's tables
    Op::cpuid,
    Op::rdtsc,
    Op::rdtscp,
    Op::rdpmc,
    Op::rdrand,
    Op::rdseed,
    Op::rdpid,
    Op::xgetbv,
    Op::xsetbv,
    Op::lar,
    Op::lsl,
    Op::verr,
    Op::verw,
    Op::monitor,
    Op::mwait,
    Op::rdfsbase,
    Op::rdgsbase,
    Op::wrfsbase,
    Op::wrgsbase,
    Op::xsave,
    Op::xrstor,
    Op::xsaveopt,
    Op::rsm,
    // the kernel turns UMIP on and then plays some of these itself
    Op::sgdt,
    Op::sidt,
    Op::sldt,
    Op::str,
    Op::smsw,
    // undefined results
    Op::bswap16_undefined,
};

// A jump into itself could do anything, or go on for ever.
bool inside(const Input &input, u64 target) {
    return target - input.state.rip < input.length;
}
bool is_string(Op op) {
    return op >= Op::movs && op <= Op::outs;
}
bool uses_stack(Op op) {
    switch (op) {
    case Op::push:
    case Op::pop:
    case Op::pusha:
    case Op::popa:
    case Op::pushf:
    case Op::popf:
    case Op::push_seg:
    case Op::call:
    case Op::call_indirect:
    case Op::ret:
    case Op::enter:
    case Op::leave: return true;
    default: return false;
    }
}

} // namespace

bool Generator::testable(const Form &form) {
    return std::find(std::begin(untestable), std::end(untestable), form.op) == std::end(untestable);
}

// --- values

u64 Generator::integer() {
    switch (below(8)) {
    case 0: return below(4) - 1; // -1, 0, 1, 2
    case 1: return any() & 0xff;
    case 2: {
        const unsigned bits = 8u << below(4); // around the ends of each size
        return (u64{1} << (bits - 1)) + below(3) - 1;
    }
    case 3: return any() & 0xffff'ffff;
    case 4: return u64{1} << below(64);
    default: return any();
    }
}

u64 Generator::double_bits() {
    const u64 sign = u64{below(2)} << 63;
    switch (below(12)) {
    case 0: return sign;
    case 1: return sign | 0x7ff0'0000'0000'0000;
    case 2: return sign | 0x7ff8'0000'0000'0000 | (any() >> 13);
    case 3: return sign | 0x7ff0'0000'0000'0000 | (any() >> 13) | 1;
    case 4: return sign | (any() >> (12 + below(50)));                   // denormal
    case 5: return sign | (u64{below(4)} + 1) << 52 | (any() >> 12);     // tiny
    case 6: return sign | (u64{0x7fe} - below(3)) << 52 | (any() >> 12); // huge
    case 7: return std::bit_cast<u64>(double(i64(below(2000)) - 1000));
    case 8: return std::bit_cast<u64>(double(i64(any())) / 16);
    default: return sign | (u64{0x3ff} - 30 + below(60)) << 52 | (any() >> 12);
    }
}
u32 Generator::float_bits() {
    const u32 sign = u32(below(2)) << 31;
    const u32 mantissa = u32(any()) >> 9;
    switch (below(12)) {
    case 0: return sign;
    case 1: return sign | 0x7f80'0000;
    case 2: return sign | 0x7fc0'0000 | mantissa;
    case 3: return sign | 0x7f80'0000 | (mantissa >> 1) | 1;
    case 4: return sign | (mantissa >> below(20));
    case 5: return sign | (u32(below(4)) + 1) << 23 | mantissa;
    case 6: return sign | (0xfe - u32(below(3))) << 23 | mantissa;
    case 7: return std::bit_cast<u32>(float(i64(below(2000)) - 1000));
    case 8: return std::bit_cast<u32>(float(i32(any())) / 16);
    default: return sign | (0x7f - 15 + u32(below(30))) << 23 | mantissa;
    }
}

void Generator::random_x87(FxImage &fpu) {
    fpu = {};
    fpu.control = u16(0x40 | below(4) << 10 | (chance(70) ? 3 : below(4)) << 8 |
                      (chance(70) ? 0x3f : any() & 0x3f));
    fpu.status = u16((any() & 0x4700) | below(8) << 11);
    // Sticky flags; one that is not masked would be a pending error.
    fpu.status |= u16(any() & 0x3f & (chance(92) ? fpu.control : 0x3f));
    if (chance(50))
        fpu.status &= u16(~0x3f);
    fpu.status |= u16((fpu.status & 1) != 0 ? any() & 0x40 : 0);
    if ((fpu.status & ~fpu.control & 0x3f) != 0)
        fpu.status |= 0x8080;
    fpu.tag = chance(70) ? 0xff : u8(any());
    if (chance(10))
        fpu.tag = 0;
    for (auto &st : fpu.st) {
        const u16 sign = u16(below(2) << 15);
        switch (below(10)) {
        case 0: st = {0, sign, {}}; break;
        case 1: st = {u64{1} << 63, u16(sign | 0x7fff), {}}; break;
        case 2: st = {any() | u64{3} << 62, u16(sign | 0x7fff), {}}; break;
        case 3: st = {(any() >> 2) | u64{1} << 63 | 1, u16(sign | 0x7fff), {}}; break;
        case 4: st = {any() >> (1 + below(60)), sign, {}}; break; // denormal
        case 5: st = {any(), u16(any()), {}}; break;              // unnormals and all else
        case 6: st = {u64(below(1000) + 1) << 54, u16(sign | (0x3fff + 9)), {}}; break;
        default: st = {any() | u64{1} << 63, u16(sign | (0x3fff - 40 + below(80))), {}}; break;
        }
        if (st.exponent != 0 && below(10) == 0)
            st.mantissa |= u64{1} << 63;
    }
}

void Generator::random_state(Input &input) {
    State &s = input.state;
    for (u64 &gpr : s.gpr)
        gpr = integer();
    s.rflags = flag::always_one | flag::if_ | (any() & flag::arithmetic);
    if (chance(25))
        s.rflags |= flag::df;
    for (Xmm &xmm : s.xmm) {
        switch (below(4)) {
        case 0: xmm = {any(), any()}; break;
        case 1: xmm = {double_bits(), double_bits()}; break;
        default:
            xmm = {u64{float_bits()} << 32 | float_bits(), u64{float_bits()} << 32 | float_bits()};
            break;
        }
    }
    s.mxcsr = chance(60) ? 0x1f80 : u32(any() & 0xffff);
    if (chance(40))
        s.mxcsr = (s.mxcsr & ~0x3fu) | u32(below(4) << 13);
    random_x87(s.fpu);
    // The rest of the data is whatever the case before had left.
    const u64 from = below(data_size / 64 - 16) * 64;
    for (u64 i = from; i < from + 1024; i += 8) {
        u64 value = any();
        if ((i & 64) == 0)
            value = (i & 128) != 0 ? double_bits() : u64{float_bits()} << 32 | float_bits();
        std::memcpy(input.data.data() + i, &value, 8);
    }
    if (!input.code64) {
        std::fill(s.gpr.begin() + 8, s.gpr.end(), 0);
        for (u64 &gpr : s.gpr)
            gpr &= 0xffff'ffff;
    }
}

// --- encodings

bool Generator::encode(const Form &form, bool code64, Input &input) {
    std::string_view encoding = form.encoding, rest = form.rest;
    std::string_view word = next_word(encoding);
    u8 mandatory = 0;
    const bool no_prefix = word == "NP", not_rep = word == "NFx";
    if (word == "66" || word == "F3" || word == "F2")
        mandatory = u8(hex_value(word));
    const bool constrained = no_prefix || not_rep || mandatory != 0;
    if (constrained)
        word = next_word(encoding);

    unsigned at = 0;
    const auto emit = [&](u64 byte) noexcept {
        if (at < 15)
            input.bytes[at++] = u8(byte);
    };
    if (chance(5)) {
        static constexpr u8 segments[] = {0x26, 0x2e, 0x36, 0x3e};
        emit(segments[below(4)]);
    }
    if (code64 && chance(4))
        emit(0x67);
    if ((!constrained && chance(20)) || (not_rep && chance(30)) ||
        ((mandatory == 0xf2 || mandatory == 0xf3) && chance(6)))
        emit(0x66);
    const bool locked = has_word(rest, "lock") && chance(15);
    if (locked)
        emit(0xf0);
    if (is_string(form.op) && chance(60))
        emit(chance(50) ? 0xf2 : 0xf3);
    if (mandatory != 0)
        emit(mandatory);
    if (code64 && chance(60))
        emit(0x40 | below(16));
    if (word == "0F") {
        emit(0x0f);
        word = next_word(encoding);
        if (word == "38" || word == "3A") {
            emit(hex_value(word));
            word = next_word(encoding);
        }
    }
    u64 opcode = hex_value(word);
    word.remove_prefix(2);
    if (word == "+r")
        opcode += below(8);
    else if (word == "+cc")
        opcode += below(16);
    emit(opcode);
    modrm_at_ = at;
    word = next_word(encoding);
    if (!word.empty()) {
        u64 modrm = any() & 0xff;
        if (locked || has_word(rest, "mem"))
            modrm = below(3) << 6 | (modrm & 0x3f);
        else if (has_word(rest, "reg") || chance(40))
            modrm |= 0xc0;
        if (word[0] != '/')
            modrm = hex_value(word);
        else if (word != "/r")
            modrm = (modrm & 0xc7) | u64(word[1] - '0') << 3;
        emit(modrm);
    }
    while (at < 15)
        emit(chance(30) ? below(4) : any());
    return true;
}

void Generator::patch(Input &input, unsigned at, i32 value, unsigned size) {
    if (at + size <= 15)
        std::memcpy(input.bytes.data() + at, &value, size);
}

template <class T> void Generator::put(Input &input, u64 linear, T value) {
    if (linear >= data_base && linear + sizeof value <= data_base + data_size)
        std::memcpy(input.data.data() + (linear - data_base), &value, sizeof value);
}
void Generator::put_pointer(Input &input, u64 linear, u64 value, unsigned size) {
    if (linear >= data_base && linear + size <= data_base + data_size)
        std::memcpy(input.data.data() + (linear - data_base), &value, size);
}

u64 Generator::pick_target(const Insn &insn, unsigned size, bool aligned) {
    u64 target = data_base + 0x400 + below(writable_size - 0x800 - 512);
    // Those that may be done in part before they fault stay away from the edges.
    const bool big = size == 0 || size > 16 || size == 10 || size == 14 || insn.op == Op::bound;
    if (!big && !uses_stack(insn.op)) {
        switch (below(24)) {
        case 0: target = data_base + page - below(size + 1); break;
        case 1:
            target = data_base + writable_size - below(size + 1);
            break; // into the read-only page
        case 2: target = data_base + writable_size + below(page - 64); break;
        case 3: target = data_base + data_size - below(size + 1); break;
        case 4: target = data_base - below(size + 1); break;
        default: break;
        }
    }
    if (chance(aligned || big ? 92 : 60))
        target &= ~u64{15};
    return target;
}

u64 Generator::stack_target() {
    u64 target = data_base + 0xa00 + below(0xc00);
    if (chance(4))
        target = data_base + (chance(50) ? below(16) : writable_size - below(32)); // faults
    return chance(85) ? target & ~u64{7} : target;
}

u64 Generator::code_target(const Input &input) {
    if (chance(4))
        return code_base + code_size + below(0x800); // a hole
    const u64 target = code_base + 0x200 + below(code_size - 0x400);
    return inside(input, target) ? input.state.rip + input.length : target;
}

bool Generator::place_memory_operand(Input &input, Insn &insn, u64 &target) {
    const Operand *operand = nullptr;
    for (const Operand &o : insn.operand) {
        if (o.kind == OperandKind::memory)
            operand = &o;
    }
    if (operand == nullptr)
        return true;
    State &s = input.state;
    const bool state_image = insn.op == Op::fxsave || insn.op == Op::fxrstor;
    const bool bit_string =
        (insn.op >= Op::bt && insn.op <= Op::btc) && insn.operand[1].kind == OperandKind::gpr;
    target = pick_target(insn, state_image || bit_string ? 0 : operand->size,
                         operand->aligned || state_image);
    if (insn.base == moffs_register) {
        const u64 offset = target & size_t(insn.address_size == 8 ? ~u64{0} : 0xffff'ffff);
        std::memcpy(input.bytes.data() + modrm_at_, &offset, insn.address_size);
        return true;
    }
    const bool sib = insn.address_size != 2 && (insn.modrm & 7) == 4;
    const unsigned displacement_at = modrm_at_ + (sib ? 2 : 1);
    const unsigned mod = insn.modrm >> 6;
    i64 displacement = insn.displacement;
    if (mod == 2 && insn.base < 16) { // near, so that RSP is still a stack
        displacement = i64(below(0x400)) - 0x200;
        patch(input, displacement_at, i32(displacement), 4);
    }
    u64 index = 0;
    if (insn.index < 16) {
        if (insn.index == insn.base)
            return false;
        if (insn.index != rsp && (uses_stack(insn.op) || chance(80)))
            s.gpr[insn.index] = u64(i64(below(0x200)) - 0x100);
        index = s.gpr[insn.index] << insn.scale;
    }
    if (insn.base < 16) {
        s.gpr[insn.base] = target - u64(displacement) - index;
        if (input.code64 && insn.address_size == 4 && chance(50))
            s.gpr[insn.base] += any() << 32;
        else if (input.code64 && insn.address_size == 8 && insn.base != rsp &&
                 !uses_stack(insn.op) && chance(3))
            s.gpr[insn.base] =
                (target ^ u64{1} << (47 + below(17))) - u64(displacement) - index; // not canonical
        if (!input.code64) {
            s.gpr[insn.base] &= 0xffff'ffff;
            if (insn.index < 16)
                s.gpr[insn.index] &= 0xffff'ffff;
        }
        return true;
    }
    // No base: the displacement makes the address.
    if (insn.base == rip_register) {
        patch(input, displacement_at, i32(target - (s.rip + insn.length)), 4);
        return true;
    }
    if (insn.index < 16) {
        s.gpr[insn.index] = u64(i64(below(0x200)) - 0x100);
        if (!input.code64 || insn.address_size == 4)
            s.gpr[insn.index] &= 0xffff'ffff;
        index = u64(i64(i32(s.gpr[insn.index]))) << insn.scale;
    }
    patch(input, displacement_at, i32(target - index), 4);
    return true;
}

bool Generator::place_implicit_operands(Input &input, Insn &insn, u64 target) {
    State &s = input.state;
    const u64 mask = input.code64 ? ~u64{0} : 0xffff'ffff;
    const bool memory = insn.has_modrm && insn.modrm < 0xc0;
    const auto is_address_register = [&](unsigned r) noexcept {
        return memory && (insn.base == r || insn.index == r);
    };
    if (uses_stack(insn.op) && !is_address_register(rsp))
        s.gpr[rsp] = stack_target();
    switch (insn.op) {
    case Op::bt:
    case Op::bts:
    case Op::btr:
    case Op::btc:
        if (memory && insn.operand[1].kind == OperandKind::gpr) {
            if (is_address_register(insn.operand[1].index))
                return false;
            s.gpr[insn.operand[1].index] = u64(i64(below(0x800)) - 0x400) & mask;
        }
        break;
    case Op::movs:
    case Op::cmps:
    case Op::stos:
    case Op::lods:
    case Op::scas: {
        s.gpr[rsi] = pick_target(insn, insn.operand_size, false);
        s.gpr[rdi] =
            chance(30) ? s.gpr[rsi] + below(40) - 20 : pick_target(insn, insn.operand_size, false);
        s.gpr[rcx] = below(12);
        if (chance(30)) { // equal stretches for CMPS and SCAS
            for (u64 i = 0; i < data_size; ++i)
                input.data[i] = u8(chance(90) ? 0x11 : 0x22);
            s.gpr[rax] = 0x1111'1111'1111'1111 & mask;
        }
        break;
    }
    case Op::push_seg: // CPUs store two bytes or four
        for (u64 at = s.gpr[rsp] - 8; at < s.gpr[rsp]; ++at)
            put<u8>(input, at, 0);
        break;
    case Op::xlat: s.gpr[rbx] = (data_base + 0x800 + below(0x400)) & mask; break;
    case Op::maskmov:
        s.gpr[rdi] = pick_target(insn, 0, false);
        break; // faults of masked bytes are the CPU's choice
    case Op::enter: s.gpr[rbp] = data_base + 0xe00 + below(0x200); break;
    case Op::leave: s.gpr[rbp] = stack_target(); break;
    case Op::popf: {
        const u64 flags = flag::always_one | (any() & (flag::arithmetic | flag::df));
        put<u64>(input, s.gpr[rsp], flags);
        break;
    }
    case Op::ret: put_pointer(input, s.gpr[rsp], code_target(input), 8); break;
    case Op::call_indirect:
    case Op::jmp_indirect: {
        const u64 to = code_target(input);
        if (memory)
            put_pointer(input, target, to, insn.operand[0].size);
        else
            s.gpr[insn.operand[0].index] = to;
        break;
    }
    case Op::jcc:
    case Op::jmp:
    case Op::call:
    case Op::loop:
    case Op::loope:
    case Op::loopne:
    case Op::jcxz:
        if (insn.operand[0].size > 1) {
            const i64 distance = i64(below(0x300)) - 0x180;
            patch(input, insn.length - insn.operand[0].size, i32(distance), insn.operand[0].size);
        }
        if (insn.op >= Op::loop && insn.op <= Op::jcxz && chance(70))
            s.gpr[rcx] = below(3);
        break;
    case Op::div:
    case Op::idiv:
        if (chance(70) && !is_address_register(rdx))
            s.gpr[rdx] = chance(50) ? 0 : below(100);
        if (chance(10) && !is_address_register(rax))
            s.gpr[rax] &= 0xffff;
        break;
    case Op::cmpxchg: // half of the time equal
        if (chance(50) && !memory)
            s.gpr[rax] = s.gpr[insn.operand[0].index];
        break;
    case Op::cmpxchg8b:
        if (chance(50) && !is_address_register(rax) && !is_address_register(rdx)) {
            put(input, target, s.gpr[rax]);
            put(input, target + 8, s.gpr[rdx]);
            if (insn.operand[0].size == 8)
                put(input, target, s.gpr[rdx] << 32 | u32(s.gpr[rax]));
        }
        break;
    case Op::ldmxcsr:
        if (chance(80))
            put<u32>(input, target, u32(any() & 0xffff));
        break;
    case Op::fxrstor: {
        FxImage image{};
        random_x87(image);
        image.mxcsr = u32(any() & 0xffff);
        for (Xmm &xmm : image.unused_xmm)
            xmm = {any(), any()};
        if (chance(90))
            put(input, target, image);
        put<u64>(input, target + 8, any() >> 18); // CPUs make these addresses canonical
        put<u64>(input, target + 16, any() >> 18);
        break;
    }
    case Op::fpu:
        // FLDENV, FRSTOR, FLDCW: few reserved bits and few pending errors, else nothing else is
        // seen
        if (memory && insn.operand[0].access == access::read &&
            (insn.opcode == 0xd9 || insn.opcode == 0xdd) && (insn.modrm >> 3 & 7) >= 4 &&
            chance(90)) {
            put<u16>(
                input, target,
                u16(0x40 | below(4) << 10 | below(4) << 8 | (chance(70) ? 0x3f : any() & 0x3f)));
        }
        break;
    default: break;
    }
    // rm of a register-form jump may have been RSP: the stack has moved into code, which is still
    // in the window.
    return true;
}

bool Generator::make(const Form &form, bool code64, Input &input, Insn &insn) {
    input.code64 = code64;
    encode(form, code64, input);
    const CodeSize size = code64 ? CodeSize::bits64 : CodeSize::bits32;
    if (decode(input.bytes, size, insn) != DecodeStatus::ok || insn.op != form.op)
        return false;
    if (insn.segment_override && insn.segment >= fs)
        return false;
    if (insn.address_size == 2)
        return false; // the window is above 64 KiB
    random_state(input);
    input.length = insn.length;
    // Sometimes across the boundary of the two pages of code.
    input.state.rip =
        chance(90) ? code_base + 0x400 + below(0x600) : code_base + page - below(insn.length + 1);
    u64 target = 0;
    if (!place_memory_operand(input, insn, target) || !place_implicit_operands(input, insn, target))
        return false;
    if (decode(input.bytes, size, insn) != DecodeStatus::ok || insn.op != form.op ||
        insn.length != input.length)
        return false;
    return insn.operand[0].kind != OperandKind::relative ||
           !inside(input, input.state.rip + insn.length + insn.immediate);
}

} // namespace rhea::dbt::diff
