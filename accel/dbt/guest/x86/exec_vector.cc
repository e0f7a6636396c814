// T0: x87, MMX and SSE instructions, run on the host CPU through stubs (host/x86_64/thunk.h). Here
// are the checks before the instruction, the guest's view of memory, and what becomes of its
// exceptions.
//
// x87 runs under the guest's own control word: an unmasked exception stays pending in the status
// word and the next waiting instruction raises #MF, as on the CPU. With CR0.NE = 0 a PC reports
// errors by FERR# and IRQ 13, which is not modelled: such a CPU behaves as if IGNNE# were asserted.
// SSE runs with all exceptions masked; which of them the guest would have taken follows from the
// sticky flags.

#include "accel/dbt/guest/x86/access.h"
#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/host/x86_64/thunk.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace rhea::dbt::x86 {
namespace {

using host::NativeInsn;
using host::VectorFrame;
using host::X87Frame;

constexpr u32 mxcsr_writable = 0xffff; // with DAZ
constexpr u32 mxcsr_flags = 0x3f, mxcsr_masks = 0x1f80;
constexpr u32 mxcsr_underflow = 0x10, mxcsr_underflow_mask = 0x800, mxcsr_flush_to_zero = 0x8000;
constexpr u32 before_computation = 7; // invalid, denormal, division by zero
constexpr u16 x87_exceptions = 0x3f, x87_summary = 0x80, x87_busy = 0x8000;

// One a process: stubs depend on nothing but the instruction.
host::ThunkCache &thunks() noexcept {
    static host::ThunkCache cache;
    return cache;
}

// --- checks

Outcome check_sse(const Cpu &cpu, Fault &fault) noexcept {
    if ((cpu.cr0 & cr0::em) != 0 || (cpu.cr4 & cr4::osfxsr) == 0)
        return raise(fault, vector::ud);
    if ((cpu.cr0 & cr0::ts) != 0)
        return raise(fault, vector::nm);
    return Outcome::ok;
}

bool x87_error_pending(const Cpu &cpu) noexcept {
    return (cpu.fpu.status & ~cpu.fpu.control & x87_exceptions) != 0;
}

Outcome check_x87_error(const Cpu &cpu, Fault &fault) noexcept {
    if ((cpu.cr0 & cr0::ne) != 0 && x87_error_pending(cpu))
        return raise(fault, vector::mf);
    return Outcome::ok;
}

Outcome check_mmx(const Cpu &cpu, Fault &fault) noexcept {
    if ((cpu.cr0 & cr0::em) != 0)
        return raise(fault, vector::ud);
    if ((cpu.cr0 & cr0::ts) != 0)
        return raise(fault, vector::nm);
    return check_x87_error(cpu, fault);
}

bool uses(const Insn &insn, OperandKind kind) noexcept {
    return std::any_of(insn.operand, insn.operand + insn.operand_count,
                       [kind](const Operand &operand) { return operand.kind == kind; });
}

// --- memory operands

struct MemoryOperand {
    const Operand *operand = nullptr;
    u64 linear = 0;
    alignas(16) u8 buffer[128] = {};

