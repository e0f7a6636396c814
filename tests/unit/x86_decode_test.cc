#include "accel/dbt/guest/x86/decode.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <random>
#include <vector>

namespace rhea::dbt::x86 {
namespace {

struct Decoded {
    DecodeStatus status;
    Insn insn;
};
Decoded decode_bytes(CodeSize size, std::initializer_list<u8> bytes) {
    std::vector<u8> padded(bytes);
    Decoded d{};
    d.status = decode(padded, size, d.insn);
    return d;
}

TEST(X86Decode, lock_is_legal_only_with_a_memory_destination) {
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xf0, 0x01, 0x03}).status, DecodeStatus::ok);
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xf0, 0x01, 0xc3}).status, DecodeStatus::invalid);
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xf0, 0x03, 0x03}).status, DecodeStatus::invalid);
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xf0, 0x39, 0x03}).status, DecodeStatus::invalid);
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xf0, 0x90}).status, DecodeStatus::invalid);
}

TEST(X86Decode, rex_counts_only_directly_before_the_opcode) {
    const Decoded ignored = decode_bytes(CodeSize::bits64, {0x48, 0x66, 0x01, 0xc8});
    const Decoded counted = decode_bytes(CodeSize::bits64, {0x66, 0x48, 0x01, 0xc8});

    EXPECT_EQ(ignored.insn.operand_size, 2);
    EXPECT_EQ(ignored.insn.rex, 0);
    EXPECT_EQ(counted.insn.operand_size, 8);
}

TEST(X86Decode, byte_registers_four_to_seven_are_high_without_rex) {
    const Decoded high = decode_bytes(CodeSize::bits64, {0x88, 0xe0});
    const Decoded low = decode_bytes(CodeSize::bits64, {0x40, 0x88, 0xe0});

    EXPECT_EQ(high.insn.operand[1].index, rax);
    EXPECT_TRUE(high.insn.operand[1].high);
    EXPECT_EQ(low.insn.operand[1].index, rsp);
    EXPECT_FALSE(low.insn.operand[1].high);
}

TEST(X86Decode, offset_form_has_a_64_bit_offset_in_64_bit_mode) {
    const Decoded d = decode_bytes(CodeSize::bits64, {0x48, 0xa1, 8, 7, 6, 5, 4, 3, 2, 1});

    ASSERT_EQ(d.status, DecodeStatus::ok);
    EXPECT_EQ(d.insn.length, 10);
    EXPECT_EQ(d.insn.base, moffs_register);
    EXPECT_EQ(d.insn.immediate, 0x0102030405060708u);
    EXPECT_EQ(d.insn.operand[1].kind, OperandKind::memory);
    EXPECT_EQ(d.insn.operand[1].size, 8);
}

TEST(X86Decode, les_and_lds_are_no_instructions_in_64_bit_mode_or_with_registers) {
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xc4, 0x03}).insn.op, Op::load_far);
    EXPECT_EQ(decode_bytes(CodeSize::bits32, {0xc4, 0xc3}).status, DecodeStatus::invalid);
    EXPECT_EQ(decode_bytes(CodeSize::bits64, {0xc5, 0x03}).status, DecodeStatus::invalid);
}

TEST(X86Decode, mandatory_prefix_f3_wins_over_66) {
    const Decoded d = decode_bytes(CodeSize::bits64, {0xf3, 0x66, 0x0f, 0x58, 0xc1});

    ASSERT_EQ(d.status, DecodeStatus::ok);
    EXPECT_EQ(d.insn.operand[1].size, 4); // ADDSS
}

TEST(X86Decode, legacy_vectors_in_memory_are_aligned_but_for_movups) {
    EXPECT_TRUE(decode_bytes(CodeSize::bits64, {0x0f, 0x58, 0x00}).insn.operand[1].aligned);
    EXPECT_TRUE(decode_bytes(CodeSize::bits64, {0x0f, 0x28, 0x00}).insn.operand[1].aligned);
    EXPECT_FALSE(decode_bytes(CodeSize::bits64, {0x0f, 0x10, 0x00}).insn.operand[1].aligned);
    EXPECT_FALSE(decode_bytes(CodeSize::bits64, {0xf3, 0x0f, 0x58, 0x00}).insn.operand[1].aligned);
}

