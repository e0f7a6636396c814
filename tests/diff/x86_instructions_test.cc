// Every instruction form of the decoder's table that user code may run, with random operands, on
// the host CPU and on the translator's tiers: registers, defined flags, MXCSR, x87 state, memory
// and faults must be the same.
//
// RHEA_DIFF_SEED: another seed. RHEA_DIFF_SECONDS: how long (30). RHEA_DIFF_FORM: only rows whose
// encoding begins so, such as "0F AF". A failure names the case's seed and prints its bytes and
// state.

#include "accel/dbt/guest/x86/exec.h"
#include "tests/diff/engine.h"
#include "tests/diff/generator.h"
#include "tests/diff/native.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

namespace rhea::dbt::diff {
namespace {

using namespace x86;

std::string format(const char *pattern, ...) __attribute__((format(printf, 1, 2)));
std::string format(const char *pattern, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, pattern);
    std::vsnprintf(text, sizeof text, pattern, arguments);
    va_end(arguments);
    return text;
}

constexpr const char *gpr_names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                     "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

std::string describe(const Input &input) {
    std::string text = input.code64 ? "64-bit:" : "32-bit:";
    for (unsigned i = 0; i < input.length; ++i)
        text += format(" %02x", input.bytes[i]);
    const State &s = input.state;
    text += format("\n  rip %llx rflags %llx mxcsr %x fcw %x fsw %x ftw %x\n ",
                   (unsigned long long)s.rip, (unsigned long long)s.rflags, s.mxcsr, s.fpu.control,
                   s.fpu.status, s.fpu.tag);
    for (unsigned i = 0; i < 16; ++i)
        text += format(" %s %llx", gpr_names[i], (unsigned long long)s.gpr[i]);
    return text;
}

std::string describe(const Insn &insn, const Input &input) {
    std::string text;
    for (const Operand &o : insn.operand) {
        if (o.kind == OperandKind::xmm)
            text += format("\n  xmm%u %016llx'%016llx", o.index,
                           (unsigned long long)input.state.xmm[o.index].high,
                           (unsigned long long)input.state.xmm[o.index].low);
        if (o.kind == OperandKind::st || o.kind == OperandKind::mmx)
            text += format("\n  st%u %04x'%016llx", o.index, input.state.fpu.st[o.index].exponent,
                           (unsigned long long)input.state.fpu.st[o.index].mantissa);
    }
    return text;
}

// Flags that the manual leaves open for these operands beyond what the table knows.
u32 undefined_flags(const Insn &insn, const Input &input, const Output &expected) {
    if (expected.vector != vector::bp) // a fault leaves flags alone, but for a division's
        return insn.op == Op::div || insn.op == Op::idiv || insn.op == Op::aam
                   ? insn.flags_undefined
                   : 0;
    u32 undefined = insn.flags_undefined;
    const bool by_cl =
        insn.operand_count > 1 && insn.operand[insn.operand_count - 1].kind == OperandKind::gpr;
    if ((insn.op == Op::shld || insn.op == Op::shrd) && insn.operand_size == 2) {
        const u64 count = (by_cl ? input.state.gpr[rcx] : insn.immediate) & 31;
        if (count > 16)
            undefined |= flag::arithmetic;
    }
    if (insn.op >= Op::shl && insn.op <= Op::sar) { // CF of a count that is not below the size
        const u64 count = (by_cl ? input.state.gpr[rcx] : insn.immediate) & 31;
        if (insn.op != Op::sar && count >= 8u * insn.operand_size)
            undefined |= flag::cf;
    }
    return undefined;
}

bool undefined_result(const Insn &insn, const Input &input) {
    if ((insn.op == Op::shld || insn.op == Op::shrd) && insn.operand_size == 2) {
        const bool by_cl = insn.operand[2].kind == OperandKind::gpr;
        return ((by_cl ? input.state.gpr[rcx] : insn.immediate) & 31) > 16;
    }
    return false;
}

class Comparison {
public:
    // `insn`: the one that ends the run. `undefined`: flags that are not compared.
    Comparison(const Insn &insn, const Input &input, u32 undefined, const Output &expected,
               const Output &got)
        : insn_(insn), input_(input), undefined_(undefined), expected_(expected), got_(got) {}

