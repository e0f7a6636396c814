#pragma once
// An x86-64 assembler for the code generator: writes encodings straight into a buffer, knows
// nothing of guests. The caller makes sure of room (one guest instruction needs a few hundred bytes
// at the most) and checks overflowed() once a block. Encodings: Intel SDM, volume 2.

#include "dm/core/types.h"

#include <cstring>

namespace rhea::dbt::host {

enum Reg : u8 {
    rax,
    rcx,
    rdx,
    rbx,
    rsp,
    rbp,
    rsi,
    rdi,
    r8,
    r9,
    r10,
    r11,
    r12,
    r13,
    r14,
    r15,
    no_reg = 0xff
};

enum Condition : u8 {
    overflow,
    not_overflow,
    below,
    above_equal,
    equal,
    not_equal,
    below_equal,
    above,
    sign,
    not_sign,
    parity,
    not_parity,
    less,
    greater_equal,
    less_equal,
    greater
};

// [base + index << scale + displacement], in the GS segment if `gs`.
struct Mem {
    u8 base = no_reg, index = no_reg, scale = 0;
    bool gs = false;
    i32 displacement = 0;
};
inline Mem gs_at(i32 offset) {
    return {no_reg, no_reg, 0, true, offset};
}
inline Mem at(Reg base, i32 displacement = 0) {
    return {base, no_reg, 0, false, displacement};
}

// How an instruction's opcode is written: mandatory or operand-size prefix, map, opcode byte,
// REX.W.
struct Opcode {
    u8 prefix = 0; // 0, 66h, F2h, F3h
    u8 map = 0;    // 0, 1: 0F, 2: 0F 38, 3: 0F 3A
    u8 byte = 0;
    bool wide = false;
    bool byte_registers = false; // SPL, BPL, SIL, DIL need a REX prefix
    bool lock = false;
};

// A place in the buffer where a branch's displacement is still to be written.
struct Label {
    u8 *at = nullptr;
};

class Emitter {
public:
    Emitter() = default;
    Emitter(u8 *begin, u8 *end) : at_(begin), end_(end) {}

    u8 *here() const { return at_; }
    bool overflowed() const { return at_ > end_ - 64; }

    void byte(u8 value) {
        if (at_ < end_)
            *at_ = value;
        ++at_;
    }
    template <class T> void raw(T value) {
        if (at_ + sizeof value <= end_)
            std::memcpy(at_, &value, sizeof value);
        at_ += sizeof value;
    }

    // --- the general forms
    void op(const Opcode &o, u8 reg, u8 rm) {
        head(o, reg, no_reg, rm,
             o.byte_registers && ((reg >= 4 && reg < 8) || (rm >= 4 && rm < 8)));
        byte(u8(0xc0 | (reg & 7) << 3 | (rm & 7)));
    }
    void op(const Opcode &o, u8 reg, const Mem &m) {
        if (m.gs)
            byte(0x65);
        head(o, reg, m.index, m.base, o.byte_registers && reg >= 4 && reg < 8);
        address(reg, m);
    }

