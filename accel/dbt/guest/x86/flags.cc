#include "accel/dbt/guest/x86/flags.h"

#include <bit>

namespace rhea::dbt::x86 {

u32 arithmetic_flags(const Cpu &cpu) noexcept {
    const u32 form = u32(cpu.cc_form);
    if (cpu.cc_form == CcForm::in_rflags)
        return u32(cpu.rflags) & flag::arithmetic;
    if ((form & ~3u) == u32(CcForm::host_ah_al)) {
        // AH holds SF ZF AF PF CF where RFLAGS has them, AL is 1 if OF.
        const u32 low = u32(cpu.cc_source >> 8) & 0xff & flag::arithmetic;
        return low | ((cpu.cc_source & 0xff) != 0 ? flag::of : 0);
    }
    const unsigned bits = 8u << (form & 3);
    const u64 mask = ~u64{0} >> (64 - bits), sign = u64{1} << (bits - 1);
    const u64 b = cpu.cc_source & mask;
    u64 a = 0, result = cpu.cc_result & mask;
    u32 flags = 0;
    switch (CcForm(form & ~3u)) {
    case CcForm::add:
        a = (result - b) & mask;
        flags |= result < b ? flag::cf : 0;
        flags |= ((a ^ result) & (b ^ result) & sign) != 0 ? flag::of : 0;
        flags |= u32(a ^ b ^ result) & flag::af;
        break;
    case CcForm::sub:
    case CcForm::compare:
        if (CcForm(form & ~3u) == CcForm::compare) {
            a = result;
            result = (a - b) & mask;
        } else {
            a = (result + b) & mask;
        }
        flags |= a < b ? flag::cf : 0;
        flags |= ((a ^ b) & (a ^ result) & sign) != 0 ? flag::of : 0;
        flags |= u32(a ^ b ^ result) & flag::af;
        break;
    default: break; // logic: CF, OF and AF are clear
    }
    flags |= (result & sign) != 0 ? flag::sf : 0;
    flags |= result == 0 ? flag::zf : 0;
    flags |= std::popcount(unsigned(result & 0xff)) % 2 == 0 ? flag::pf : 0;
    return flags;
}

} // namespace rhea::dbt::x86