    bool written() const noexcept {
        return operand != nullptr && (operand->access & access::write) != 0;
    }
};

Outcome locate(Context &context, const Insn &insn, const Operand &operand, unsigned size,
               u64 &linear, Fault &fault) noexcept {
    const auto type = (operand.access & access::write) != 0 ? AccessType::write : AccessType::read;
    const u64 offset = effective_offset(context.cpu, insn);
    // Comes before what is wrong with the address otherwise.
    if (operand.aligned && ((context.cpu.seg[insn.segment].base + offset) & (size - 1)) != 0)
        return raise(fault, vector::gp, 0);
    return linear_address(context, insn.segment, offset, size, type, linear, fault);
}

Outcome load(Context &context, const Insn &insn, MemoryOperand &memory, Fault &fault) noexcept {
    for (const Operand &operand : insn.operand) {
        if (operand.kind != OperandKind::memory)
            continue;
        memory.operand = &operand;
        RHEA_T0_TRY(locate(context, insn, operand, operand.size, memory.linear, fault));
        if ((operand.access & access::read) != 0)
            return read_memory(context, memory.linear, memory.buffer, operand.size,
                               Privilege::current, fault);
    }
    return Outcome::ok;
}

Outcome store(Context &context, const MemoryOperand &memory, Fault &fault) noexcept {
    if (!memory.written())
        return Outcome::ok;
    return write_memory(context, memory.linear, memory.buffer, memory.operand->size,
                        Privilege::current, fault);
}

// --- the instruction as the stub has it

// The number that the stub gives to a register named in this field.
unsigned stub_register(const Operand &operand) noexcept {
    const bool in_reg = operand.field == OperandField::modrm_reg;
    switch (operand.kind) {
    case OperandKind::gpr: return in_reg ? rax : rcx;
    case OperandKind::xmm: return in_reg ? 1 : 2;
    case OperandKind::memory: return rsi;
    default: return operand.index;
    }
}

NativeInsn vector_insn(const Insn &insn) noexcept {
    NativeInsn native;
    const bool crc32 = insn.map == 2 && insn.opcode == 0xf1 && insn.op == Op::sse;
    if (crc32 ? insn.operand_size == 2 : insn.prefix_66 && insn.prefix_rep == 0)
        native.put(0x66);
    if (insn.prefix_rep != 0)
        native.put(insn.prefix_rep);
    if ((insn.rex & 8) != 0)
        native.put(0x48);
    native.put(0x0f);
    if (insn.map != 1)
        native.put(insn.map == 2 ? 0x38 : 0x3a);
    native.put(insn.opcode);
    if (insn.has_modrm) {
        u8 modrm = 0xc0 | (insn.modrm & 0x38);
        for (const Operand &operand : insn.operand) {
            if (operand.field == OperandField::modrm_reg)
                modrm = u8((modrm & 0xc7) | stub_register(operand) << 3);
            if (operand.field == OperandField::modrm_rm)
                modrm = u8((modrm & 0xf8) | stub_register(operand));
            if (operand.kind == OperandKind::memory)
                modrm &= 0x3f;
        }
        native.put(modrm);
    }
    if (uses(insn, OperandKind::immediate))
        native.put(u8(insn.immediate));
    return native;
}

bool has_size_prefix(const Insn &insn) noexcept { // FLDENV, FNSTENV, FRSTOR, FNSAVE
    const unsigned reg = insn.modrm >> 3 & 7;
    return insn.modrm < 0xc0 && (insn.opcode == 0xd9 || insn.opcode == 0xdd) &&
           (reg == 4 || reg == 6);
}

NativeInsn x87_insn(const Insn &insn) noexcept {
    NativeInsn native;
    if (insn.operand_size == 2 && has_size_prefix(insn))
        native.put(0x66);
    native.put(insn.opcode);
    native.put(insn.modrm >= 0xc0 ? insn.modrm : u8((insn.modrm & 0x38) | rsi));
    return native;
}

// --- SSE

// Of the flags that an instruction raised with everything masked: those that the guest gets, and
// whether it faults. Exceptions before the computation keep those after it from being looked at
// (SDM volume 1, 11.5.3).
struct SseExceptions {
    u32 flags;
    bool fault;
};
SseExceptions sse_exceptions(u32 raised, u32 guest_mxcsr) noexcept {
    const u32 unmasked = raised & ~(guest_mxcsr >> 7) & mxcsr_flags;
    if ((unmasked & before_computation) != 0)
        return {raised & before_computation, true};
    return {raised, unmasked != 0};
}

// `run` runs the instruction from its inputs under a given MXCSR and returns the flags that it
// raised.
template <class Run> SseExceptions run_masked(u32 guest_mxcsr, Run run) noexcept {
    const u32 masked = (guest_mxcsr & ~mxcsr_flags) | mxcsr_masks;
    u32 raised = 0;
    // An unmasked underflow is raised by tiny results even if they are exact; a masked one is not.
    // Flushing to zero shows tiny results.
    if ((guest_mxcsr & mxcsr_underflow_mask) == 0)
        raised = run(masked | mxcsr_flush_to_zero) & mxcsr_underflow;
    raised |= run(masked);
    return sse_exceptions(raised, guest_mxcsr);
}

Outcome take_sse_exceptions(Cpu &cpu, const SseExceptions &exceptions, Fault &fault) noexcept {
    cpu.mxcsr |= exceptions.flags;
    if (exceptions.fault)
        return raise(fault, (cpu.cr4 & cr4::osxmmexcpt) != 0 ? vector::xm : vector::ud);
    return Outcome::ok;
}

void load_registers(const Cpu &cpu, const Insn &insn, VectorFrame &frame) noexcept {
    frame.xmm[0] = cpu.xmm[0];
    for (const Operand &operand : insn.operand) {
        if (operand.kind == OperandKind::xmm)
            frame.xmm[stub_register(operand)] = cpu.xmm[operand.index];
        else if (operand.kind == OperandKind::gpr)
            (stub_register(operand) == rax ? frame.rax : frame.rcx) = read_gpr(cpu, operand);
    }
}

// PCMPESTRM, PCMPESTRI, PCMPISTRM, PCMPISTRI have operands that ModRM does not name.
bool is_string_compare(const Insn &insn) noexcept {
    return insn.map == 3 && insn.opcode >= 0x60 && insn.opcode <= 0x63;
}

void commit_registers(Cpu &cpu, const Insn &insn, const VectorFrame &frame) noexcept {
    for (const Operand &operand : insn.operand) {
        if ((operand.access & access::write) == 0)
            continue;
        if (operand.kind == OperandKind::xmm)
            cpu.xmm[operand.index] = frame.xmm[stub_register(operand)];
        else if (operand.kind == OperandKind::gpr)
            write_gpr(cpu, operand, stub_register(operand) == rax ? frame.rax : frame.rcx);
    }
    if (is_string_compare(insn)) {
        if ((insn.opcode & 1) != 0)
            cpu.gpr[rcx] = frame.rcx;
        else
            cpu.xmm[0] = frame.xmm[0];
    }
    if (insn.flags_written != 0)
        set_arithmetic(cpu, (u32(cpu.rflags) & ~insn.flags_written & flag::arithmetic) |
                                (u32(frame.flags) & insn.flags_written));
}

Outcome sse(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!thunks().valid())
        return raise(fault, vector::ud);
    if (uses(insn, OperandKind::xmm))
        RHEA_T0_TRY(check_sse(cpu, fault));
    MemoryOperand memory;
    RHEA_T0_TRY(load(context, insn, memory, fault));
    const NativeInsn native = vector_insn(insn);
    const bool flags = (insn.flags_read | insn.flags_written) != 0;
    VectorFrame frame;
    const auto run = [&](u32 mxcsr) noexcept {
        load_registers(cpu, insn, frame);
        if (is_string_compare(insn)) {
            frame.rax = cpu.gpr[rax];
            frame.rdx = cpu.gpr[rdx];
        }
        frame.memory = memory.buffer;
        frame.mxcsr = mxcsr;
        frame.flags = (cpu.rflags & flag::arithmetic) | flag::always_one;
        thunks().run(native, frame, flags);
        return frame.mxcsr & mxcsr_flags;
    };
    const SseExceptions exceptions = run_masked(cpu.mxcsr, run);
    RHEA_T0_TRY(take_sse_exceptions(cpu, exceptions, fault));
    RHEA_T0_TRY(store(context, memory, fault));
    commit_registers(cpu, insn, frame);
    return Outcome::ok;
}

