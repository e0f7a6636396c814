// The derived fields of Cpu. SDM volume 3, 5.5 (CPL) and 3.2.1 (flat model).

#include "accel/dbt/guest/x86/state.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

// Base 0 and every offset allowed.
bool spans_all(const Segment &s) {
    return s.limit == 0xffff'ffff && s.is(Segment::present);
}
// Data segments are writable by `writable`; an expand-down segment with this limit allows nothing.
bool writable_data(const Segment &s) {
    return !s.is(Segment::code) && s.is(Segment::writable) && !s.is(Segment::expand_down);
}
bool flat_data(const Segment &s) {
    return s.base == 0 && spans_all(s) && writable_data(s);
}
bool flat_code(const Segment &s) {
    return s.base == 0 && spans_all(s) && (!s.is(Segment::code) || s.is(Segment::readable));
}

u32 segment_bits(const Cpu &cpu) {
    if (mode_64(cpu))
        return mode::code64 | mode::stack32 | mode::flat | mode::flat_fs | mode::flat_gs;
    u32 bits = cpu.seg[cs].is(Segment::big) && !v8086(cpu) ? mode::code32 : mode::code16;
    if (cpu.seg[ss].is(Segment::big))
        bits |= mode::stack32;
    if (flat_code(cpu.seg[cs]) && flat_data(cpu.seg[ds]) && flat_data(cpu.seg[es]) &&
        flat_data(cpu.seg[ss]))
        bits |= mode::flat;
    if (spans_all(cpu.seg[fs]) && writable_data(cpu.seg[fs]))
        bits |= mode::flat_fs;
    if (spans_all(cpu.seg[gs]) && writable_data(cpu.seg[gs]))
        bits |= mode::flat_gs;
    return bits;
}

} // namespace

void update_mode(Cpu &cpu) noexcept {
    // SS.DPL is CPL in every protected mode state: all transfers that change CPL load SS, null
    // selectors included.
    cpu.cpl = !protected_mode(cpu) ? 0 : v8086(cpu) ? 3 : cpu.seg[ss].dpl();
    u32 bits = segment_bits(cpu);
    if (cpu.cpl == 3)
        bits |= mode::user | (cpu.cr4 & cr4::tsd ? mode::no_tsc : 0);
    if (!(cpu.cr0 & (cr0::em | cr0::ts))) {
        bits |= mode::x87;
        if (cpu.cr4 & cr4::osfxsr)
            bits |= mode::sse;
    }
    // Alignment checking is rare enough to be left to T0 along with single steps and breakpoints.
    const bool alignment = cpu.cpl == 3 && (cpu.cr0 & cr0::am) && (cpu.rflags & flag::ac);
    if ((cpu.rflags & flag::tf) || (cpu.dr[7] & 0xff) || alignment)
        bits |= mode::trap;
    if (protected_mode(cpu))
        bits |= mode::protected_;
    if (protected_mode(cpu) && v8086(cpu))
        bits |= mode::vm86;
    if (cpu.cr0 & cr0::pg)
        bits |= mode::paging;
    cpu.mode = bits;
    const u64 linear = mode_64(cpu) ? cpu.rip : u32(cpu.seg[cs].base + cpu.rip);
    cpu.page_base = linear & mmu::page_mask;
}

} // namespace rhea::dbt::x86