    // `pointers_on_error`: those of the x87 are right at least with an error pending. (Not so where
    // FLDCW has unmasked an exception of an earlier instruction.)
    std::string differences(const Machine &expected_machine, const Machine &machine,
                            bool pointers_on_error) {
        check("vector", expected_.vector, got_.vector);
        if (expected_.vector != got_.vector)
            return text_;
        check("error code", expected_.error_code, got_.error_code);
        if (insn_.op != Op::cmps) // either of the two loads may be first
            check("fault address", expected_.fault_address, got_.fault_address);
        const State &e = expected_.state, &g = got_.state;
        check("rip", e.rip, g.rip);
        if (!undefined_result(insn_, input_)) {
            for (unsigned i = 0; i < 16; ++i)
                check(gpr_names[i], e.gpr[i], g.gpr[i]);
        }
        u64 flags = flag::arithmetic | flag::df | flag::ac | flag::nt | flag::tf;
        flags &= ~u64{undefined_};
        check("rflags", e.rflags & flags, g.rflags & flags);
        // What an unmasked overflow or underflow says of precision is not told by a masked run.
        const bool rounding_unknown = expected_.vector == vector::xm && (e.mxcsr & 0x18) != 0;
        check("mxcsr", e.mxcsr | (rounding_unknown ? 0x20 : 0),
              g.mxcsr | (rounding_unknown ? 0x20 : 0));
        for (unsigned i = 0; i < 16; ++i) {
            check(format("xmm%u low", i), e.xmm[i].low, g.xmm[i].low);
            check(format("xmm%u high", i), e.xmm[i].high, g.xmm[i].high);
        }
        constexpr u16 error_summary = 0x80;
        const bool error = (e.fpu.status & error_summary) != 0;
        compare_x87(e, g, machine.keeps_x87_pointers() || (pointers_on_error && error));
        compare_memory(expected_machine.data(), machine.data());
        return text_;
    }

private:
    void compare_x87(const State &e, const State &g, bool pointers) {
        // CPUs go over from x87 to MMX before they see that an operand cannot be reached.
        if ((insn_.op == Op::mmx || insn_.op == Op::maskmov) &&
            (expected_.vector == vector::pf || expected_.vector == vector::gp ||
             expected_.vector == vector::ss))
            return;
        check("fcw", e.fpu.control, g.fpu.control);
        check("fsw", e.fpu.status, g.fpu.status);
        check("ftw", e.fpu.tag, g.fpu.tag);
        if (pointers) {
            check("fop", e.fpu.opcode, g.fpu.opcode);
            check("fip", e.fpu.instruction, g.fpu.instruction);
            check("fdp", e.fpu.data, g.fpu.data);
        }
        for (unsigned i = 0; i < 8; ++i) {
            check(format("st%u mantissa", i), e.fpu.st[i].mantissa, g.fpu.st[i].mantissa);
            check(format("st%u exponent", i), e.fpu.st[i].exponent, g.fpu.st[i].exponent);
        }
    }
    void check(const std::string &what, u64 expected, u64 got) {
        if (expected != got)
            text_ += format("\n    %s: host %llx, here %llx", what.c_str(),
                            (unsigned long long)expected, (unsigned long long)got);
    }
    void compare_memory(std::span<const u8> expected, std::span<const u8> got) {
        if (std::memcmp(expected.data(), got.data(), data_size) == 0 ||
            undefined_result(insn_, input_))
            return;
        unsigned shown = 0;
        for (usize i = 0; i < data_size && shown < 8; ++i) {
            if (expected[i] != got[i]) {
                check(format("byte at %llx", (unsigned long long)(data_base + i)), expected[i],
                      got[i]);
                ++shown;
            }
        }
    }

