#include "accel/dbt/guest/x86/access.h"

namespace rhea::dbt::x86 {

u64 effective_offset(const Cpu &cpu, const Insn &insn) noexcept {
    u64 offset = u64(i64{insn.displacement});
    if (insn.base < 16)
        offset += cpu.gpr[insn.base];
    else if (insn.base == rip_register)
        offset += cpu.rip; // of the next instruction: execute() has moved it already
    else if (insn.base == moffs_register)
        offset = insn.immediate;
    if (insn.index < 16)
        offset += cpu.gpr[insn.index] << insn.scale;
    return offset & size_mask(insn.address_size);
}

u64 read_gpr(const Cpu &cpu, const Operand &operand) noexcept {
    const u64 value = cpu.gpr[operand.index & 15];
    return (operand.high ? value >> 8 : value) & size_mask(operand.size);
}

void write_gpr(Cpu &cpu, unsigned index, unsigned size, u64 value) noexcept {
    u64 &gpr = cpu.gpr[index & 15];
    switch (size) {
    case 1: gpr = (gpr & ~u64{0xff}) | (value & 0xff); break;
    case 2: gpr = (gpr & ~u64{0xffff}) | (value & 0xffff); break;
    case 4: gpr = value & 0xffff'ffff; break;
    default: gpr = value; break;
    }
}

void write_gpr(Cpu &cpu, const Operand &operand, u64 value) noexcept {
    if (operand.high) {
        u64 &gpr = cpu.gpr[operand.index & 15];
        gpr = (gpr & ~u64{0xff00}) | (value & 0xff) << 8;
    } else {
        write_gpr(cpu, operand.index, operand.size, value);
    }
}

Outcome read_operand(Context &context, const Insn &insn, unsigned n, u64 &value,
                     Fault &fault) noexcept {
    const Operand &operand = insn.operand[n];
    switch (operand.kind) {
    case OperandKind::gpr: value = read_gpr(context.cpu, operand); return Outcome::ok;
    case OperandKind::memory: {
        u64 linear = 0;
        RHEA_T0_TRY(operand_address(context, insn, n, AccessType::read, linear, fault));
        return load_linear(context, linear, operand.size, value, fault);
    }
    default: value = insn.immediate; return Outcome::ok;
    }
}

Outcome write_operand(Context &context, const Insn &insn, unsigned n, u64 value,
                      Fault &fault) noexcept {
    const Operand &operand = insn.operand[n];
    if (operand.kind == OperandKind::gpr) {
        write_gpr(context.cpu, operand, value);
        return Outcome::ok;
    }
    u64 linear = 0;
    RHEA_T0_TRY(operand_address(context, insn, n, AccessType::write, linear, fault));
    return store_linear(context, linear, operand.size, value, fault);
}

Outcome probe_operand_write(Context &context, const Insn &insn, unsigned n, Fault &fault) noexcept {
    if (insn.operand[n].kind != OperandKind::memory)
        return Outcome::ok;
    u64 linear = 0;
    RHEA_T0_TRY(operand_address(context, insn, n, AccessType::write, linear, fault));
    return probe_write(context, linear, insn.operand[n].size, Privilege::current, fault);
}

Outcome read_segmented(Context &context, u8 segment, u64 offset, void *to, unsigned size,
                       Fault &fault) noexcept {
    u64 linear = 0;
    RHEA_T0_TRY(linear_address(context, segment, offset, size, AccessType::read, linear, fault));
    if (const u8 *host = tlb_probe(context.cpu, linear, size, false)) {
        std::memcpy(to, host, size);
        return Outcome::ok;
    }
    return read_memory(context, linear, to, size, Privilege::current, fault);
}

Outcome write_segmented(Context &context, u8 segment, u64 offset, const void *from, unsigned size,
                        Fault &fault) noexcept {
    u64 linear = 0;
    RHEA_T0_TRY(linear_address(context, segment, offset, size, AccessType::write, linear, fault));
    if (u8 *host = tlb_probe(context.cpu, linear, size, true)) {
        std::memcpy(host, from, size);
        return Outcome::ok;
    }
    return write_memory(context, linear, from, size, Privilege::current, fault);
}

Outcome branch_to(Context &context, u64 target, unsigned operand_size, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    target &= size_mask(operand_size);
    if (mode_64(cpu) ? !is_canonical(target) : (target & 0xffff'ffff) > cpu.seg[cs].limit)
        return raise(fault, vector::gp, 0);
    cpu.rip = target;
    return Outcome::ok;
}

} // namespace rhea::dbt::x86