// --- MMX

void fix_summary(FxImage &image) noexcept {
    const bool pending = (image.status & ~image.control & x87_exceptions) != 0;
    image.status = u16(image.status & ~(x87_summary | x87_busy));
    if (pending)
        image.status |= x87_summary | x87_busy;
}

// The guest's x87 and MMX state for the stub. With an error pending that is not to be raised
// (CR0.NE = 0) everything is masked while the stub runs.
void load_image(const Cpu &cpu, X87Frame &frame, bool ignore_error) noexcept {
    frame.image = cpu.fpu;
    frame.image.mxcsr = mxcsr_masks;
    if (ignore_error)
        frame.image.control |= x87_exceptions;
}

void commit_image(Cpu &cpu, X87Frame &frame, bool ignored_error) noexcept {
    if (ignored_error && frame.image.control == (cpu.fpu.control | x87_exceptions))
        frame.image.control = cpu.fpu.control;
    if (ignored_error)
        fix_summary(frame.image);
    std::memcpy(&cpu.fpu, &frame.image, offsetof(FxImage, mxcsr));
    std::memcpy(cpu.fpu.st, frame.image.st, sizeof cpu.fpu.st);
}

// FXSAVE images hold the stack from its top; MM0 … MM7 are the registers themselves.
unsigned top(const Cpu &cpu) noexcept {
    return cpu.fpu.status >> 11 & 7;
}
const u64 &mm(const Cpu &cpu, unsigned index) noexcept {
    return cpu.fpu.st[(index - top(cpu)) & 7].mantissa;
}