    const Insn &insn_;
    const Input &input_;
    u32 undefined_;
    const Output &expected_, &got_;
    std::string text_;
};

u64 environment(const char *name, u64 otherwise) {
    const char *value = std::getenv(name);
    return value != nullptr ? std::strtoull(value, nullptr, 0) : otherwise;
}

// Runs every form on the host and on `machine` until the time is over; at least 20 cases of each.
void compare_forms(Native &native, Machine &machine, const Cpu &model, bool code64) {
    const u64 seed = environment("RHEA_DIFF_SEED", 1);
    const auto budget = std::chrono::milliseconds(1000 * environment("RHEA_DIFF_SECONDS", 30) / 4);
    const char *only = std::getenv("RHEA_DIFF_FORM");
    const auto start = std::chrono::steady_clock::now();
    Input input;
    u64 cases = 0, forms_run = 0;
    std::map<const Form *, unsigned> failures;
    for (u64 round = 0;; ++round) {
        for (const Form &form : forms) {
            if (!Generator::testable(form) || failures[&form] >= 2 ||
                (only != nullptr && std::strncmp(form.encoding, only, std::strlen(only)) != 0))
                continue;
            const u64 case_seed = (seed << 32) + (round << 12) + u64(&form - std::begin(forms));
            Generator generator(case_seed);
            unsigned made = 0;
            for (unsigned tries = 0; tries < 60 && made < 10; ++tries) {
                Insn insn;
                if (!generator.make(form, code64, input, insn))
                    continue;
                if (insn.cpuid_feature != 0 && !cpu_has(model, insn.cpuid_feature))
                    break;
                ++made;
                const Output expected = native.run(input);
                const Output got = machine.run(input);
                const std::string differences =
                    Comparison(insn, input, undefined_flags(insn, input, expected), expected, got)
                        .differences(native, machine, true);
                if (!differences.empty()) {
                    ADD_FAILURE() << "form \"" << form.encoding << "\" " << form.operands
                                  << " differs on " << machine.name() << ", host vector "
                                  << expected.vector << ", case seed " << case_seed << " try "
                                  << tries << "\n  " << describe(input) << describe(insn, input)
                                  << differences;
                    if (++failures[&form] >= 2)
                        break;
                }
            }
            cases += made;
            forms_run += round == 0 && made > 0;
        }
        if (round >= 1 && std::chrono::steady_clock::now() - start > budget)
            break;
    }
    std::printf("%s, %d-bit: %llu forms, %llu cases\n", machine.name(), code64 ? 64 : 32,
                (unsigned long long)forms_run, (unsigned long long)cases);
    if (only == nullptr) {
        EXPECT_GT(forms_run, 600u);
    }
}

// Random sequences of instructions.
void compare_sequences(Native &native, Machine &machine, const Cpu &model, bool code64) {
    const u64 seed = environment("RHEA_DIFF_SEED", 1);
    const auto budget = std::chrono::milliseconds(1000 * environment("RHEA_DIFF_SECONDS", 30) / 8);
    const auto start = std::chrono::steady_clock::now();
    Input input;
    Sequence sequence;
    u64 cases = 0, failures = 0, complete = 0, instructions = 0;
    for (; failures < 6; ++cases) {
        if (cases % 64 == 0 && cases >= 1000 && std::chrono::steady_clock::now() - start > budget)
            break;
        const u64 case_seed = (seed << 32) + cases;
        Generator(case_seed).make_sequence(code64, model, input, sequence);
        const Output expected = native.run(input);
        const Output got = machine.run(input);
        complete += expected.vector == vector::bp;
        instructions += sequence.items.size();
        const Sequence::Item *last = &sequence.items.back();
        u32 undefined = sequence.undefined_after;
        if (expected.vector != vector::bp) {
            for (const Sequence::Item &item : sequence.items) {
                if (input.state.rip + item.offset == expected.state.rip) {
                    last = &item;
                    undefined = item.undefined_before;
                    if (item.insn.op == Op::div || item.insn.op == Op::idiv)
                        undefined |= item.insn.flags_undefined;
                }
            }
        }
        const std::string differences = Comparison(last->insn, input, undefined, expected, got)
                                            .differences(native, machine, false);
        if (!differences.empty()) {
            ++failures;
            std::string text;
            for (const Sequence::Item &item : sequence.items) {
                text += format("\n    %8llx:", (unsigned long long)(input.state.rip + item.offset));
                for (unsigned i = 0; i < item.insn.length; ++i)
                    text += format(" %02x", input.bytes[item.offset + i]);
            }
            ADD_FAILURE() << "a sequence differs on " << machine.name() << ", host vector "
                          << expected.vector << ", case seed " << case_seed << "\n  "
                          << describe(input) << text << differences;
        }
    }
    std::printf("%s, %d-bit: %llu sequences of %.1f instructions, %.0f %% without a fault\n",
                machine.name(), code64 ? 64 : 32, (unsigned long long)cases,
                double(instructions) / double(cases), 100 * double(complete) / double(cases));
    EXPECT_GT(complete * 2, cases);
}

TEST(X86Diff, translated_sequences_are_as_on_the_host_in_64_bit_code) {
    Native native;
    Translator machine;
    compare_sequences(native, machine, machine.cpu(), true);
}

TEST(X86Diff, translated_sequences_are_as_on_the_host_in_32_bit_code) {
    Native native;
    if (!native.has_code32())
        GTEST_SKIP() << "this kernel has no 32-bit segments";
    Translator machine;
    compare_sequences(native, machine, machine.cpu(), false);
}

TEST(X86Diff, interpreted_sequences_are_as_on_the_host_in_64_bit_code) {
    Native native;
    Interpreter machine(true);
    compare_sequences(native, machine, machine.cpu(), true);
}

TEST(X86Diff, interpreter_is_as_the_host_in_64_bit_code) {
    Native native;
    Interpreter machine(true);
    compare_forms(native, machine, machine.cpu(), true);
}

TEST(X86Diff, interpreter_is_as_the_host_in_32_bit_code) {
    Native native;
    if (!native.has_code32())
        GTEST_SKIP() << "this kernel has no 32-bit segments";
    Interpreter machine(false);
    compare_forms(native, machine, machine.cpu(), false);
}

TEST(X86Diff, translator_is_as_the_host_in_64_bit_code) {
    Native native;
    Translator machine;
    compare_forms(native, machine, machine.cpu(), true);
    std::printf("T1 left %llu instructions to T0\n", (unsigned long long)machine.interpreted());
}

TEST(X86Diff, translator_is_as_the_host_in_32_bit_code) {
    Native native;
    if (!native.has_code32())
        GTEST_SKIP() << "this kernel has no 32-bit segments";
    Translator machine;
    compare_forms(native, machine, machine.cpu(), false);
}

} // namespace
} // namespace rhea::dbt::diff
