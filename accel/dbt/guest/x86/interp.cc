// T0's main road: fetch, decode, dispatch, and what follows an instruction.
//
// Debug registers: single steps (TF) trap here. Instruction, data and I/O breakpoints of DR0..DR3
// do not: DR7 can be written and read back, but nothing matches against it yet.

#include "accel/dbt/guest/x86/interp.h"

#include "accel/dbt/guest/x86/access.h"
#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/flags.h"
#include "accel/dbt/guest/x86/insn_cache.h"

#include <algorithm>
#include <array>

namespace rhea::dbt::x86 {
namespace {

constexpr unsigned longest = 15; // bytes of an instruction

using ExecutorTable = std::array<Executor, usize(Op::count)>;

const ExecutorTable &executors() noexcept {
    static const ExecutorTable table = [] {
        ExecutorTable all{};
        for (const ExecutorGroup &group :
             {integer_executors(), bit_executors(), move_executors(), control_executors(),
              string_executors(), far_executors(), system_executors(), segment_executors(),
              vector_executors()})
            for (usize n = 0; n < group.count; ++n)
                all[usize(group.entries[n].op)] = group.entries[n].run;
        return all;
    }();
    return table;
}

u64 wrap_rip(const Cpu &cpu, u64 rip) noexcept {
    return mode_64(cpu) ? rip : rip & 0xffff'ffff;
}

// The decoder knows every instruction; this CPU may not have it.
Outcome check_feature(const Cpu &cpu, Insn &insn, Fault &fault) noexcept {
    if (insn.cpuid_feature == u16(Feature::none) || cpu_has(cpu, insn.cpuid_feature) ||
        without_feature(insn))
        return Outcome::ok;
    return raise(fault, vector::ud);
}

Outcome decode_failed(DecodeStatus status, Fault &fault) noexcept {
    return status == DecodeStatus::invalid ? raise(fault, vector::ud) : raise(fault, vector::gp, 0);
}

// Where the instruction's bytes are: up to `room` of them before CS's limit.
struct Place {
    u64 linear;
    unsigned room;
};

Outcome locate(const Cpu &cpu, CodeSize size, Place &place, Fault &fault) noexcept {
    place = {cpu.rip, longest};
    if (size == CodeSize::bits64)
        return Outcome::ok; // translate_fetch() checks that it is canonical
    const Segment &code = cpu.seg[cs];
    const u32 offset = u32(cpu.rip);
    if (offset > code.limit)
        return raise(fault, vector::gp, 0);
    place.linear = u32(code.base + offset);
    place.room = unsigned(std::min<u64>(longest, u64{code.limit} - offset + 1));
    return Outcome::ok;
}

// translate_fetch(), but for what only its slow path has to find out.
Outcome fetch_page(Context &context, u64 linear, Translation &page, Fault &fault) noexcept {
    const Cpu &cpu = context.cpu;
    const mmu::FetchEntry &entry =
        cpu.tlb.fetch[cpu.cpl == 3][unsigned(linear >> mmu::page_shift) & (mmu::fetch_size - 1)];
    if (entry.tag != (linear & mmu::page_mask)) [[unlikely]]
        return translate_fetch(context, linear, page, fault);
    page.physical = entry.physical & mmu::page_mask;
    page.host = entry.host;
    return Outcome::ok;
}

// Instructions that cross a page, end at the limit of CS, or lie in MMIO, where each byte is an
// access of its own.
Outcome fetch_slowly(Context &context, CodeSize size, const Place &place, Translation page,
                     Insn &insn, Fault &fault) noexcept {
    u8 bytes[longest] = {};
    unsigned count = 0;
    for (u64 linear = place.linear;;) {
        const u64 offset = linear & ~mmu::page_mask;
        unsigned take = 1;
        if (page.host != nullptr) {
            take = unsigned(std::min<u64>(place.room - count, mmu::page_size - offset));
            std::memcpy(bytes + count, page.host + offset, take);
        } else {
            u64 value = 0;
            RHEA_T0_TRY(memory_io(context, false, page.physical + offset, 1, value));
            bytes[count] = u8(value);
        }
        count += take;
        const DecodeStatus status = decode({bytes, count}, size, insn);
        if (status == DecodeStatus::ok)
            return check_feature(context.cpu, insn, fault);
        if (status != DecodeStatus::truncated || count >= place.room)
            return decode_failed(status, fault);
        linear += take;
        if (size != CodeSize::bits64)
            linear &= 0xffff'ffff;
        if ((linear & ~mmu::page_mask) == 0)
            RHEA_T0_TRY(translate_fetch(context, linear, page, fault));
    }
}

// The instruction at CS:RIP: in the cache, or in `storage`.
Outcome fetch(Context &context, Insn &storage, const Insn *&insn, Fault &fault) noexcept {
    const auto size = CodeSize(context.cpu.mode & mode::code_mask);
    Place place{};
    Translation page{};
    RHEA_T0_TRY(locate(context.cpu, size, place, fault));
    RHEA_T0_TRY(fetch_page(context, place.linear, page, fault));
    const u64 offset = place.linear & ~mmu::page_mask;
    if (page.host == nullptr || offset > mmu::page_size - 16 || place.room < longest) [[unlikely]]
        return fetch_slowly(context, size, place, page, storage, fault);

    const InsnCache::Bytes bytes(page.host + offset);
    const u64 physical = page.physical + offset;
    if (context.insn_cache != nullptr) {
        insn = context.insn_cache->find(physical, size, bytes);
        if (insn != nullptr) [[likely]]
            return Outcome::ok;
    }
    u8 copy[16];
    std::memcpy(copy, &bytes.low, 8);
    std::memcpy(copy + 8, &bytes.high, 8);
    const DecodeStatus status = decode({copy, longest}, size, storage);
    if (status != DecodeStatus::ok)
        return decode_failed(status, fault);
    RHEA_T0_TRY(check_feature(context.cpu, storage, fault));
    insn = context.insn_cache != nullptr
               ? context.insn_cache->insert(physical, size, bytes, storage)
               : &storage;
    return Outcome::ok;
}

Step deliver(Context &context, const Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (fault.vector == vector::pf)
        cpu.cr2 = fault.address;
    const Step step =
        deliver_exception(context, fault.vector, fault.has_error_code, fault.error_code);
    if (step != Step::exit)
        cpu.io.served = cpu.io.cursor = 0;
    return step;
}

bool is_software_interrupt(Op op) noexcept {
    return op == Op::int_ || op == Op::int3 || op == Op::int1 || op == Op::into;
}

// SDM volume 3, 18.3.1.4: TF as it was before the instruction decides, but for SYSCALL and SYSRET,
// where the one that they have loaded does. Not after an INT n that has cleared it, and not between
// a load of SS and the instruction behind it (which will trap itself).
bool traps(const Cpu &cpu, const Insn &insn, u64 flags_before) noexcept {
    if (insn.op == Op::syscall || insn.op == Op::sysret)
        return (cpu.rflags & flag::tf) != 0;
    if ((flags_before & flag::tf) == 0)
        return false;
    if (is_software_interrupt(insn.op) && (cpu.rflags & flag::tf) == 0)
        return false;
    const bool loads_ss =
        insn.op == Op::mov_to_seg || insn.op == Op::pop_seg || insn.op == Op::load_far;
    return !(loads_ss && cpu.interrupt_shadow);
}

Step single_step(Context &context) noexcept {
    Cpu &cpu = context.cpu;
    cpu.single_step_pending =
        true; // until the delivery is through: it may leave for I/O and come again
    const Step step = deliver_exception(context, vector::db, false, 0);
    if (step != Step::exit)
        cpu.single_step_pending = false;
    return step;
}

Step run(Context &context, const Insn &insn) noexcept {
    Cpu &cpu = context.cpu;
    const u64 start = cpu.rip, flags_before = cpu.rflags;
    const bool shadow = cpu.interrupt_shadow;
    const Executor executor = executors()[usize(insn.op)];
    Fault fault{};
    cpu.interrupt_shadow = false;
    cpu.rip = wrap_rip(cpu, start + insn.length);
    const Outcome outcome =
        executor != nullptr ? executor(context, insn, fault) : raise(fault, vector::ud);
    if (outcome != Outcome::ok) [[unlikely]] {
        cpu.rip = start;
        const Step step = outcome == Outcome::fault ? deliver(context, fault) : Step::exit;
        if (step == Step::exit)
            cpu.interrupt_shadow = shadow;
        return step;
    }
    cpu.io.served = cpu.io.cursor = 0;
    const bool string = insn.op >= Op::movs && insn.op <= Op::outs;
    const bool unfinished =
        string && insn.prefix_rep != 0 && cpu.rip == start; // exec_string.cc leaves it so
    if (((flags_before | cpu.rflags) & (flag::rf | flag::tf)) != 0) [[unlikely]] {
        if (!unfinished && insn.op != Op::iret)
            cpu.rflags &= ~u64{flag::rf};
        if (traps(cpu, insn, flags_before)) {
            cpu.dr[6] |= u64{1} << 14; // BS
            return single_step(context);
        }
    }
    return unfinished ? Step::repeat : Step::done;
}

} // namespace

Step step(Context &context) noexcept {
    Cpu &cpu = context.cpu;
    materialise_flags(cpu);
    cpu.io.cursor = 0;
    if (cpu.single_step_pending) [[unlikely]]
        return single_step(context);
    if (cpu.pending.valid) [[unlikely]]
        return resume_delivery(context);
    ++cpu.instructions;
    Insn storage;
    const Insn *insn = &storage;
    Fault fault{};
    switch (fetch(context, storage, insn, fault)) {
    case Outcome::ok: return run(context, *insn);
    case Outcome::fault: return deliver(context, fault);
    case Outcome::exit: break;
    }
    return Step::exit;
}

Step execute(Context &context, const Insn &insn) noexcept {
    Cpu &cpu = context.cpu;
    materialise_flags(cpu);
    cpu.io.cursor = 0;
    ++cpu.instructions;
    Fault fault{};
    if (insn.cpuid_feature == u16(Feature::none) || cpu_has(cpu, insn.cpuid_feature)) [[likely]]
        return run(context, insn);
    Insn other = insn;
    return check_feature(cpu, other, fault) == Outcome::ok ? run(context, other)
                                                           : deliver(context, fault);
}

} // namespace rhea::dbt::x86
