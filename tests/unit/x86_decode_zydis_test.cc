// The decoder against Zydis: random bytes, biased to what is likely to be an instruction, for all
// three code sizes. Both must agree on validity, length, operation, and on each operand's kind,
// register, size and access, but for the exceptions that are listed here with their reason.

#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/decode_table.h"

#include <Zydis/Zydis.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <random>
#include <sstream>
#include <string>

namespace rhea::dbt::x86 {
namespace {

using Bytes = std::array<u8, 15>;

// --- the names of operations

struct Name {
    Op op;
    const char *mnemonics; // Zydis', separated by blanks; a trailing * is any ending
};
constexpr Name names[] = {
    {Op::add, "add"},
    {Op::or_, "or"},
    {Op::adc, "adc"},
    {Op::sbb, "sbb"},
    {Op::and_, "and"},
    {Op::sub, "sub"},
    {Op::xor_, "xor"},
    {Op::cmp, "cmp"},
    {Op::test, "test"},
    {Op::inc, "inc"},
    {Op::dec, "dec"},
    {Op::neg, "neg"},
    {Op::not_, "not"},
    {Op::mul, "mul"},
    {Op::imul1, "imul"},
    {Op::imul, "imul"},
    {Op::div, "div"},
    {Op::idiv, "idiv"},
    {Op::rol, "rol"},
    {Op::ror, "ror"},
    {Op::rcl, "rcl"},
    {Op::rcr, "rcr"},
    {Op::shl, "shl"},
    {Op::shr, "shr"},
    {Op::sar, "sar"},
    {Op::shld, "shld"},
    {Op::shrd, "shrd"},
    {Op::bt, "bt"},
    {Op::bts, "bts"},
    {Op::btr, "btr"},
    {Op::btc, "btc"},
    {Op::bsf, "bsf"},
    {Op::bsr, "bsr"},
    {Op::popcnt, "popcnt"},
    {Op::lzcnt, "lzcnt"},
    {Op::tzcnt, "tzcnt"},
    {Op::bswap, "bswap"},
    {Op::bswap16_undefined, "bswap"},
    {Op::cmpxchg, "cmpxchg"},
    {Op::cmpxchg8b, "cmpxchg8b cmpxchg16b"},
    {Op::xadd, "xadd"},
    {Op::mov, "mov"},
    {Op::movzx, "movzx"},
    {Op::movsx, "movsx movsxd"},
    {Op::lea, "lea"},
    {Op::xchg, "xchg"},
    {Op::push, "push"},
    {Op::pop, "pop"},
    {Op::pusha, "pusha pushad"},
    {Op::popa, "popa popad"},
    {Op::cbw, "cbw cwde cdqe"},
    {Op::cwd, "cwd cdq cqo"},
    {Op::setcc, "set*"},
    {Op::cmovcc, "cmov*"},
    {Op::movnti, "movnti"},
    {Op::movbe, "movbe"},
    {Op::xlat, "xlat"},
    {Op::lahf, "lahf"},
    {Op::sahf, "sahf"},
    {Op::jcc, "j*"},
    {Op::jmp, "jmp"},
    {Op::jmp_indirect, "jmp"},
    {Op::call, "call"},
    {Op::call_indirect, "call"},
    {Op::ret, "ret"},
    {Op::jmp_far, "jmp"},
    {Op::call_far, "call"},
    {Op::jmp_far_indirect, "jmp"},
    {Op::call_far_indirect, "call"},
    {Op::ret_far, "ret"},
    {Op::loop, "loop"},
    {Op::loope, "loope"},
    {Op::loopne, "loopne"},
    {Op::jcxz, "jcxz jecxz jrcxz"},
    {Op::enter, "enter"},
    {Op::leave, "leave"},
    {Op::int_, "int"},
    {Op::int3, "int3"},
    {Op::int1, "int1"},
    {Op::into, "into"},
    {Op::iret, "iret iretd iretq"},
    {Op::bound, "bound"},
    {Op::ud, "ud0 ud1 ud2"},
    {Op::hlt, "hlt"},
    // CET, MPX and cache hints are NOPs of the range 0F 18 … 0F 1F where they are not there
    {Op::nop, "nop prefetch* cldemote bnd* rdssp*"},
    {Op::pause, "pause"},
    {Op::endbr, "endbr32 endbr64"},
    {Op::movs, "movsb movsw movsd movsq"},
    {Op::cmps, "cmpsb cmpsw cmpsd cmpsq"},
    {Op::stos, "stosb stosw stosd stosq"},
    {Op::lods, "lodsb lodsw lodsd lodsq"},
    {Op::scas, "scasb scasw scasd scasq"},
    {Op::ins, "insb insw insd"},
    {Op::outs, "outsb outsw outsd"},
    {Op::clc, "clc"},
    {Op::stc, "stc"},
    {Op::cmc, "cmc"},
    {Op::cld, "cld"},
    {Op::std_, "std"},
    {Op::cli, "cli"},
    {Op::sti, "sti"},
    {Op::pushf, "pushf pushfd pushfq"},
    {Op::popf, "popf popfd popfq"},
    {Op::clac, "clac"},
    {Op::stac, "stac"},
    {Op::daa, "daa"},
    {Op::das, "das"},
    {Op::aaa, "aaa"},
    {Op::aas, "aas"},
    {Op::aam, "aam"},
    {Op::aad, "aad"},
    {Op::salc, "salc"},
    {Op::in, "in"},
    {Op::out, "out"},
    {Op::mov_from_seg, "mov"},
    {Op::mov_to_seg, "mov"},
    {Op::push_seg, "push"},
    {Op::pop_seg, "pop"},
    {Op::load_far, "les lds lss lfs lgs"},
    {Op::mov_from_cr, "mov"},
    {Op::mov_to_cr, "mov"},
    {Op::mov_from_dr, "mov"},
    {Op::mov_to_dr, "mov"},
    {Op::lgdt, "lgdt"},
    {Op::sgdt, "sgdt"},
    {Op::lidt, "lidt"},
    {Op::sidt, "sidt"},
    {Op::lldt, "lldt"},
    {Op::sldt, "sldt"},
    {Op::ltr, "ltr"},
    {Op::str, "str"},
    {Op::lmsw, "lmsw"},
    {Op::smsw, "smsw"},
    {Op::clts, "clts"},
    {Op::invlpg, "invlpg"},
    {Op::invd, "invd"},
    {Op::wbinvd, "wbinvd wbnoinvd"},
    {Op::swapgs, "swapgs"},
    {Op::lar, "lar"},
    {Op::lsl, "lsl"},
    {Op::verr, "verr"},
    {Op::verw, "verw"},
    {Op::arpl, "arpl"},
    {Op::syscall, "syscall"},
    {Op::sysret, "sysret"},
    {Op::sysenter, "sysenter"},
    {Op::sysexit, "sysexit"},
    {Op::rdmsr, "rdmsr"},
    {Op::wrmsr, "wrmsr"},
    {Op::rdtsc, "rdtsc"},
    {Op::rdtscp, "rdtscp"},
    {Op::rdpmc, "rdpmc"},
    {Op::cpuid, "cpuid"},
    {Op::monitor, "monitor"},
    {Op::mwait, "mwait"},
    {Op::invpcid, "invpcid"},
    {Op::rdrand, "rdrand"},
    {Op::rdseed, "rdseed"},
    {Op::rdpid, "rdpid"},
    {Op::xgetbv, "xgetbv"},
    {Op::xsetbv, "xsetbv"},
    {Op::rdfsbase, "rdfsbase"},
    {Op::rdgsbase, "rdgsbase"},
    {Op::wrfsbase, "wrfsbase"},
    {Op::wrgsbase, "wrgsbase"},
    {Op::rsm, "rsm"},
    {Op::vmcall, "vmcall vmmcall"},
    {Op::lfence, "lfence"},
    {Op::mfence, "mfence"},
    {Op::sfence, "sfence"},
    {Op::prefetch, "prefetch* nop"},
    {Op::clflush, "clflush clflushopt clwb"},
    {Op::fpu, "f* emms"},
    {Op::fwait, "fwait"},
    {Op::fxsave, "fxsave fxsave64"},
    {Op::fxrstor, "fxrstor fxrstor64"},
    {Op::ldmxcsr, "ldmxcsr"},
    {Op::stmxcsr, "stmxcsr"},
    {Op::emms, "emms"},
    {Op::mmx, "p* mov* cvt* maskmovq"},
    {Op::maskmov, "maskmovq maskmovdqu"},
    {Op::xsave, "xsave xsave64"},
    {Op::xrstor, "xrstor xrstor64"},
    {Op::xsaveopt, "xsaveopt xsaveopt64"},
};

bool name_fits(const char *list, const std::string &mnemonic) {
    std::istringstream words(list);
    for (std::string word; words >> word;) {
        if (word == mnemonic || (word.back() == '*' && mnemonic.compare(0, word.size() - 1, word, 0,
                                                                        word.size() - 1) == 0))
            return true;
    }
    return false;
}

bool same_operation(Op op, ZydisMnemonic mnemonic, ZydisISASet set) {
    if (op == Op::sse) {
        const std::string name = ZydisISASetGetString(set);
        return name.find("SSE") != name.npos || name.find("AES") != name.npos ||
               name.find("SHA") != name.npos || name.find("PCLMUL") != name.npos ||
               name.find("ADOX_ADCX") != name.npos;
    }
    for (const Name &name : names) {
        if (name.op == op)
            return name_fits(name.mnemonics, ZydisMnemonicGetString(mnemonic));
    }
    return false;
}

// --- what the table leaves out on purpose (#UD on every CPU model that there is)
bool left_out(const ZydisDecodedInstruction &z) {
    if (z.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY)
        return true;
    switch (z.meta.isa_set) {
    case ZYDIS_ISA_SET_AMD3DNOW:
    case ZYDIS_ISA_SET_VTX:
    case ZYDIS_ISA_SET_SVM:
    case ZYDIS_ISA_SET_SMX:
    case ZYDIS_ISA_SET_SGX:
    case ZYDIS_ISA_SET_SGX_ENCLV:
    case ZYDIS_ISA_SET_RTM:
    case ZYDIS_ISA_SET_MONITORX:
    case ZYDIS_ISA_SET_CET:
    case ZYDIS_ISA_SET_PKU:
    case ZYDIS_ISA_SET_PT:
    case ZYDIS_ISA_SET_GFNI:
    case ZYDIS_ISA_SET_MOVDIR:
    case ZYDIS_ISA_SET_ENQCMD:
    case ZYDIS_ISA_SET_WAITPKG:
    case ZYDIS_ISA_SET_KEYLOCKER:
    case ZYDIS_ISA_SET_KEYLOCKER_WIDE:
    case ZYDIS_ISA_SET_UINTR:
    case ZYDIS_ISA_SET_TSX_LDTRK:
    case ZYDIS_ISA_SET_SERIALIZE:
    case ZYDIS_ISA_SET_PCONFIG:
    case ZYDIS_ISA_SET_XSAVEC:
    case ZYDIS_ISA_SET_XSAVES:
    case ZYDIS_ISA_SET_TDX:
    case ZYDIS_ISA_SET_HRESET:
    case ZYDIS_ISA_SET_CLZERO:
    case ZYDIS_ISA_SET_RDPRU:
    case ZYDIS_ISA_SET_MCOMMIT:
    case ZYDIS_ISA_SET_SNP:
    case ZYDIS_ISA_SET_AMD_INVLPGB:
    case ZYDIS_ISA_SET_PADLOCK_ACE:
    case ZYDIS_ISA_SET_PADLOCK_PHE:
    case ZYDIS_ISA_SET_PADLOCK_PMM:
    case ZYDIS_ISA_SET_PADLOCK_RNG:
    case ZYDIS_ISA_SET_VMFUNC:
    case ZYDIS_ISA_SET_KNCJKBR:
    case ZYDIS_ISA_SET_KNC_MISC: return true;
    default: return false;
    }
}

struct Case {
    Bytes bytes;
    CodeSize size;
};

std::string hex(const Case &c, unsigned length) {
    std::string text = c.size == CodeSize::bits16   ? "16:"
                       : c.size == CodeSize::bits32 ? "32:"
                                                    : "64:";
    for (unsigned i = 0; i < length; ++i) {
        char byte[4];
        std::snprintf(byte, sizeof byte, " %02x", c.bytes[i]);
        text += byte;
    }
    return text;
}

// --- where the two may differ, and why

struct Exception {
    Op op;
    const char *difference;
    const char *reason;
};
constexpr Exception exceptions[] = {
    {Op::bsf, "access", "the destination is kept if the source is zero"},
    {Op::bsr, "access", "the destination is kept if the source is zero"},
    {Op::lar, "access", "the destination is kept if the selector is bad"},
    {Op::lsl, "access", "the destination is kept if the selector is bad"},
    {Op::cmovcc, "access",
     "a 32-bit destination loses its upper half even if the condition is false"},
    {Op::lsl, "register size", "16 bits of the source are used, whatever it is called"},
    {Op::lar, "register size", "16 bits of the source are used, whatever it is called"},
    {Op::clflush, "memory size", "the line's size is CPUID's business; the access is to a byte"},
    {Op::movsx, "memory size", "SDM: MOVSXD r16, r/m16; Zydis reads 32 bits"},
};
bool excepted(const Insn &insn, const ZydisDecodedInstruction &z, const std::string &why) {
    for (const Exception &e : exceptions) {
        if (e.op == insn.op && why == e.difference)
            return true;
    }
    // MOD 0 with a SIB base of 5 is no base at all, with REX.B too; Zydis says R13D under an
    // address-size prefix.
    if (why == "base or index" && insn.modrm >> 6 == 0 && insn.base == no_register)
        return true;
    // Zydis has OF undefined for every shift; it is defined for a count of one. VMCALL and VMMCALL
    // are #UD for us. Zydis has AF undefined after SBB, which no manual says.
    if (why.starts_with("flags") && ((insn.op >= Op::rol && insn.op <= Op::shrd) ||
                                     insn.op == Op::vmcall || insn.op == Op::sbb))
        return true;
    // SSE4a: Zydis takes the destination as written only, but bits above the field stay.
    if (z.meta.isa_set == ZYDIS_ISA_SET_SSE4A && why == "access")
        return true;
    // MOVMSK: the mask has four bits, REX.W makes no difference.
    if ((z.mnemonic == ZYDIS_MNEMONIC_MOVMSKPS || z.mnemonic == ZYDIS_MNEMONIC_MOVMSKPD) &&
        why == "register size")
        return true;
    // 3E before a near indirect branch is NOTRACK to Zydis; outside 64-bit mode it is DS all the
    // same.
    if ((insn.op == Op::call_indirect || insn.op == Op::jmp_indirect) && why == "segment")
        return true;
    return false;
}
// 0F 1A and 0F 1B: with MPX some forms are refused; without it all are NOPs.
bool valid_though_zydis_refuses(const Insn &insn) {
    return insn.map == 1 && (insn.opcode == 0x1a || insn.opcode == 0x1b);
}

// --- operands

struct Register {
    OperandKind kind;
    unsigned index;
    bool high;
};
Register register_of(ZydisRegister r) {
    const ZydisRegisterClass c = ZydisRegisterGetClass(r);
    const unsigned id = unsigned(ZydisRegisterGetId(r));
    switch (c) {
    case ZYDIS_REGCLASS_GPR8:
        if (r >= ZYDIS_REGISTER_AH && r <= ZYDIS_REGISTER_BH)
            return {OperandKind::gpr, unsigned(r - ZYDIS_REGISTER_AH), true};
        return {OperandKind::gpr,
                r >= ZYDIS_REGISTER_SPL ? unsigned(r - ZYDIS_REGISTER_SPL) + 4 : id, false};
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: return {OperandKind::gpr, id, false};
    case ZYDIS_REGCLASS_MMX: return {OperandKind::mmx, id, false};
    case ZYDIS_REGCLASS_XMM: return {OperandKind::xmm, id, false};
    case ZYDIS_REGCLASS_X87: return {OperandKind::st, id, false};
    case ZYDIS_REGCLASS_SEGMENT: return {OperandKind::segment, id, false};
    case ZYDIS_REGCLASS_CONTROL: return {OperandKind::control, id, false};
    case ZYDIS_REGCLASS_DEBUG: return {OperandKind::debug, id, false};
    default: return {OperandKind::none, 0, false};
    }
}
u8 register_field(ZydisRegister r) {
    if (r == ZYDIS_REGISTER_NONE)
        return no_register;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return rip_register;
    return u8(ZydisRegisterGetId(r));
}

// Why the two decoders differ, or nothing.
std::string difference(const Insn &i, const ZydisDecodedInstruction &z,
                       const ZydisDecodedOperand *zo) {
    if (i.length != z.length)
        return "length";
    if (!same_operation(i.op, z.mnemonic, z.meta.isa_set))
        return "operation";
    if (i.op == Op::nop || i.op == Op::prefetch || i.op == Op::ud)
        return {}; // operands that do not matter
    if (i.address_size * 8 != z.address_width)
        return "address size";
    // The stack of x87 instructions is implied by the opcode: Zydis lists it for some and hides it
    // for others.
    const bool stack = i.op == Op::fpu && i.modrm >= 0xc0 && i.operand[0].kind != OperandKind::gpr;
    unsigned visible = 0;
    for (unsigned n = 0; n < z.operand_count && !stack; ++n) {
        const ZydisDecodedOperand &theirs = zo[n];
        if (theirs.visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        if (theirs.type == ZYDIS_OPERAND_TYPE_REGISTER &&
            register_of(theirs.reg.value).kind == OperandKind::none)
            continue;
        if (theirs.type == ZYDIS_OPERAND_TYPE_REGISTER && i.op == Op::fpu &&
            register_of(theirs.reg.value).kind == OperandKind::st)
            continue;
        // String instructions and XLAT: everything is implied.
        if ((i.op >= Op::movs && i.op <= Op::outs) || i.op == Op::xlat)
            continue;
        // The second immediate is not an operand of ours.
        if (theirs.type == ZYDIS_OPERAND_TYPE_IMMEDIATE && visible >= i.operand_count &&
            (i.op == Op::enter || i.opcode == 0x78)) {
            if (theirs.imm.value.u != i.selector)
                return "second immediate";
            continue;
        }
        // Registers that these take implicitly.
        if (theirs.visibility == ZYDIS_OPERAND_VISIBILITY_IMPLICIT && visible >= i.operand_count &&
            (i.op == Op::sse || i.op == Op::monitor || i.op == Op::mwait))
            continue;
        if (visible >= i.operand_count)
            return "operand count";
        const Operand &ours = i.operand[visible++];
        if (theirs.type == ZYDIS_OPERAND_TYPE_REGISTER) {
            const Register r = register_of(theirs.reg.value);
            if (ours.kind != r.kind || ours.index != r.index || bool(ours.high) != r.high)
                return "register";
            if (r.kind == OperandKind::gpr && ours.size * 8 != theirs.size)
                return "register size";
        } else if (theirs.type == ZYDIS_OPERAND_TYPE_MEMORY) {
            if (ours.kind != OperandKind::memory)
                return "operand kind";
            if (ours.size * 8 != theirs.size && ours.size != 0)
                return "memory size";
            const ZydisRegister zs = theirs.mem.segment;
            if (zs != ZYDIS_REGISTER_NONE && i.op != Op::lea &&
                u8(ZydisRegisterGetId(zs)) != i.segment)
                return "segment";
            if (i.base == moffs_register) {
                const u64 mask =
                    i.address_size == 8 ? ~u64{0} : (u64{1} << (8 * i.address_size)) - 1;
                if ((u64(theirs.mem.disp.value) & mask) != i.immediate)
                    return "offset";
            } else {
                if (register_field(theirs.mem.base) != i.base ||
                    register_field(theirs.mem.index) != i.index)
                    return "base or index";
                if (i.index != no_register && 1u << i.scale != theirs.mem.scale)
                    return "scale";
                if (theirs.mem.disp.value != i.displacement)
                    return "displacement";
            }
        } else if (theirs.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            if (ours.kind !=
                (theirs.imm.is_relative ? OperandKind::relative : OperandKind::immediate))
                return "operand kind";
            const u64 mask = i.operand_size == 8 ? ~u64{0} : (u64{1} << (8 * i.operand_size)) - 1;
            if (((theirs.imm.value.u ^ i.immediate) & mask) != 0)
                return "immediate";
        } else {
            if (ours.kind != OperandKind::far_pointer || theirs.ptr.offset != i.immediate ||
                theirs.ptr.segment != i.selector)
                return "far pointer";
        }
        if (theirs.type != ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            theirs.type != ZYDIS_OPERAND_TYPE_POINTER) {
            const bool reads = (theirs.actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0;
            const bool writes = (theirs.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0;
            if (ours.access == 0 && ours.size == 0)
                continue;
            const bool keeps_rest =
                ours.kind == OperandKind::xmm && ours.size < 16; // counts as read
            if ((reads != ((ours.access & access::read) != 0) &&
                 !(keeps_rest && writes && !reads)) ||
                writes != ((ours.access & access::write) != 0))
                return "access";
        }
    }
    if (visible != i.operand_count && !stack)
        return "operand count";
    return {};
}

std::string flag_names(u32 flags) {
    std::string text;
    for (const auto &[bit, name] : {std::pair{flag::of, 'o'},
                                    {flag::sf, 's'},
                                    {flag::zf, 'z'},
                                    {flag::af, 'a'},
                                    {flag::pf, 'p'},
                                    {flag::cf, 'c'},
                                    {flag::df, 'd'}}) {
        if (flags & bit)
            text += name;
    }
    return text;
}
std::string flag_difference(const Insn &i, const ZydisDecodedInstruction &z) {
    constexpr u32 ours = flag::arithmetic | flag::df;
    const ZydisAccessedFlags &f = *z.cpu_flags;
    const u32 written = (f.modified | f.set_0 | f.set_1 | f.undefined) & ours;
    if (written != i.flags_written)
        return "flags written " + flag_names(i.flags_written) + ", Zydis " + flag_names(written);
    if ((f.undefined & ours) != i.flags_undefined)
        return "flags undefined " + flag_names(i.flags_undefined) + ", Zydis " +
               flag_names(f.undefined);
    if ((f.tested & ours & ~i.flags_read) != 0)
        return "flags read " + flag_names(i.flags_read) + ", Zydis " + flag_names(f.tested);
    return {};
}

Bytes random_bytes(std::mt19937_64 &random) {
    Bytes bytes;
    for (u8 &byte : bytes)
        byte = u8(random());
    static constexpr u8 prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x65,
                                      0x48, 0x41, 0x44, 0x49, 0x4f, 0x66, 0xf3, 0xf2};
    usize at = 0;
    while (random() % 3 == 0 && at < 4)
        bytes[at++] = prefixes[random() % std::size(prefixes)];
    switch (random() % 6) {
    case 0:
    case 1:
    case 2: bytes[at++] = 0x0f; break;
    case 3:
        bytes[at++] = 0x0f;
        bytes[at++] = random() % 3 != 0 ? 0x38 : 0x3a;
        break;
    default: break;
    }
    return bytes;
}

TEST(X86DecodeZydis, random_instructions_decode_as_zydis_does) {
    const char *given = std::getenv("RHEA_TEST_SEED");
    std::mt19937_64 random(given != nullptr ? std::strtoull(given, nullptr, 0) : 1);
    ZydisDecoder decoders[3];
    ZydisDecoderInit(&decoders[0], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&decoders[1], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoders[2], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    std::map<std::string, std::pair<unsigned, std::string>> differences;
    unsigned both_valid = 0;
    for (unsigned n = 0; n < 3'000'000; ++n) {
        const Case c{random_bytes(random), CodeSize(n % 3)};
        ZydisDecodedInstruction z;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        const bool theirs = ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(&decoders[n % 3], c.bytes.data(), c.bytes.size(), &z, operands));
        Insn insn;
        const bool ours = decode(c.bytes, c.size, insn) == DecodeStatus::ok;
        std::string why;
        std::string what;
        if (ours && theirs) {
            ++both_valid;
            what = ZydisMnemonicGetString(z.mnemonic);
            why = difference(insn, z, operands);
            if (why.empty())
                why = flag_difference(insn, z);
            if (excepted(insn, z, why))
                why.clear();
        } else if (theirs && !left_out(z)) {
            what = ZydisMnemonicGetString(z.mnemonic);
            why = "Zydis alone decodes it";
        } else if (ours && !valid_though_zydis_refuses(insn)) {
            what = std::to_string(insn.map) + " " + std::to_string(insn.opcode);
            why = "Zydis does not decode it";
        }
        if (!why.empty()) {
            auto &entry = differences[why + ": " + what];
            if (entry.first++ == 0)
                entry.second = hex(c, 15) + (ours ? " ours " + std::to_string(insn.length) : "");
        }
    }
    for (const auto &[what, count] : differences)
        ADD_FAILURE() << what << " (" << count.first << " times), such as " << count.second;
    EXPECT_GT(both_valid, 1'000'000u);
}

} // namespace
} // namespace rhea::dbt::x86