    // --- moves
    void mov(Reg to, Reg from) { op({.byte = 0x8b, .wide = true}, to, from); }
    void mov32(Reg to, Reg from) { op({.byte = 0x8b}, to, from); }
    void load(Reg to, const Mem &from) { op({.byte = 0x8b, .wide = true}, to, from); }
    void load32(Reg to, const Mem &from) { op({.byte = 0x8b}, to, from); }
    void store(const Mem &to, Reg from) { op({.byte = 0x89, .wide = true}, from, to); }
    void store_sized(const Mem &to, Reg from, unsigned size) {
        op({.prefix = u8(size == 2 ? 0x66 : 0),
            .byte = u8(size == 1 ? 0x88 : 0x89),
            .wide = size == 8,
            .byte_registers = size == 1},
           from, to);
    }
    // Loads zero-extended.
    void load_sized(Reg to, const Mem &from, unsigned size) {
        if (size >= 4)
            op({.byte = 0x8b, .wide = size == 8}, to, from);
        else
            op({.map = 1, .byte = u8(size == 1 ? 0xb6 : 0xb7)}, to, from);
    }
    void store_imm32(const Mem &to, i32 value, unsigned size = 4) { // sign-extended when size is 8
        op({.byte = 0xc7, .wide = size == 8}, 0, to);
        raw(value);
    }
    void mov_imm(Reg to, u64 value) {
        if (value <= 0xffffffff) {
            if (to >= 8)
                byte(0x41);
            byte(u8(0xb8 | (to & 7)));
            raw(u32(value));
        } else if (i64(value) == i32(value)) {
            op({.byte = 0xc7, .wide = true}, 0, to);
            raw(i32(value));
        } else {
            byte(u8(0x48 | (to >= 8 ? 1 : 0)));
            byte(u8(0xb8 | (to & 7)));
            raw(value);
        }
    }
    void lea(Reg to, const Mem &m, bool wide = true) { op({.byte = 0x8d, .wide = wide}, to, m); }

    // --- arithmetic; `group` is the 80h group's number: 0 add, 1 or, 4 and, 5 sub, 6 xor, 7 cmp
    void alu(unsigned group, Reg a, Reg b, bool wide = true) {
        op({.byte = u8(group << 3 | 3), .wide = wide}, a, b);
    }
    void alu(unsigned group, Reg a, const Mem &b, bool wide = true) {
        op({.byte = u8(group << 3 | 3), .wide = wide}, a, b);
    }
    void alu_imm(unsigned group, Reg a, i32 value, bool wide = true) {
        const bool small = value == i8(value);
        op({.byte = u8(small ? 0x83 : 0x81), .wide = wide}, u8(group), a);
        small ? raw(i8(value)) : raw(value);
    }
    void alu_imm(unsigned group, const Mem &a, i32 value, unsigned size) {
        const bool small = value == i8(value);
        op({.byte = u8(small ? 0x83 : 0x81), .wide = size == 8}, u8(group), a);
        small ? raw(i8(value)) : raw(value);
    }
    void test(Reg a, Reg b, unsigned size) {
        op({.prefix = u8(size == 2 ? 0x66 : 0),
            .byte = u8(size == 1 ? 0x84 : 0x85),
            .wide = size == 8,
            .byte_registers = true},
           b, a);
    }
    void test_imm8(Reg a, u8 value) {
        op({.byte = 0xf6, .byte_registers = true}, 0, a);
        byte(value);
    }
    void shift_right_imm(Reg a, u8 count) {
        op({.byte = 0xc1, .wide = true}, 5, a);
        byte(count);
    }
    void rorx(Reg to, Reg from, u8 count) { // BMI2
        vex(3, 0xf0, 3, true, to, 0, from);
        byte(count);
    }
    // shlx (prefix 1), sarx (2), shrx (3): to = value shifted by count; no flags. BMI2.
    void shift_x(unsigned prefix, Reg to, Reg value, Reg count, bool wide) {
        vex(2, 0xf7, prefix, wide, to, count, value);
    }

    // --- branches
    Label jcc(Condition c) {
        byte(0x0f);
        byte(u8(0x80 | c));
        raw(i32(0));
        return {at_ - 4};
    }
    Label jmp() {
        byte(0xe9);
        raw(i32(0));
        return {at_ - 4};
    }
    Label call() {
        byte(0xe8);
        raw(i32(0));
        return {at_ - 4};
    }
    Label jrcxz_short(bool address32) {
        if (address32)
            byte(0x67);
        byte(0xe3);
        byte(0);
        return {at_ - 1};
    }
    Label jmp_short() {
        byte(0xeb);
        byte(0);
        return {at_ - 1};
    }
    Label jcc_short(Condition c) {
        byte(u8(0x70 | c));
        byte(0);
        return {at_ - 1};
    }
    void jmp(Reg to) { op({.byte = 0xff}, 4, to); }
    void call(Reg to) { op({.byte = 0xff}, 2, to); }
    void bind(Label l) { bind(l, at_); }
    void bind(Label l, const u8 *target) {
        const i32 distance = i32(target - (l.at + 4));
        if (l.at + 4 <= end_)
            std::memcpy(l.at, &distance, 4);
    }
    void bind_short(Label l) {
        if (l.at < end_)
            *l.at = u8(at_ - (l.at + 1));
    }
    void align_displacement() { // so that the next jmp()'s displacement can be patched by one
                                // aligned store
        while ((reinterpret_cast<u64>(at_) + 1) & 3)
            byte(0x90);
    }

