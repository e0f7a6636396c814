// Accesses that leave the core, and their replay: see IoLog in state.h.

#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {

Outcome other_io(Context &context, ExitKind kind, u64 address, unsigned size, u64 &value) noexcept {
    Cpu &cpu = context.cpu;
    const bool write = kind == ExitKind::port_write || kind == ExitKind::memory_write ||
                       kind == ExitKind::msr_write || kind == ExitKind::task_priority_write;
    if (cpu.io.cursor < cpu.io.served) { // an earlier run of this instruction has done it
        if (!write)
            value = cpu.io.value[cpu.io.cursor] & size_mask(size);
        ++cpu.io.cursor;
        return Outcome::ok;
    }
    // No instruction makes that many accesses; a guest that finds one anyway is stopped rather than
    // replayed for ever.
    if (cpu.io.cursor >= IoLog::capacity)
        kind = ExitKind::shutdown;
    cpu.exit = {};
    cpu.exit.kind = kind;
    cpu.exit.size = u8(size);
    cpu.exit.address = address;
    cpu.exit.value = write ? value & size_mask(size) : 0;
    return Outcome::exit;
}

Outcome port_access(Context &context, bool write, u16 port, unsigned size, u64 &value) noexcept {
    return other_io(context, write ? ExitKind::port_write : ExitKind::port_read, port, size, value);
}

Outcome memory_io(Context &context, bool write, u64 physical, unsigned size, u64 &value) noexcept {
    return other_io(context, write ? ExitKind::memory_write : ExitKind::memory_read, physical, size,
                    value);
}

// SDM volume 1, 19.5.2: above IOPL (and always in v8086 mode) the TSS's bitmap decides, one bit a
// port; two bytes are read, so that an access that straddles a byte of the bitmap needs no second
// look.
Outcome io_permission(Context &context, u16 port, unsigned size, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned iopl = unsigned(cpu.rflags & flag::iopl) >> 12;
    if (!protected_mode(cpu) || (cpu.cpl <= iopl && !v8086(cpu)))
        return Outcome::ok;
    const bool tss_32 =
        cpu.tr.is(Segment::present) && (cpu.tr.type() & 13) == 9; // 32- or 64-bit TSS, busy or not
    if (!tss_32 || cpu.tr.limit < 0x67)
        return raise(fault, vector::gp, 0);
    u16 bitmap = 0, bits = 0;
    RHEA_T0_TRY(read_memory(context, cpu.tr.base + 0x66, &bitmap, 2, Privilege::supervisor, fault));
    const u32 at = u32{bitmap} + port / 8;
    if (at + 1 > cpu.tr.limit)
        return raise(fault, vector::gp, 0);
    RHEA_T0_TRY(read_memory(context, cpu.tr.base + at, &bits, 2, Privilege::supervisor, fault));
    if (((bits >> (port & 7)) & ((1u << size) - 1)) != 0)
        return raise(fault, vector::gp, 0);
    return Outcome::ok;
}

} // namespace rhea::dbt::x86
