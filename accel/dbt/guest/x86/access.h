#pragma once
// Inside T0: the hot paths of operand access, inline: flat segments and TLB hits. Everything else
// goes to linearise() and to memory.cc. Alignment checks (#AC) are not made here: no guest that the
// present CPU model is meant for turns them on.

#include "accel/dbt/guest/x86/exec.h"
#include "accel/dbt/guest/x86/system.h"

#include <cstring>
#include <iterator>

namespace rhea::dbt::x86 {

inline bool is_canonical(u64 linear) noexcept {
    return u64(i64(linear << 16) >> 16) == linear;
}

// linearise() with the flat model's cases first.
inline Outcome linear_address(Context &context, u8 segment, u64 offset, unsigned size,
                              AccessType type, u64 &linear, Fault &fault) noexcept {
    const u32 mode_bits = context.cpu.mode;
    if ((mode_bits & mode::flat) != 0 && segment <= ds) {
        const u64 last = offset + size - 1;
        if ((mode_bits & mode::code_mask) == mode::code64) {
            if (is_canonical(offset) && is_canonical(last)) [[likely]] {
                linear = offset;
                return Outcome::ok;
            }
        } else if (last <= 0xffff'ffff && offset <= last &&
                   (segment != cs || type == AccessType::read)) {
            linear = offset;
            return Outcome::ok;
        }
    }
    return linearise(context, segment, offset, size, type, linear, fault);
}

// Host address of an access that hits the TLB and stays in its page, else null. `write` asks for
// the right to store.
inline u8 *tlb_probe(const Cpu &cpu, u64 linear, unsigned size, bool write) noexcept {
    const mmu::TlbEntry &entry = cpu.tlb.data[cpu.cpl == 3][mmu::tlb_index(linear)];
    if ((linear ^ (write ? entry.write : entry.read)) <= mmu::page_size - size)
        return reinterpret_cast<u8 *>(linear + entry.addend);
    return nullptr;
}

inline u64 load_host(const u8 *from, unsigned size) noexcept {
    u64 value = 0;
    switch (
        size) { // fixed sizes: one load each, so that another vCPU never sees or makes a torn value
    case 1: return *from;
    case 2: std::memcpy(&value, from, 2); return value;
    case 4: std::memcpy(&value, from, 4); return value;
    case 8: std::memcpy(&value, from, 8); return value;
    default: std::memcpy(&value, from, size); return value;
    }
}
inline void store_host(u8 *to, unsigned size, u64 value) noexcept {
    switch (size) {
    case 1: *to = u8(value); break;
    case 2: std::memcpy(to, &value, 2); break;
    case 4: std::memcpy(to, &value, 4); break;
    case 8: std::memcpy(to, &value, 8); break;
    default: std::memcpy(to, &value, size); break;
    }
}

// Up to 8 bytes at a linear address, with the rights of the current privilege level.
inline Outcome load_linear(Context &context, u64 linear, unsigned size, u64 &value,
                           Fault &fault) noexcept {
    if (const u8 *host = tlb_probe(context.cpu, linear, size, false)) [[likely]] {
        value = load_host(host, size);
        return Outcome::ok;
    }
    value = 0;
    return read_memory(context, linear, &value, size, Privilege::current, fault);
}
inline Outcome store_linear(Context &context, u64 linear, unsigned size, u64 value,
                            Fault &fault) noexcept {
    if (u8 *host = tlb_probe(context.cpu, linear, size, true)) [[likely]] {
        store_host(host, size, value);
        return Outcome::ok;
    }
    return write_memory(context, linear, &value, size, Privilege::current, fault);
}

// Linear address of the memory operand `n`.
inline Outcome operand_address(Context &context, const Insn &insn, unsigned n, AccessType type,
                               u64 &linear, Fault &fault) noexcept {
    return linear_address(context, insn.segment, effective_offset(context.cpu, insn),
                          insn.operand[n].size, type, linear, fault);
}

inline i64 sign_extend(u64 value, unsigned size) noexcept {
    const unsigned shift = 64 - 8 * size;
    return i64(value << shift) >> shift;
}

inline void set_arithmetic(Cpu &cpu, u32 flags) noexcept {
    cpu.rflags = (cpu.rflags & ~u64{flag::arithmetic}) | flags;
}

// SF, ZF and PF of a result of `size` bytes.
inline u32 result_flags(u64 result, unsigned size) noexcept {
    result &= size_mask(size);
    u32 flags = result == 0 ? flag::zf : 0;
    if (((result >> (8 * size - 1)) & 1) != 0)
        flags |= flag::sf;
    if ((__builtin_popcount(unsigned(result & 0xff)) & 1) == 0)
        flags |= flag::pf;
    return flags;
}

// The sixteen conditions of Jcc, SETcc and CMOVcc (SDM volume 2, appendix B.1.4.7).
inline bool condition_holds(u64 rflags, unsigned condition) noexcept {
    bool holds = false;
    switch (condition >> 1) {
    case 0: holds = (rflags & flag::of) != 0; break;
    case 1: holds = (rflags & flag::cf) != 0; break;
    case 2: holds = (rflags & flag::zf) != 0; break;
    case 3: holds = (rflags & (flag::cf | flag::zf)) != 0; break;
    case 4: holds = (rflags & flag::sf) != 0; break;
    case 5: holds = (rflags & flag::pf) != 0; break;
    case 6: holds = ((rflags & flag::sf) != 0) != ((rflags & flag::of) != 0); break;
    default:
        holds =
            (rflags & flag::zf) != 0 || ((rflags & flag::sf) != 0) != ((rflags & flag::of) != 0);
        break;
    }
    return holds != ((condition & 1) != 0);
}

// Compare and exchange on guest memory that is reached directly. Guests may lock unaligned
// operands; the host CPU takes them too, so the compiler's alignment assumption is harmless.
template <class T>
__attribute__((no_sanitize("alignment"))) inline bool compare_exchange(u8 *at, u64 &expected,
                                                                       u64 desired) noexcept {
    T old = T(expected);
    const bool done = __atomic_compare_exchange_n(reinterpret_cast<T *>(at), &old, T(desired),
                                                  false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    expected = old;
    return done;
}
inline bool compare_exchange(u8 *at, unsigned size, u64 &expected, u64 desired) noexcept {
    switch (size) {
    case 1: return compare_exchange<u8>(at, expected, desired);
    case 2: return compare_exchange<u16>(at, expected, desired);
    case 4: return compare_exchange<u32>(at, expected, desired);
    default: return compare_exchange<u64>(at, expected, desired);
    }
}

// Read-modify-write of `size` bytes at a linear address. `compute` maps the old value to the new
// one; it may run several times (a locked one that lost a race), so it only assigns locals. A
// locked access that cannot go straight to RAM (it crosses a page, hits MMIO or a page with
// translated code) is not atomic against other vCPUs.
template <class F>
Outcome modify_linear(Context &context, u64 linear, unsigned size, bool locked, F compute,
                      Fault &fault) noexcept {
    u8 *host = tlb_probe(context.cpu, linear, size, true);
    if (host == nullptr)
        host = direct_pointer(context, linear, size, AccessType::write, Privilege::current);
    if (host != nullptr) {
        u64 old = load_host(host, size);
        if (!locked)
            store_host(host, size, compute(old));
        else
            while (!compare_exchange(host, size, old, compute(old))) {
            }
        return Outcome::ok;
    }
    u64 old = 0;
    RHEA_T0_TRY(probe_write(context, linear, size, Privilege::current, fault));
    RHEA_T0_TRY(read_memory(context, linear, &old, size, Privilege::current, fault));
    const u64 value = compute(old);
    return write_memory(context, linear, &value, size, Privilege::current, fault);
}

// The same for operand `n`, register or memory.
template <class F>
Outcome modify_operand(Context &context, const Insn &insn, unsigned n, F compute,
                       Fault &fault) noexcept {
    const Operand &operand = insn.operand[n];
    if (operand.kind == OperandKind::gpr) {
        write_gpr(context.cpu, operand, compute(read_gpr(context.cpu, operand)));
        return Outcome::ok;
    }
    u64 linear = 0;
    RHEA_T0_TRY(operand_address(context, insn, n, AccessType::write, linear, fault));
    return modify_linear(context, linear, operand.size, insn.lock, compute, fault);
}

} // namespace rhea::dbt::x86
