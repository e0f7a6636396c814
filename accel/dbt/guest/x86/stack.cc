#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {

StackCursor stack_cursor(const Cpu &cpu) noexcept {
    StackCursor cursor{};
    const bool long_stack = mode_64(cpu);
    cursor.mask = long_stack ? ~u64{0} : cpu.seg[ss].is(Segment::big) ? 0xffff'ffff : 0xffff;
    cursor.base = long_stack ? 0 : cpu.seg[ss].base;
    cursor.pointer = cpu.gpr[rsp] & cursor.mask;
    cursor.segment = ss;
    return cursor;
}

Outcome push(Context &context, StackCursor &cursor, unsigned size, u64 value,
             Fault &fault) noexcept {
    const u64 pointer = (cursor.pointer - size) & cursor.mask;
    u64 linear = 0;
    RHEA_T0_TRY(
        linear_address(context, cursor.segment, pointer, size, AccessType::write, linear, fault));
    RHEA_T0_TRY(store_linear(context, linear, size, value, fault));
    cursor.pointer = pointer;
    return Outcome::ok;
}

Outcome pop(Context &context, StackCursor &cursor, unsigned size, u64 &value,
            Fault &fault) noexcept {
    u64 linear = 0;
    RHEA_T0_TRY(linear_address(context, cursor.segment, cursor.pointer, size, AccessType::read,
                               linear, fault));
    RHEA_T0_TRY(load_linear(context, linear, size, value, fault));
    cursor.pointer = (cursor.pointer + size) & cursor.mask;
    return Outcome::ok;
}

void commit(Cpu &cpu, const StackCursor &cursor) noexcept {
    cpu.gpr[rsp] =
        (cursor.pointer & cursor.mask) | (cursor.mask == 0xffff ? cpu.gpr[rsp] & ~cursor.mask : 0);
}

} // namespace rhea::dbt::x86