// What every MMX instruction does to the x87 state besides its result.
void enter_mmx_state(Cpu &cpu) noexcept {
    std::rotate(std::begin(cpu.fpu.st), std::begin(cpu.fpu.st) + ((8 - top(cpu)) & 7),
                std::end(cpu.fpu.st));
    cpu.fpu.status = u16(cpu.fpu.status & ~0x3800);
    cpu.fpu.tag = 0xff;
}

Outcome mmx(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    // CVTPI2PS and CVTPI2PD from memory leave the x87 state alone.
    if (!uses(insn, OperandKind::mmx))
        return sse(context, insn, fault);
    if (!thunks().valid())
        return raise(fault, vector::ud);
    if (uses(insn, OperandKind::xmm))
        RHEA_T0_TRY(check_sse(cpu, fault));
    RHEA_T0_TRY(check_mmx(cpu, fault));
    MemoryOperand memory;
    RHEA_T0_TRY(load(context, insn, memory, fault));
    const NativeInsn native = vector_insn(insn);
    const bool ignore_error = x87_error_pending(cpu);
    X87Frame frame;
    const auto run = [&](u32 mxcsr) noexcept {
        load_image(cpu, frame, ignore_error);
        frame.image.mxcsr = mxcsr;
        for (const Operand &operand : insn.operand) {
            if (operand.kind == OperandKind::xmm)
                frame.image.unused_xmm[stub_register(operand)] = cpu.xmm[operand.index];
            else if (operand.kind == OperandKind::gpr)
                (stub_register(operand) == rax ? frame.rax : frame.rcx) = read_gpr(cpu, operand);
        }
        frame.memory = memory.buffer;
        thunks().run(native, frame, false);
        return frame.image.mxcsr & mxcsr_flags;
    };
    const SseExceptions exceptions = run_masked(cpu.mxcsr, run);
    if (exceptions.fault) // of a conversion: the change of state comes first
        enter_mmx_state(cpu);
    RHEA_T0_TRY(take_sse_exceptions(cpu, exceptions, fault));
    RHEA_T0_TRY(store(context, memory, fault));
    for (const Operand &operand : insn.operand) {
        if ((operand.access & access::write) == 0)
            continue;
        if (operand.kind == OperandKind::xmm)
            cpu.xmm[operand.index] = frame.image.unused_xmm[stub_register(operand)];
        else if (operand.kind == OperandKind::gpr)
            write_gpr(cpu, operand, stub_register(operand) == rax ? frame.rax : frame.rcx);
    }
    commit_image(cpu, frame, ignore_error);
    return Outcome::ok;
}

Outcome emms(Context &context, const Insn &, Fault &fault) noexcept {
    RHEA_T0_TRY(check_mmx(context.cpu, fault));
    enter_mmx_state(context.cpu);
    context.cpu.fpu.tag = 0;
    return Outcome::ok;
}

// MASKMOVQ, MASKMOVDQU: the bytes of operand 0 whose mask byte has bit 7 set go to DS:[rDI].
Outcome masked_move(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const bool is_mmx = insn.operand[0].kind == OperandKind::mmx;
    RHEA_T0_TRY(is_mmx ? check_mmx(cpu, fault) : check_sse(cpu, fault));
    u8 data[16] = {}, mask[16] = {};
    const auto value = [&](u8(&to)[16], const Operand &operand) noexcept {
        if (is_mmx)
            std::memcpy(to, &mm(cpu, operand.index), 8);
        else
            std::memcpy(to, &cpu.xmm[operand.index], 16);
    };
    value(data, insn.operand[0]);
    value(mask, insn.operand[1]);
    const unsigned size = is_mmx ? 8 : 16;
    unsigned first = size, last = 0;
    for (unsigned i = 0; i < size; ++i) {
        if (mask[i] & 0x80) {
            first = std::min(first, i);
            last = i;
        }
    }
    u64 linear = 0;
    const u64 offset = cpu.gpr[rdi] & size_mask(insn.address_size);
    RHEA_T0_TRY(
        linear_address(context, insn.segment, offset, size, AccessType::write, linear, fault));
    if (first < size)
        RHEA_T0_TRY(
            probe_write(context, linear + first, last - first + 1, Privilege::current, fault));
    for (unsigned i = first; i <= last && i < size;) {
        unsigned end = i;
        while (end <= last && (mask[end] & 0x80))
            ++end;
        if (end > i)
            RHEA_T0_TRY(
                write_memory(context, linear + i, data + i, end - i, Privilege::current, fault));
        i = end + 1;
    }
    if (is_mmx)
        enter_mmx_state(cpu);
    return Outcome::ok;
}

