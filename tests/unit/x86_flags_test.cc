#include "accel/dbt/guest/x86/flags.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

namespace rhea::dbt::x86 {
namespace {

// Steps over the red zone before it pushes.
#define RHEA_FLAGS_OF(operation)                                                                   \
    asm("lea -128(%%rsp), %%rsp; " operation " %2, %1; pushfq; pop %0; lea 128(%%rsp), %%rsp"      \
        : "=&r"(flags), "+r"(result)                                                               \
        : "r"(b)                                                                                   \
        : "cc", "memory")

// The host CPU's flags for an operation of the width of T.
template <typename T> u32 native(CcForm form, T a, T b, T &result) {
    u64 flags;
    result = a;
    if (form == CcForm::add)
        RHEA_FLAGS_OF("add");
    else if (form == CcForm::logic)
        RHEA_FLAGS_OF("and");
    else
        RHEA_FLAGS_OF("sub");
    return u32(flags) & flag::arithmetic;
}

template <typename T> void compare(Cpu &cpu, CcForm form, unsigned log2_size, u64 x, u64 y) {
    T result;
    const T a = T(x), b = T(y);
    u32 defined = flag::arithmetic;
    const u32 expected = native<T>(form, a, b, result);
    if (form == CcForm::logic)
        defined &= ~flag::af;
    cpu.cc_form = CcForm(u32(form) | log2_size);
    cpu.cc_result =
        form == CcForm::compare ? x : (x & 0xdead'0000'0000'0000 & ~u64(T(~T{0}))) | u64(result);
    cpu.cc_source = y; // bits above the operand are garbage

    EXPECT_EQ(arithmetic_flags(cpu) & defined, expected & defined)
        << "form " << u32(form) << " size " << sizeof(T) << " " << x << " " << y;
}

TEST(X86Flags, lazy_forms_give_the_flags_of_the_host) {
    const auto cpu = std::make_unique<Cpu>();
    std::mt19937_64 random(1);
    for (unsigned n = 0; n < 20'000; ++n) {
        u64 x = random(), y = random();
        if (n % 4 == 0)
            y = x + (n / 4) % 3 - 1;
        if (n % 7 == 0)
            x = u64{0x8080'0080'8000'8080};
        for (const CcForm form : {CcForm::add, CcForm::sub, CcForm::compare, CcForm::logic}) {
            compare<u8>(*cpu, form, 0, x, y);
            compare<u16>(*cpu, form, 1, x, y);
            compare<u32>(*cpu, form, 2, x, y);
            compare<u64>(*cpu, form, 3, x, y);
        }
    }
}

TEST(X86Flags, materialise_keeps_the_other_bits) {
    const auto cpu = std::make_unique<Cpu>();
    cpu->rflags = flag::always_one | flag::if_ | flag::df | flag::cf;
    cpu->cc_form = CcForm::host_ah_al;
    cpu->cc_source = (flag::zf | flag::pf | flag::always_one) << 8 | 1;

    materialise_flags(*cpu);

    EXPECT_EQ(cpu->rflags,
              flag::always_one | flag::if_ | flag::df | flag::zf | flag::pf | flag::of);
    EXPECT_EQ(cpu->cc_form, CcForm::in_rflags);
}

} // namespace
} // namespace rhea::dbt::x86
