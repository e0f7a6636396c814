#pragma once
// A decoded x86 instruction: what the decoder makes, and both the interpreter (T0) and the lowering
// (T1) consume. Plain data; no pointers into guest memory. One Insn is about 64 bytes.

#include "accel/dbt/guest/x86/state.h"
#include "dm/core/types.h"

namespace rhea::dbt::x86 {

// Operations. One name may have several encodings and sizes; `Insn` tells them apart. Names are the
// SDM's, with a trailing underscore where C++ has a keyword, and a number or word where one
// mnemonic does different things.
// clang-format off
enum class Op : u16 {
    invalid,
    // arithmetic and logic: in the order of their opcode group
    add, or_, adc, sbb, and_, sub, xor_, cmp,
    test, inc, dec, neg, not_, mul, imul1 /* one operand */, imul /* two, three */, div, idiv,
    rol, ror, rcl, rcr, shl, shr, sar, shld, shrd,
    bt, bts, btr, btc, bsf, bsr, popcnt, lzcnt, tzcnt, bswap, cmpxchg,
    cmpxchg8b /* and 16b by operand size */, xadd,
    // moves
    mov, movzx, movsx /* and movsxd */, lea, xchg, push, pop, pusha, popa, cbw /* cwde, cdqe */,
    cwd /* cdq, cqo */,
    setcc, cmovcc, movnti, movbe, xlat, lahf, sahf, bswap16_undefined,
    // control
    jcc, jmp, jmp_indirect, call, call_indirect, ret, jmp_far, call_far, jmp_far_indirect,
    call_far_indirect, ret_far,
    loop, loope, loopne, jcxz, enter, leave, int_, int3, int1, into, iret, bound, ud, hlt, nop,
    pause, endbr,
    // strings
    movs, cmps, stos, lods, scas, ins, outs,
    // flags
    clc, stc, cmc, cld, std_, cli, sti, pushf, popf, clac, stac,
    // decimal
    daa, das, aaa, aas, aam, aad, salc,
    // I/O
    in, out,
    // segments and system
    mov_from_seg, mov_to_seg, push_seg, pop_seg, load_far /* les lds lss lfs lgs */, mov_from_cr,
    mov_to_cr,
    mov_from_dr, mov_to_dr, lgdt, sgdt, lidt, sidt, lldt, sldt, ltr, str, lmsw, smsw, clts,
    invlpg, invd, wbinvd, swapgs,
    lar, lsl, verr, verw, arpl, syscall, sysret, sysenter, sysexit, rdmsr, wrmsr, rdtsc, rdtscp,
    rdpmc, cpuid, monitor,
    mwait, invpcid, rdrand, rdseed, rdpid, xgetbv, xsetbv, rdfsbase, rdgsbase, wrfsbase, wrgsbase,
    rsm, vmcall,
    // memory order and cache
    lfence, mfence, sfence, prefetch, clflush,
    // x87, MMX, SSE: what T1 passes through and T0 runs by a host thunk. The instruction is told
    // by prefix, map, opcode and ModRM; `operand[]` tells registers, memory size and direction.
    fpu,      // D8..DF but for those below
    fwait, fxsave, fxrstor, ldmxcsr, stmxcsr, emms,
    mmx,      // touches MM registers (also those with an XMM operand, such as cvtpi2ps)
    sse,      // touches XMM registers, and general ones perhaps (movd, cvtsi2sd, pmovmskb …)
    maskmov,  // maskmovq, maskmovdqu: implicit [rdi]
    xsave, xrstor, xsaveopt,
    count
};
// clang-format on

enum class OperandKind : u8 {
    none,
    gpr, // index 0..15; 8-bit operands 4..7 without REX are AH CH DH BH: `high` is set and index is
         // 0..3
    memory,    // Insn's address fields
    immediate, // Insn::immediate, already sign- or zero-extended to 64 bits as the instruction uses
               // it
    relative,  // Insn::immediate: displacement from the next instruction
    far_pointer, // Insn::immediate: offset, Insn::selector
    segment,     // index: SegmentName
    control,
    debug,
    xmm,
    mmx,
    st,
};
namespace access {
inline constexpr u8 read = 1, write = 2, read_write = 3;
}
// Where an instruction names a register: T1 puts another one there.
enum class OperandField : u8 { implied, modrm_reg, modrm_rm, opcode_low_bits };
struct Operand {
    OperandKind kind;
    u8 index; // register number
    u8 size; // bytes: 1 2 4 6 8 10 16 …; 0 where it has none (lea, invlpg) or it depends on state
             // (fxsave: 512 does not fit)
    u8 access : 2;
    u8 high : 1;    // AH CH DH BH
    u8 aligned : 1; // memory must be aligned to its size, else #GP(0) (legacy SSE)
    OperandField field : 2;
};

inline constexpr u8 no_register = 0xff;
inline constexpr u8 rip_register = 0xfe; // `base` of RIP-relative addresses
inline constexpr u8 moffs_register =
    0xfd; // `base` of MOV's offset forms (A0..A3): the offset is Insn::immediate, up to 64 bits

struct Insn {
    Op op;
    u8 length;       // bytes, 1..15
    u8 map;          // 0: one-byte opcodes, 1: 0F, 2: 0F 38, 3: 0F 3A
    u8 opcode;       // last opcode byte
    u8 modrm;        // valid if has_modrm
    u8 condition;    // jcc, setcc, cmovcc: 0..15
    u8 operand_size; // 2, 4 or 8: the effective operand size of the instruction (1 for byte forms)
    u8 address_size; // 2, 4 or 8
    u8 prefix_rep;   // 0, F2h or F3h (the last of them)
    u8 rex;          // 0 or 40h..4Fh
    u8 segment;      // effective segment of the memory operand (SegmentName), override and default
                     // applied
    u8 base, index,
        scale; // memory operand: registers or no_register / rip_register; scale is a shift 0..3
    u8 operand_count;
    bool has_modrm : 1;
    bool lock : 1;
    bool prefix_66 : 1;
    bool prefix_67 : 1;
    bool segment_override : 1;
    i32 displacement;  // sign-extended; 32-bit address forms wrap at address_size
    u16 selector;      // far pointers; ENTER's nesting level; the second immediate of others
    u16 cpuid_feature; // Feature (decode.h) that must be on, else #UD
    u32 flags_read, flags_written,
        flags_undefined; // arithmetic flag:: bits (and df): written includes undefined ones
    u64 immediate;
    Operand operand[4]; // destination first, as the SDM (Intel syntax) writes them
};
static_assert(sizeof(Insn) <= 80);

} // namespace rhea::dbt::x86