// --- x87

struct X87Kind {
    bool waiting; // looks for a pending error first
    bool control; // leaves the instruction pointer alone
};
X87Kind x87_kind(const Insn &insn) noexcept {
    const unsigned reg = insn.modrm >> 3 & 7;
    if (insn.modrm < 0xc0) {
        switch (insn.opcode) {
        case 0xd9: // FLDENV FLDCW, FNSTENV FNSTCW
            return {reg < 6, reg >= 4};
        case 0xdd: // FRSTOR, FNSAVE FNSTSW
            return {reg < 6, reg == 4 || reg >= 6};
        default: return {true, false};
        }
    }
    if (insn.opcode == 0xdb && reg == 4) // FNENI FNDISI FNCLEX FNINIT FNSETPM
        return {false, true};
    if (insn.opcode == 0xdf && insn.modrm == 0xe0) // FNSTSW AX
        return {false, true};
    return {true, false};
}

u64 start_of(const Cpu &cpu, const Insn &insn) noexcept {
    const u64 start = cpu.rip - insn.length;
    return mode_64(cpu) ? start : start & 0xffff'ffff;
}

// An exception before the computation, and every one of a store's but precision, keeps a store from
// happening. Whether it did shows from the buffer, if it is run over two different fills.
class StoreDetector {
public:
    explicit StoreDetector(MemoryOperand &memory) : memory_(memory) {}
    void fill(u8 byte) noexcept {
        fill_ = byte;
        std::memset(memory_.buffer, byte, sizeof memory_.buffer);
    }
    bool looks_untouched() const noexcept {
        return std::all_of(memory_.buffer, memory_.buffer + memory_.operand->size,
                           [this](u8 byte) { return byte == fill_; });
    }

private:
    MemoryOperand &memory_;
    u8 fill_ = 0;
};

Outcome fpu(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!thunks().valid())
        return raise(fault, vector::ud);
    if ((cpu.cr0 & (cr0::em | cr0::ts)) != 0)
        return raise(fault, vector::nm);
    const X87Kind kind = x87_kind(insn);
    if (kind.waiting)
        RHEA_T0_TRY(check_x87_error(cpu, fault));
    MemoryOperand memory;
    if (insn.operand[0].kind == OperandKind::memory)
        memory.operand = &insn.operand[0];
    // A store that an unmasked exception keeps from happening does not look at its address.
    const bool may_not_store = memory.written() && !kind.control;
    if (!may_not_store)
        RHEA_T0_TRY(load(context, insn, memory, fault));
    const NativeInsn native = x87_insn(insn);
    const bool flags = (insn.flags_read | insn.flags_written) != 0;
    const bool ignore_error = kind.waiting && x87_error_pending(cpu);
    X87Frame frame;
    StoreDetector detector(memory);
    const auto run = [&](u8 fill) noexcept {
        load_image(cpu, frame, ignore_error);
        if (memory.written())
            detector.fill(fill);
        frame.memory = memory.buffer;
        frame.flags = (cpu.rflags & flag::arithmetic) | flag::always_one;
        thunks().run(native, frame, flags);
    };
    run(0x5a);
    bool stores = memory.written();
    if (may_not_store && (frame.image.status & x87_summary) != 0 && detector.looks_untouched()) {
        run(0xa5);
        stores = !detector.looks_untouched();
    }
    if (stores && may_not_store)
        RHEA_T0_TRY(
            locate(context, insn, *memory.operand, memory.operand->size, memory.linear, fault));
    if (stores)
        RHEA_T0_TRY(store(context, memory, fault));
    for (const Operand &operand : insn.operand) {
        if (operand.kind == OperandKind::gpr)
            write_gpr(cpu, operand, frame.rax); // FNSTSW AX
    }
    if (insn.flags_written != 0)
        set_arithmetic(cpu, u32(frame.flags) & insn.flags_written);
    if (!kind.control) {
        frame.image.instruction = start_of(cpu, insn);
        // Opcode and operand address are kept for the handler of an unmasked error only, as recent
        // CPUs do.
        const bool error = (frame.image.status & x87_summary) != 0;
        frame.image.opcode = error ? u16((insn.opcode & 7) << 8 | insn.modrm) : cpu.fpu.opcode;
        frame.image.data =
            error && memory.operand != nullptr ? effective_offset(cpu, insn) : cpu.fpu.data;
    }
    commit_image(cpu, frame, ignore_error);
    return Outcome::ok;
}