TEST(X86Decode, shift_by_zero_or_cl_keeps_flags_so_it_reads_them) {
    const Insn by_one = decode_bytes(CodeSize::bits64, {0xd1, 0xe0}).insn;
    const Insn by_zero = decode_bytes(CodeSize::bits64, {0xc1, 0xe0, 0x20}).insn;
    const Insn by_cl = decode_bytes(CodeSize::bits64, {0xd3, 0xe0}).insn;
    const Insn by_five = decode_bytes(CodeSize::bits64, {0xc1, 0xe0, 0x05}).insn;

    EXPECT_EQ(by_one.flags_read, 0u);
    EXPECT_EQ(by_one.flags_undefined, flag::af);
    EXPECT_EQ(by_zero.flags_read, flag::arithmetic);
    EXPECT_EQ(by_cl.flags_read, flag::arithmetic);
    EXPECT_EQ(by_five.flags_read, 0u);
    EXPECT_EQ(by_five.flags_undefined, flag::af | flag::of);
}

TEST(X86Decode, tzcnt_without_the_feature_is_bsf) {
    Insn insn = decode_bytes(CodeSize::bits64, {0xf3, 0x0f, 0xbc, 0xc1}).insn;
    ASSERT_EQ(insn.op, Op::tzcnt);

    EXPECT_TRUE(without_feature(insn));

    EXPECT_EQ(insn.op, Op::bsf);
    EXPECT_EQ(insn.cpuid_feature, u16(Feature::none));
    EXPECT_EQ(insn.flags_undefined, flag::arithmetic & ~flag::zf);
    Insn popcnt = decode_bytes(CodeSize::bits64, {0xf3, 0x0f, 0xb8, 0xc1}).insn;
    EXPECT_FALSE(without_feature(popcnt));
}

TEST(X86Decode, near_branches_of_64_bit_mode_ignore_66) {
    const Decoded d = decode_bytes(CodeSize::bits64, {0x66, 0xe8, 0xff, 0xff, 0xff, 0xff});

    EXPECT_EQ(d.insn.length, 6);
    EXPECT_EQ(d.insn.operand_size, 8);
    EXPECT_EQ(d.insn.immediate, ~u64{0});
}

TEST(X86Decode, enter_has_its_level_in_selector) {
    const Decoded d = decode_bytes(CodeSize::bits32, {0xc8, 0x34, 0x12, 0x03});

    EXPECT_EQ(d.insn.length, 4);
    EXPECT_EQ(d.insn.immediate, 0x1234u);
    EXPECT_EQ(d.insn.selector, 3);
}

TEST(X86Decode, sixteen_bit_addresses_default_to_ss_with_bp) {
    const Insn bp_si = decode_bytes(CodeSize::bits16, {0x8b, 0x42, 0xfe}).insn;
    const Insn offset = decode_bytes(CodeSize::bits16, {0x8b, 0x06, 0x34, 0x12}).insn;

    EXPECT_EQ(bp_si.base, rbp);
    EXPECT_EQ(bp_si.index, rsi);
    EXPECT_EQ(bp_si.segment, ss);
    EXPECT_EQ(bp_si.displacement, -2);
    EXPECT_EQ(offset.base, no_register);
    EXPECT_EQ(offset.segment, ds);
    EXPECT_EQ(offset.displacement, 0x1234);
}

TEST(X86Decode, more_than_fifteen_bytes_are_too_long) {
    const Decoded fits =
        decode_bytes(CodeSize::bits64, {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                        0x66, 0x66, 0x66, 0x01, 0xc8});
    const Decoded long_ =
        decode_bytes(CodeSize::bits64, {0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66,
                                        0x66, 0x66, 0x66, 0x66, 0x01, 0xc8});

    EXPECT_EQ(fits.status, DecodeStatus::ok);
    EXPECT_EQ(fits.insn.length, 15);
    EXPECT_EQ(long_.status, DecodeStatus::too_long);
}

TEST(X86Decode, each_beginning_of_an_instruction_is_truncated) {
    std::mt19937_64 random(1);
    unsigned tried = 0;
    for (unsigned n = 0; n < 200'000; ++n) {
        u8 bytes[15];
        for (u8 &byte : bytes)
            byte = u8(random());
        if (random() & 1)
            bytes[0] = 0x0f;
        const CodeSize size = CodeSize(n % 3);
        Insn insn;
        if (decode(bytes, size, insn) != DecodeStatus::ok)
            continue;
        ++tried;
        for (unsigned length = 0; length < insn.length; ++length) {
            Insn part;
            ASSERT_EQ(decode({bytes, length}, size, part), DecodeStatus::truncated);
        }
    }
    EXPECT_GT(tried, 100'000u);
}

} // namespace
} // namespace rhea::dbt::x86