    // --- the rest
    void lahf() { byte(0x9f); }
    void sahf() { byte(0x9e); }
    void seto_al() {
        byte(0x0f);
        byte(0x90);
        byte(0xc0);
    }
    void ret() { byte(0xc3); }
    void push(Reg r) {
        if (r >= 8)
            byte(0x41);
        byte(u8(0x50 | (r & 7)));
    }
    void pop(Reg r) {
        if (r >= 8)
            byte(0x41);
        byte(u8(0x58 | (r & 7)));
    }
    void movaps_load(unsigned xmm, const Mem &m) { op({.map = 1, .byte = 0x28}, u8(xmm), m); }
    void movaps_store(const Mem &m, unsigned xmm) { op({.map = 1, .byte = 0x29}, u8(xmm), m); }
    void ldmxcsr(const Mem &m) { op({.map = 1, .byte = 0xae}, 2, m); }
    void stmxcsr(const Mem &m) { op({.map = 1, .byte = 0xae}, 3, m); }
    void int3() { byte(0xcc); }

private:
    static u8 high(u8 r, unsigned bit) { return r != no_reg && (r & 8) ? u8(1 << bit) : u8(0); }
    void head(const Opcode &o, u8 reg, u8 index, u8 base, bool force_rex) {
        if (o.lock)
            byte(0xf0);
        if (o.prefix)
            byte(o.prefix);
        const u8 rex = u8((o.wide ? 8 : 0) | high(reg, 2) | high(index, 1) | high(base, 0));
        if (rex || force_rex)
            byte(u8(0x40 | rex));
        if (o.map)
            byte(0x0f);
        if (o.map == 2)
            byte(0x38);
        if (o.map == 3)
            byte(0x3a);
        byte(o.byte);
    }
    void address(u8 reg, const Mem &m) {
        const u8 r = u8((reg & 7) << 3);
        if (m.base == no_reg) { // SIB without base: displacement only, or index and displacement
            byte(u8(r | 4));
            byte(u8(m.scale << 6 | (m.index == no_reg ? 4 : m.index & 7) << 3 | 5));
            raw(m.displacement);
            return;
        }
        const bool sib = m.index != no_reg || (m.base & 7) == 4;
        const u8 mod = m.displacement == 0 && (m.base & 7) != 5 ? 0
                       : m.displacement == i8(m.displacement)   ? 1
                                                                : 2;
        byte(u8(mod << 6 | r | (sib ? 4 : m.base & 7)));
        if (sib)
            byte(u8(m.scale << 6 | (m.index == no_reg ? 4 : m.index & 7) << 3 | (m.base & 7)));
        if (mod == 1)
            raw(i8(m.displacement));
        else if (mod == 2)
            raw(m.displacement);
    }
    void vex(unsigned map, u8 opcode, unsigned prefix, bool wide, u8 reg, u8 vvvv, u8 rm) {
        byte(0xc4);
        byte(u8((reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | map));
        byte(u8((wide ? 0x80 : 0) | (~vvvv & 15) << 3 | prefix));
        byte(opcode);
        byte(u8(0xc0 | (reg & 7) << 3 | (rm & 7)));
    }

    u8 *at_ = nullptr, *end_ = nullptr;
};

} // namespace rhea::dbt::host