Outcome wait(Context &context, const Insn &, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    constexpr u64 both = cr0::mp | cr0::ts;
    if ((cpu.cr0 & both) == both)
        return raise(fault, vector::nm);
    return check_x87_error(cpu, fault);
}

// --- the whole state

// Bytes of the image: without CR4.OSFXSR the XMM registers are not part of it, outside 64-bit mode
// there are eight.
unsigned image_size(const Cpu &cpu) noexcept {
    if ((cpu.cr4 & cr4::osfxsr) == 0)
        return 160;
    return mode_64(cpu) ? 160 + 16 * 16 : 160 + 8 * 16;
}

Outcome locate_image(Context &context, const Insn &insn, u64 &linear, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    if ((cpu.cr0 & cr0::em) != 0)
        return raise(fault, vector::ud);
    if ((cpu.cr0 & cr0::ts) != 0)
        return raise(fault, vector::nm);
    RHEA_T0_TRY(locate(context, insn, insn.operand[0], sizeof(FxImage), linear, fault));
    return (linear & 15) != 0 ? raise(fault, vector::gp, 0) : Outcome::ok;
}

Outcome fxsave(Context &context, const Insn &insn, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    u64 linear = 0;
    RHEA_T0_TRY(locate_image(context, insn, linear, fault));
    FxImage image = cpu.fpu;
    image.reserved0 = 0;
    image.mxcsr = cpu.mxcsr;
    image.mxcsr_mask = mxcsr_writable;
    if (insn.operand_size != 8) { // 32-bit offsets, and selectors that are not kept
        image.instruction &= 0xffff'ffff;
        image.data &= 0xffff'ffff;
    }
    for (auto &st : image.st)
        std::memset(st.reserved, 0, sizeof st.reserved);
    std::copy(std::begin(cpu.xmm), std::end(cpu.xmm), image.unused_xmm);
    return write_memory(context, linear, &image, image_size(cpu), Privilege::current, fault);
}

Outcome fxrstor(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    u64 linear = 0;
    RHEA_T0_TRY(locate_image(context, insn, linear, fault));
    FxImage image;
    const unsigned size = image_size(cpu);
    RHEA_T0_TRY(read_memory(context, linear, &image, size, Privilege::current, fault));
    const bool has_sse = (cpu.cr4 & cr4::osfxsr) != 0;
    if (has_sse && (image.mxcsr & ~mxcsr_writable) != 0)
        return raise(fault, vector::gp, 0);
    if (insn.operand_size != 8) {
        image.instruction &= 0xffff'ffff;
        image.data &= 0xffff'ffff;
    }
    image.control = u16((image.control & 0x1f3f) | 0x40); // the bits that there are
    image.opcode &= 0x7ff;
    fix_summary(image);
    std::memcpy(&cpu.fpu, &image, offsetof(FxImage, mxcsr));
    std::memcpy(cpu.fpu.st, image.st, sizeof image.st);
    if (has_sse) {
        cpu.mxcsr = image.mxcsr;
        std::memcpy(cpu.xmm, image.unused_xmm, size - 160);
    }
    return Outcome::ok;
}

Outcome load_mxcsr(Context &context, const Insn &insn, Fault &fault) noexcept {
    RHEA_T0_TRY(check_sse(context.cpu, fault));
    u64 value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 0, value, fault));
    if ((value & ~u64{mxcsr_writable}) != 0)
        return raise(fault, vector::gp, 0);
    context.cpu.mxcsr = u32(value);
    return Outcome::ok;
}

Outcome store_mxcsr(Context &context, const Insn &insn, Fault &fault) noexcept {
    RHEA_T0_TRY(check_sse(context.cpu, fault));
    return write_operand(context, insn, 0, context.cpu.mxcsr, fault);
}

constexpr ExecutorEntry entries[] = {
    {Op::fpu, fpu},
    {Op::fwait, wait},
    {Op::fxsave, fxsave},
    {Op::fxrstor, fxrstor},
    {Op::ldmxcsr, load_mxcsr},
    {Op::stmxcsr, store_mxcsr},
    {Op::emms, emms},
    {Op::mmx, mmx},
    {Op::sse, sse},
    {Op::maskmov, masked_move},
};

} // namespace

ExecutorGroup vector_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
