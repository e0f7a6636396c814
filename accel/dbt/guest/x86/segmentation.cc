// Segment checks and descriptor access. SDM volume 3, 5.3 to 5.6 and 3.4.

#include "accel/dbt/guest/x86/descriptor.h"
#include "accel/dbt/guest/x86/state.h"
#include "accel/dbt/guest/x86/system.h"

namespace rhea::dbt::x86 {
namespace {

// Is [offset, offset + size) inside the segment?
bool within(const Segment &s, u64 offset, unsigned size) {
    const u64 last = offset + size - 1;
    if (!s.is(Segment::code) && s.is(Segment::expand_down) && s.is(Segment::user))
        return offset > s.limit && last <= (s.is(Segment::big) ? 0xffff'ffffu : 0xffffu);
    return last <= s.limit;
}

bool type_allows(const Segment &s, AccessType type) {
    if (!s.is(Segment::present))
        return false; // a null selector
    switch (type) {
    case AccessType::write: return !s.is(Segment::code) && s.is(Segment::writable);
    case AccessType::read: return !s.is(Segment::code) || s.is(Segment::readable);
    case AccessType::execute: return true;
    }
    return false;
}

} // namespace

Outcome linearise(Context &context, u8 segment, u64 offset, unsigned size, AccessType type,
                  u64 &linear, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    const Segment &s = cpu.seg[segment];
    const u8 violation = segment == ss ? vector::ss : vector::gp;
    if (size == 0)
        size = 1;
    if (mode_64(cpu)) {
        linear = segment >= fs ? s.base + offset : offset;
        if (!canonical(linear) || !canonical(linear + size - 1))
            return raise(fault, violation, 0);
    } else {
        offset &= 0xffff'ffff;
        if (!within(s, offset, size))
            return raise(fault, violation, 0);
        if (protected_mode(cpu) && !v8086(cpu) && !type_allows(s, type))
            return raise(fault, violation, 0);
        linear = u32(s.base + offset);
    }
    if ((cpu.mode & mode::trap) && cpu.cpl == 3 && (cpu.cr0 & cr0::am) && (cpu.rflags & flag::ac) &&
        type != AccessType::execute && (size == 2 || size == 4 || size == 8) &&
        (linear & (size - 1)) != 0)
        return raise(fault, vector::ac, 0);
    return Outcome::ok;
}

Outcome read_descriptor(Context &context, u16 selector, u8 vector, u32 ext, Descriptor &out,
                        Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    const u32 offset = selector & 0xfff8u;
    const bool local = (selector & 4) != 0;
    const u64 base = local ? cpu.ldt.base : cpu.gdt.base;
    const u32 limit = local ? cpu.ldt.limit : cpu.gdt.limit;
    if (offset + 7 > limit || (local && !cpu.ldt.is(Segment::present)))
        return raise(fault, vector, selector_error(selector, ext));
    out.address = base + offset;
    out.high = 0;
    return read_memory(context, out.address, &out.low, 8, Privilege::supervisor, fault);
}

Outcome read_wide_descriptor(Context &context, u16 selector, u8 vector, u32 ext, Descriptor &out,
                             Fault &fault) noexcept {
    RHEA_T0_TRY(read_descriptor(context, selector, vector, ext, out, fault));
    const Cpu &cpu = context.cpu;
    if ((selector & 0xfff8u) + 15 > ((selector & 4) ? cpu.ldt.limit : cpu.gdt.limit))
        return raise(fault, vector, selector_error(selector, ext));
    RHEA_T0_TRY(read_memory(context, out.address + 8, &out.high, 8, Privilege::supervisor, fault));
    if (out.high >> 40 & 31) // would be the type of a descriptor of its own
        return raise(fault, vector, selector_error(selector, ext));
    return Outcome::ok;
}

Segment segment_of(const Descriptor &d, u16 selector) noexcept {
    u64 base = (d.low >> 16 & 0xff'ffff) | (d.low >> 32 & 0xff00'0000);
    if (d.system())
        base |= d.high << 32;
    u32 limit = u32(d.low & 0xffff) | u32(d.low >> 32 & 0xf'0000);
    const u16 attributes = u16(d.low >> 40 & 0xf0ff);
    if (attributes & Segment::granular)
        limit = limit << 12 | 0xfff;
    return {base, limit, selector, attributes};
}

Outcome mark_descriptor(Context &context, const Descriptor &descriptor, u8 type_bits,
                        Fault &fault) noexcept {
    u8 access = u8(descriptor.low >> 40);
    if ((access & type_bits) == type_bits)
        return Outcome::ok;
    access = u8(access | type_bits);
    return write_memory(context, descriptor.address + 5, &access, 1, Privilege::supervisor, fault);
}

void load_real_segment(Cpu &cpu, SegmentName name, u16 selector) noexcept {
    Segment &s = cpu.seg[name];
    s.selector = selector;
    s.base = u64{selector} << 4;
    if (v8086(cpu) && protected_mode(cpu)) {
        s.limit = 0xffff;
        s.attributes = 0xf3;
    }
}

Outcome read_code_descriptor(Context &context, u16 selector, u32 ext, Descriptor &out,
                             Fault &fault) noexcept {
    if (null_selector(selector))
        return raise(fault, vector::gp, ext);
    RHEA_T0_TRY(read_descriptor(context, selector, vector::gp, ext, out, fault));
    const bool undefined_size = long_mode_active(context.cpu) && out.long_code() && out.big();
    if (!out.code() || undefined_size)
        return raise(fault, vector::gp, selector_error(selector, ext));
    return Outcome::ok;
}

Outcome read_stack_segment(Context &context, u16 selector, unsigned cpl, u8 vector, u32 ext,
                           Segment &out, Fault &fault) noexcept {
    if (null_selector(selector))
        return raise(fault, vector, ext);
    Descriptor d;
    RHEA_T0_TRY(read_descriptor(context, selector, vector, ext, d, fault));
    if ((selector & 3u) != cpl || d.dpl() != cpl || !d.writable_data())
        return raise(fault, vector, selector_error(selector, ext));
    if (!d.present())
        return raise(fault, vector::ss, selector_error(selector, ext));
    RHEA_T0_TRY(mark_descriptor(context, d, Segment::accessed, fault));
    out = segment_of(d, selector);
    out.attributes |= Segment::accessed;
    return Outcome::ok;
}

bool valid_target(const Cpu &cpu, const Segment &code, u64 target) noexcept {
    if (long_mode_active(cpu) && code.is(Segment::long_mode))
        return canonical(target);
    return (target & 0xffff'ffff) <= code.limit;
}

namespace {

Outcome load_stack_segment(Context &context, u16 selector, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (null_selector(selector)) {
        // 64-bit mode runs with a null SS below level 3.
        if (!mode_64(cpu) || cpu.cpl == 3 || (selector & 3u) != cpu.cpl)
            return raise(fault, vector::gp, 0);
        cpu.seg[ss] = null_segment(selector, cpu.cpl);
        return Outcome::ok;
    }
    return read_stack_segment(context, selector, cpu.cpl, vector::gp, 0, cpu.seg[ss], fault);
}

Outcome load_data_segment(Context &context, SegmentName name, u16 selector, Fault &fault) {
    Cpu &cpu = context.cpu;
    if (null_selector(selector)) {
        cpu.seg[name] = null_segment(selector);
        return Outcome::ok;
    }
    Descriptor d;
    RHEA_T0_TRY(read_descriptor(context, selector, vector::gp, 0, d, fault));
    const bool free_for_all = d.code() && d.conforming();
    if (!d.readable() || (!free_for_all && (d.dpl() < cpu.cpl || d.dpl() < (selector & 3u))))
        return raise(fault, vector::gp, selector_error(selector));
    if (!d.present())
        return raise(fault, vector::np, selector_error(selector));
    RHEA_T0_TRY(mark_descriptor(context, d, Segment::accessed, fault));
    cpu.seg[name] = segment_of(d, selector);
    cpu.seg[name].attributes |= Segment::accessed;
    return Outcome::ok;
}

} // namespace

Outcome load_segment(Context &context, SegmentName name, u16 selector, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!protected_mode(cpu) || v8086(cpu))
        load_real_segment(cpu, name, selector);
    else if (name == ss)
        RHEA_T0_TRY(load_stack_segment(context, selector, fault));
    else
        RHEA_T0_TRY(load_data_segment(context, name, selector, fault));
    update_mode(cpu);
    return Outcome::ok;
}

FarStack current_stack(const Cpu &cpu) noexcept {
    if (mode_64(cpu))
        return wide_stack(cpu.seg[ss], cpu.gpr[rsp], Privilege::current, 0);
    FarStack stack = inner_stack(cpu.seg[ss], cpu.gpr[rsp], 0);
    stack.privilege = Privilege::current;
    return stack;
}

FarStack inner_stack(const Segment &segment, u64 pointer, u32 error_code) noexcept {
    const u64 mask = segment.is(Segment::big) ? 0xffff'ffff : 0xffff;
    return {segment, pointer, mask, false, Privilege::supervisor, error_code};
}

FarStack wide_stack(const Segment &segment, u64 pointer, Privilege privilege,
                    u32 error_code) noexcept {
    return {segment, pointer, ~u64{0}, true, privilege, error_code};
}

namespace {

Outcome stack_address(const FarStack &stack, u64 offset, unsigned size, u64 &linear, Fault &fault) {
    if (stack.wide) {
        linear = offset;
        return canonical(linear) && canonical(linear + size - 1)
                   ? Outcome::ok
                   : raise(fault, vector::ss, stack.error_code);
    }
    if (!within(stack.segment, offset, size))
        return raise(fault, vector::ss, stack.error_code);
    linear = u32(stack.segment.base + offset);
    return Outcome::ok;
}

} // namespace

Outcome push(Context &context, FarStack &stack, unsigned size, u64 value, Fault &fault) noexcept {
    const u64 offset = (stack.pointer - size) & stack.mask;
    u64 linear;
    RHEA_T0_TRY(stack_address(stack, offset, size, linear, fault));
    RHEA_T0_TRY(write_memory(context, linear, &value, size, stack.privilege, fault));
    stack.pointer = (stack.pointer & ~stack.mask) | offset;
    return Outcome::ok;
}

Outcome pop(Context &context, FarStack &stack, unsigned size, u64 &value, Fault &fault) noexcept {
    const u64 offset = stack.pointer & stack.mask;
    u64 linear;
    RHEA_T0_TRY(stack_address(stack, offset, size, linear, fault));
    value = 0;
    RHEA_T0_TRY(read_memory(context, linear, &value, size, stack.privilege, fault));
    stack.pointer = (stack.pointer & ~stack.mask) | ((offset + size) & stack.mask);
    return Outcome::ok;
}

Outcome tss_stack(Context &context, unsigned level, u32 ext, Segment &ss_out, u64 &pointer,
                  Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    const bool narrow = (cpu.tr.type() & ~2u) == system_type::tss16;
    const u32 offset = narrow ? 2 + level * 4 : 4 + level * 8;
    const unsigned size = narrow ? 2 : 4;
    if (!cpu.tr.is(Segment::present) || offset + 2 * size - 1 > cpu.tr.limit)
        return raise(fault, vector::ts, selector_error(cpu.tr.selector, ext));
    u16 selector = 0;
    pointer = 0;
    RHEA_T0_TRY(
        read_memory(context, cpu.tr.base + offset, &pointer, size, Privilege::supervisor, fault));
    RHEA_T0_TRY(read_memory(context, cpu.tr.base + offset + size, &selector, 2,
                            Privilege::supervisor, fault));
    return read_stack_segment(context, selector, level, vector::ts, ext, ss_out, fault);
}

Outcome tss_stack_64(Context &context, unsigned slot, u32 ext, u64 &pointer,
                     Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    // RSP0..2 at 4, 12, 20; IST1..7 at 36 …: one array with a gap of one.
    const u32 offset = 4 + slot * 8;
    if (offset + 7 > cpu.tr.limit)
        return raise(fault, vector::ts, selector_error(cpu.tr.selector, ext));
    RHEA_T0_TRY(
        read_memory(context, cpu.tr.base + offset, &pointer, 8, Privilege::supervisor, fault));
    return canonical(pointer) ? Outcome::ok : raise(fault, vector::ss, ext);
}

} // namespace rhea::dbt::x86
