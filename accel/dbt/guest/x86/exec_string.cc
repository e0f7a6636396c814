// T0: the string instructions. Each iteration is an instruction of its own as far as faults, exits
// and interrupts go: its effects on memory and registers are committed before the next begins, and
// the I/O log starts again.
//
// A repeated instruction does many iterations in one go where that cannot be told from one by one:
// runs within a page of RAM at both ends, by memmove or a loop over host memory. It goes on until
// the count is used up, the bound below is reached, or something has asked for the vCPU's
// attention. Unfinished, it leaves rip at itself; execute() makes Step::repeat of that.

#include "accel/dbt/guest/x86/access.h"

#include <algorithm>

namespace rhea::dbt::x86 {
namespace {

constexpr u64 bytes_at_once = 64 * 1024, iterations_at_once = 4096;

struct StringState {
    Cpu &cpu;
    u64 address_mask;
    unsigned address_size, size;
    bool repeated, down;

    StringState(Cpu &c, const Insn &insn, unsigned element)
        : cpu(c), address_mask(size_mask(insn.address_size)), address_size(insn.address_size),
          size(element), repeated(insn.prefix_rep != 0), down((c.rflags & flag::df) != 0) {}

    u64 source() const noexcept { return cpu.gpr[rsi] & address_mask; }
    u64 destination() const noexcept { return cpu.gpr[rdi] & address_mask; }
    u64 count() const noexcept { return repeated ? cpu.gpr[rcx] & address_mask : 1; }
    void move(unsigned index, u64 elements) const noexcept {
        const u64 bytes = elements * size;
        write_gpr(cpu, index, address_size, down ? cpu.gpr[index] - bytes : cpu.gpr[index] + bytes);
    }
    // Commits `elements` iterations. The registers that they move are moved by the caller.
    void retire(u64 elements) const noexcept {
        if (repeated)
            write_gpr(cpu, rcx, address_size, cpu.gpr[rcx] - elements);
        cpu.io.served = cpu.io.cursor = 0;
    }
    bool single_step() const noexcept { return (cpu.rflags & flag::tf) != 0; }
    bool attention() const noexcept {
        return cpu.requests.load(std::memory_order_relaxed) != 0 || cpu.local_requests != 0 ||
               single_step();
    }
};

unsigned element_size(const Insn &insn) noexcept {
    return insn.operand_size;
}

// Runs `body(elements_left, fault)`, which does at least one iteration and says how many in its
// first argument, until the count is used up or it is time to look around. `stop()` ends REPE and
// REPNE early.
template <class Body, class Stop>
Outcome iterate(const StringState &state, const Insn &insn, Body body, Stop stop) noexcept {
    u64 left = state.count();
    u64 iterations = 0, bytes = 0;
    // With an iteration that did I/O, come to an end: the next one would leave before interrupts
    // had a look.
    const bool did_io = state.cpu.io.served != 0;
    while (left > 0) {
        u64 done = left;
        RHEA_T0_TRY(body(done));
        left -= done;
        if (!state.repeated || left == 0 || stop())
            return Outcome::ok;
        ++iterations;
        bytes += done * state.size;
        if (did_io || bytes >= bytes_at_once || iterations >= iterations_at_once ||
            state.attention()) {
            state.cpu.rip -= insn.length; // not finished
            state.cpu.rip &= mode_64(state.cpu) ? ~u64{0} : 0xffff'ffff;
            return Outcome::ok;
        }
    }
    return Outcome::ok;
}

struct Run {
    u8 *host = nullptr; // of the lowest byte
    u64 elements = 0;
};

// The longest run of elements from segment:offset on, in the direction of DF, that stays inside one
// page of RAM which may be accessed directly; host is null if there is none of at least two.
Run direct_run(Context &context, const StringState &state, u8 segment, u64 offset, u64 limit,
               AccessType type) noexcept {
    Fault ignored{};
    const u64 size = state.size;
    const u64 room = state.down ? offset / size + 1
                                : (state.address_mask - offset) / size + 1; // before it wraps
    u64 elements = std::min({limit, room, mmu::page_size / size}), linear = 0;
    if (elements < 2)
        return {};
    // The offset of the lowest byte of the run; then its linear address, with the limit checked for
    // all of it.
    const auto lowest = [&](u64 n) { return state.down ? offset - (n - 1) * size : offset; };
    if (linear_address(context, segment, offset, unsigned(size), type, linear, ignored) !=
        Outcome::ok)
        return {};
    const u64 in_page = linear & (mmu::page_size - 1);
    if (in_page + size > mmu::page_size)
        return {};
    elements =
        std::min(elements, state.down ? in_page / size + 1 : (mmu::page_size - in_page) / size);
    if (elements < 2)
        return {};
    if (linear_address(context, segment, lowest(elements), unsigned(elements * size), type, linear,
                       ignored) != Outcome::ok)
        return {};
    u8 *host = direct_pointer(context, linear, unsigned(elements * size), type, Privilege::current);
    return {host, elements};
}

Outcome move_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const unsigned size = state.size;
    const auto body = [&](u64 &elements) noexcept {
        if (elements > 1 && !state.single_step()) {
            const Run to =
                direct_run(context, state, es, state.destination(), elements, AccessType::write);
            const Run from = to.host == nullptr
                                 ? Run{}
                                 : direct_run(context, state, insn.segment, state.source(),
                                              to.elements, AccessType::read);
            if (from.host != nullptr) {
                const u64 n = from.elements, bytes = n * size;
                // Going down, a run that was cut short ends at the same top: skip what is not
                // moved.
                u8 *target = state.down ? to.host + (to.elements - n) * size : to.host;
                const bool overlap = target < from.host + bytes && from.host < target + bytes;
                const bool spreads =
                    overlap && (state.down ? target < from.host : target > from.host);
                if (!spreads) {
                    std::memmove(target, from.host, bytes);
                } else { // reads what it has written: element by element
                    for (u64 i = 0; i < n; ++i) {
                        const u64 at = (state.down ? n - 1 - i : i) * size;
                        store_host(target + at, size, load_host(from.host + at, size));
                    }
                }
                elements = n;
                state.move(rsi, n);
                state.move(rdi, n);
                state.retire(n);
                return Outcome::ok;
            }
        }
        u64 value = 0, linear = 0;
        RHEA_T0_TRY(linear_address(context, insn.segment, state.source(), size, AccessType::read,
                                   linear, fault));
        RHEA_T0_TRY(load_linear(context, linear, size, value, fault));
        RHEA_T0_TRY(linear_address(context, es, state.destination(), size, AccessType::write,
                                   linear, fault));
        RHEA_T0_TRY(store_linear(context, linear, size, value, fault));
        elements = 1;
        state.move(rsi, 1);
        state.move(rdi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate(state, insn, body, [] { return false; });
}

void fill(u8 *to, unsigned size, u64 elements, u64 value) noexcept {
    const bool same_bytes =
        (value & size_mask(size)) == ((value & 0xff) * 0x0101'0101'0101'0101 & size_mask(size));
    if (same_bytes) {
        std::memset(to, int(value & 0xff), elements * size);
        return;
    }
    const u64 bytes = elements * size;
    store_host(to, size, value);
    for (u64 done = size; done < bytes;) { // copies what is there behind itself
        const u64 part = std::min(done, bytes - done);
        std::memcpy(to + done, to, part);
        done += part;
    }
}

Outcome store_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const u64 value = cpu.gpr[rax];
    const auto body = [&](u64 &elements) noexcept {
        if (elements > 1 && !state.single_step()) {
            const Run to =
                direct_run(context, state, es, state.destination(), elements, AccessType::write);
            if (to.host != nullptr) {
                fill(to.host, state.size, to.elements, value);
                elements = to.elements;
                state.move(rdi, elements);
                state.retire(elements);
                return Outcome::ok;
            }
        }
        u64 linear = 0;
        RHEA_T0_TRY(linear_address(context, es, state.destination(), state.size, AccessType::write,
                                   linear, fault));
        RHEA_T0_TRY(store_linear(context, linear, state.size, value, fault));
        elements = 1;
        state.move(rdi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate(state, insn, body, [] { return false; });
}

Outcome load_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const auto body = [&](u64 &elements) noexcept {
        u64 value = 0, linear = 0;
        RHEA_T0_TRY(linear_address(context, insn.segment, state.source(), state.size,
                                   AccessType::read, linear, fault));
        RHEA_T0_TRY(load_linear(context, linear, state.size, value, fault));
        write_gpr(cpu, rax, state.size, value);
        elements = 1;
        state.move(rsi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate(state, insn, body, [] { return false; });
}

// Flags of `a - b`, as CMP sets them.
void compare(Cpu &cpu, u64 a, u64 b, unsigned size) noexcept {
    const u64 difference = a - b, borrows = (~a & b) | ((~a | b) & difference);
    const unsigned top = 8 * size - 1;
    set_arithmetic(cpu,
                   result_flags(difference, size) | (((borrows >> top) & 1) != 0 ? flag::cf : 0) |
                       ((borrows & 8) != 0 ? flag::af : 0) |
                       ((((borrows >> top) ^ (borrows >> (top - 1))) & 1) != 0 ? flag::of : 0));
}

// True if REPE (F3) or REPNE (F2) ends after a comparison with this ZF.
bool comparison_ends(const Cpu &cpu, const Insn &insn) noexcept {
    return ((cpu.rflags & flag::zf) != 0) == (insn.prefix_rep == 0xf2);
}

// Of a repeated comparison that faults, registers tell how far it came, but EFLAGS are those from
// before it (SDM volume 2, REP).
template <class Body>
Outcome iterate_comparison(const StringState &state, const Insn &insn, Body body) noexcept {
    Cpu &cpu = state.cpu;
    const u64 flags = cpu.rflags;
    const Outcome outcome = iterate(state, insn, body, [&] { return comparison_ends(cpu, insn); });
    if (outcome == Outcome::fault)
        cpu.rflags = flags;
    return outcome;
}

Outcome compare_strings(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const unsigned size = state.size;
    const auto body = [&](u64 &elements) noexcept {
        u64 a = 0, b = 0, linear = 0;
        RHEA_T0_TRY(linear_address(context, insn.segment, state.source(), size, AccessType::read,
                                   linear, fault));
        RHEA_T0_TRY(load_linear(context, linear, size, a, fault));
        RHEA_T0_TRY(linear_address(context, es, state.destination(), size, AccessType::read, linear,
                                   fault));
        RHEA_T0_TRY(load_linear(context, linear, size, b, fault));
        compare(cpu, a, b, size);
        elements = 1;
        state.move(rsi, 1);
        state.move(rdi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate_comparison(state, insn, body);
}

Outcome scan_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const unsigned size = state.size;
    const u64 wanted = cpu.gpr[rax] & size_mask(size);
    const auto body = [&](u64 &elements) noexcept {
        if (elements > 1 && !state.down && !state.single_step()) {
            const Run run =
                direct_run(context, state, es, state.destination(), elements, AccessType::read);
            if (run.host != nullptr) {
                u64 n = 0, value = 0;
                do {
                    value = load_host(run.host + n * size, size);
                    ++n;
                } while (n < run.elements && (value == wanted) != (insn.prefix_rep == 0xf2));
                compare(cpu, wanted, value, size);
                elements = n;
                state.move(rdi, n);
                state.retire(n);
                return Outcome::ok;
            }
        }
        u64 value = 0, linear = 0;
        RHEA_T0_TRY(linear_address(context, es, state.destination(), size, AccessType::read, linear,
                                   fault));
        RHEA_T0_TRY(load_linear(context, linear, size, value, fault));
        compare(cpu, wanted, value, size);
        elements = 1;
        state.move(rdi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate_comparison(state, insn, body);
}

Outcome input_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const u16 port = u16(cpu.gpr[rdx]);
    RHEA_T0_TRY(io_permission(context, port, state.size, fault));
    const auto body = [&](u64 &elements) noexcept {
        u64 linear = 0,
            value = 0; // the store is checked first: a fault must not cost the device its datum
        RHEA_T0_TRY(linear_address(context, es, state.destination(), state.size, AccessType::write,
                                   linear, fault));
        RHEA_T0_TRY(probe_write(context, linear, state.size, Privilege::current, fault));
        RHEA_T0_TRY(port_access(context, false, port, state.size, value));
        RHEA_T0_TRY(store_linear(context, linear, state.size, value, fault));
        elements = 1;
        state.move(rdi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate(state, insn, body, [] { return false; });
}

Outcome output_string(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const StringState state(cpu, insn, element_size(insn));
    const u16 port = u16(cpu.gpr[rdx]);
    RHEA_T0_TRY(io_permission(context, port, state.size, fault));
    const auto body = [&](u64 &elements) noexcept {
        u64 linear = 0, value = 0;
        RHEA_T0_TRY(linear_address(context, insn.segment, state.source(), state.size,
                                   AccessType::read, linear, fault));
        RHEA_T0_TRY(load_linear(context, linear, state.size, value, fault));
        RHEA_T0_TRY(port_access(context, true, port, state.size, value));
        elements = 1;
        state.move(rsi, 1);
        state.retire(1);
        return Outcome::ok;
    };
    return iterate(state, insn, body, [] { return false; });
}

// IN and OUT: the port is an immediate byte or DX, the datum is the accumulator.
Outcome input(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[0].size;
    u64 port = 0, value = 0;
    RHEA_T0_TRY(read_operand(context, insn, 1, port, fault));
    RHEA_T0_TRY(io_permission(context, u16(port), size, fault));
    RHEA_T0_TRY(port_access(context, false, u16(port), size, value));
    write_gpr(cpu, rax, size, value);
    return Outcome::ok;
}

Outcome output(Context &context, const Insn &insn, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const unsigned size = insn.operand[1].size;
    u64 port = 0, value = cpu.gpr[rax] & size_mask(size);
    RHEA_T0_TRY(read_operand(context, insn, 0, port, fault));
    RHEA_T0_TRY(io_permission(context, u16(port), size, fault));
    return port_access(context, true, u16(port), size, value);
}

constexpr ExecutorEntry entries[] = {
    {Op::movs, move_string},     {Op::stos, store_string}, {Op::lods, load_string},
    {Op::cmps, compare_strings}, {Op::scas, scan_string},  {Op::ins, input_string},
    {Op::outs, output_string},   {Op::in, input},          {Op::out, output},
};

} // namespace

ExecutorGroup string_executors() noexcept {
    return {entries, std::size(entries)};
}

} // namespace rhea::dbt::x86
