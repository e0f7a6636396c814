#include "accel/dbt/host/x86_64/codegen.h"

#include "accel/dbt/guest/x86/system.h"
#include "accel/dbt/host/x86_64/flag_state.h"
#include "accel/dbt/host/x86_64/layout.h"
#include "accel/dbt/host/x86_64/native_op.h"

#include <cpuid.h>

namespace rhea::dbt::host {
namespace {

using ir::Kind;
using ir::SourceKind;
using x86::Insn;

class Generator {
public:
    Generator(const x86::LoweredBlock &block, u32 mode, CodeBuffer buffer, const Stubs &stubs,
              HostFeatures features, std::span<void *const> links, Generated &out)
        : block_(block), delta_(buffer.executable_delta), stubs_(stubs), features_(features),
          links_(links), out_(out), code64_((mode & x86::mode::code_mask) == x86::mode::code64),
          user_((mode & x86::mode::user) != 0), e_(buffer.begin, buffer.end),
          flags_(e_, stubs, delta_) {}

    void run();

private:
    enum class ColdKind : u8 { slow_access, interpret, request, link, unlinked, lookup, load_x87 };
    struct Cold {
        ColdKind kind;
        Label from;
        u16 offset;
        u32 descriptor;
        const u8 *back;
        i64 target;
        FlagSnapshot flags;
    };

    bool wide() const { return code64_; }
    void to_stub(Label l, const u8 *stub) { e_.bind(l, stub - delta_); }

    void emit(const ir::Op &op);
    void native(const ir::Op &op);
    void divide(const ir::Op &op);
    void compute_address(const ir::Address &a, bool linear);
    void probe(const ir::Op &op, unsigned size, bool write);
    void load(const ir::Op &op);
    void store(const ir::Op &op);
    Reg value(u8 reg, Reg scratch);
    void assign(u8 reg, Reg from, unsigned size);
    void page_relative(Reg to, i64 offset);
    void store_rip(u16 offset);
    void leave(Leave why);
    void interpret(u16 offset);
    void exit_to(i64 target, u16 offset);
    void look_up();
    void cold_code();
    bool flags_dead_after(const ir::Op &op) const;
    void add_cold(const Cold &c) {
        if (cold_count_ < max_cold)
            cold_[cold_count_++] = c;
        else
            out_.overflow = true;
    }

    static constexpr unsigned max_cold = ir::max_ops * 2;

    const x86::LoweredBlock &block_;
    const i64 delta_;
    const Stubs &stubs_;
    const HostFeatures features_;
    const std::span<void *const> links_;
    Generated &out_;
    const bool code64_, user_;
    Emitter e_;
    FlagState flags_;
    bool x87_ready_ = false;
    unsigned cold_count_ = 0;
    Cold cold_[max_cold];
};

// The register that holds guest register (or temp) `reg`, loaded into `scratch` if its home is
// memory.
Reg Generator::value(u8 reg, Reg scratch) {
    if (reg == ir::temp)
        return r15;
    if (reg == ir::kept) {
        e_.load(scratch, gs_at(offset_scratch + 8));
        return scratch;
    }
    if (home(reg) != no_reg)
        return home(reg);
    e_.load(scratch, gpr_slot(reg));
    return scratch;
}

void Generator::assign(u8 reg, Reg from, unsigned size) {
    if (reg == ir::temp) {
        if (from != r15 || size == 4)
            size == 4 ? e_.mov32(r15, from) : e_.mov(r15, from);
    } else if (reg == ir::kept) {
        e_.store(gs_at(offset_scratch + 8), from);
    } else {
        flags_.register_written(reg);
        if (size < 4) // only RAX, of string loads
            e_.op({.prefix = u8(size == 2 ? 0x66 : 0), .byte = u8(size == 1 ? 0x8a : 0x8b)},
                  home(reg), from);
        else if (home(reg) != no_reg)
            size == 4 ? e_.mov32(home(reg), from) : e_.mov(home(reg), from);
        else
            e_.store(gpr_slot(reg), from);
    }
}

// to = linear address of the page + offset, cut to the mode's width.
void Generator::page_relative(Reg to, i64 offset) {
    e_.load(to, gs_at(offset_page_base));
    while (offset != i32(offset)) { // RIP-relative at the edge of ±2 GiB
        const i32 part = offset > 0 ? 0x7fffffff : i32(-0x7fffffff);
        e_.lea(to, at(to, part), wide());
        offset -= part;
    }
    if (offset != 0 || !wide())
        e_.lea(to, at(to, i32(offset)), wide());
}

// r14 = the address (r13 is clobbered, and r15 too if it has two registers in memory). No flags.
void Generator::compute_address(const ir::Address &a, bool linear) {
    const bool offset_wide = a.offset_size == 8;
    if (a.base == ir::page_relative) {
        page_relative(r14, a.displacement);
        if (!offset_wide)
            e_.mov32(r14, r14);
    } else {
        Mem m{.displacement = i32(a.displacement)};
        if (a.base != ir::no_value)
            m.base = value(a.base, r14);
        if (a.index != ir::no_value) {
            m.index = value(a.index, r13);
            m.scale = a.scale;
        }
        if (m.base == no_reg && m.index == no_reg)
            e_.mov_imm(r14, offset_wide ? u64(a.displacement) : u32(a.displacement));
        else if (m.base != no_reg && m.index == no_reg && m.displacement == 0)
            offset_wide ? e_.mov(r14, Reg(m.base)) : e_.mov32(r14, Reg(m.base)); // renamed away
        else
            e_.lea(r14, m, offset_wide);
    }
    if (linear && a.segment != ir::no_value) {
        e_.load(r13, gs_at(offset_segments + a.segment * i32(sizeof(x86::Segment))));
        e_.lea(r14, {.base = r14, .index = r13}, a.linear_size == 8);
    }
}

// r14 = host pointer for an access of `size` bytes; destroys EFLAGS, r13, r15. The guest state is
// that of the instruction's start, so whatever goes wrong can leave from here.
void Generator::probe(const ir::Op &op, unsigned size, bool write) {
    flags_.before_clobber();
    compute_address(op.address, true);
    if (op.aligned) {
        e_.test_imm8(r14, u8(size - 1));
        add_cold({ColdKind::interpret, e_.jcc(not_equal), op.offset, 0, nullptr, 0, {}});
    }
    constexpr u8 index_shift = mmu::page_shift - 5; // entries have 32 bytes
    if (features_.bmi2) {
        e_.rorx(r13, r14, index_shift);
    } else {
        e_.mov(r13, r14);
        e_.shift_right_imm(r13, index_shift);
    }
    e_.alu_imm(4, r13, i32((mmu::tlb_size - 1) << 5), false);
    const i32 table = offset_tlb + i32(offsetof(mmu::Tlb, data)) +
                      (user_ ? i32(sizeof(mmu::TlbEntry) * mmu::tlb_size) : 0);
    Mem entry{.base = r13, .gs = true};
    entry.displacement =
        table + i32(write ? offsetof(mmu::TlbEntry, write) : offsetof(mmu::TlbEntry, read));
    e_.load(r15, entry);
    e_.alu(6, r15, r14);
    e_.alu_imm(7, r15, i32(mmu::page_size - size));
    const Label slow = e_.jcc(above);
    entry.displacement = table + i32(offsetof(mmu::TlbEntry, addend));
    e_.alu(0, r14, entry);
    add_cold({ColdKind::slow_access,
              slow,
              op.offset,
              access_descriptor(op.offset, size, write),
              e_.here(),
              0,
              {}});
}

void Generator::load(const ir::Op &op) {
    probe(op, op.size, false);
    if (op.destination == ir::temp) {
        e_.load_sized(r15, at(r14), op.size);
    } else if (op.destination == ir::kept) {
        e_.load_sized(r13, at(r14), op.size);
        e_.store(gs_at(offset_scratch + 8), r13);
    } else {
        e_.load_sized(r13, at(r14), op.size);
        assign(op.destination, r13, op.size);
    }
}

void Generator::store(const ir::Op &op) {
    probe(op, op.size, true);
    switch (op.source_kind) {
    case SourceKind::reg: e_.store_sized(at(r14), value(op.source, r13), op.size); break;
    case SourceKind::immediate: e_.store_imm32(at(r14), i32(op.immediate), op.size); break;
    case SourceKind::page_offset:
        page_relative(r13, op.immediate);
        e_.store_sized(at(r14), r13, op.size);
        break;
    case SourceKind::none: break;
    }
}

// True if nothing can see the flags that `op` leaves: the next operation that has to do with flags
// or that can leave the block writes all of them.
bool Generator::flags_dead_after(const ir::Op &op) const {
    for (const ir::Op *o = &op + 1; o < block_.ir.op.data() + block_.ir.count; ++o) {
        switch (o->kind) {
        case Kind::native:
            if (o->access || o->flags_read & x86::flag::arithmetic)
                return false;
            if (NativeOp(block_.insn[o->instruction]).writes_all_flags())
                return true;
            if (o->flags_written)
                return false;
            break;
        case Kind::set:
        case Kind::add:
        case Kind::set_address:
        case Kind::nothing: break;
        default: return false;
        }
    }
    return false;
}

void Generator::native(const ir::Op &op) {
    const Insn &insn = block_.insn[op.instruction];
    const NativeOp host(insn);
    if (op.access)
        probe(op, op.size, (op.access & x86::access::write) != 0);
    const u32 written = insn.flags_written & x86::flag::arithmetic;
    const bool reads = (insn.flags_read & x86::flag::arithmetic) != 0;
    const bool keeps = written && !host.writes_all_flags(); // some of the old flags remain
    bool dead = false;
    if (keeps && !reads)
        dead = flags_dead_after(op);
    if (reads || (keeps && !dead))
        flags_.make_native();
    host.emit(e_, op.access != 0);
    const u32 registers = host.registers_written();
    flags_.registers_written(registers);
    if (written)
        flags_.defined(host);
}

// DIV and IDIV destroy no flags that anyone may rely on, so the lazy ones just stay. Where the
// quotient might not fit, T0 finds out.
void Generator::divide(const ir::Op &op) {
    const Insn &insn = block_.insn[op.instruction];
    const bool w = insn.operand_size == 8;
    if (op.access) {
        probe(op, op.size, false);
        e_.load_sized(r15, at(r14), op.size);
    } else {
        flags_.before_clobber();
        const Reg divisor = value(insn.operand[0].index, r15);
        if (divisor != r15)
            e_.mov(r15, divisor);
    }
    auto interpret_if = [&](Condition c) {
        add_cold({ColdKind::interpret, e_.jcc(c), op.offset, 0, nullptr, 0, {}});
    };
    if (insn.op == x86::Op::div) {
        e_.alu(7, rdx, r15, w);
        interpret_if(above_equal);
        e_.op({.byte = 0xf7, .wide = w}, 6, r15);
    } else {
        e_.mov(r13, rax);
        e_.op({.byte = 0xc1, .wide = w}, 7, r13);
        e_.byte(w ? 63 : 31);
        e_.alu(7, r13, rdx, w);
        interpret_if(not_equal);
        e_.lea(r13, at(r15, 1), w); // divisors 0 and -1
        e_.alu_imm(7, r13, 1, w);
        interpret_if(below_equal);
        e_.op({.byte = 0xf7, .wide = w}, 7, r15);
    }
    flags_.registers_written(1u << x86::rax | 1u << x86::rdx);
}

void Generator::store_rip(u16 offset) {
    page_relative(r13, offset);
    e_.store(gs_at(offset_rip), r13);
}

void Generator::leave(Leave why) {
    e_.mov_imm(r15, u32(why));
    to_stub(e_.jmp(), stubs_.leave);
}

void Generator::interpret(u16 offset) {
    store_rip(offset);
    leave(Leave::interpret);
}

// Ends a path: to an offset from the page's base. Within the page the jump is patched to its target
// later; across pages the mapping may change, so the jump cache decides each time.
void Generator::exit_to(i64 target, u16 offset) {
    if (target >= 0 && target < i64(mmu::page_size) && out_.link_count < links_.size()) {
        e_.align_displacement();
        const Label l = e_.jmp();
        const unsigned n = out_.link_count++;
        out_.link[n] = {l.at, nullptr, u16(target), target > offset};
        add_cold({ColdKind::unlinked, l, u16(target), n, nullptr, target, {}});
        return;
    }
    page_relative(r14, target);
    to_stub(e_.jmp(), stubs_.lookup);
}

// To the linear address in r14: the jump cache's hit, as in the stub, which has the rest.
void Generator::look_up() {
    auto field = [](usize offset) {
        return Mem{.base = r13, .gs = true, .displacement = offset_jump + i32(offset)};
    };
    if (features_.bmi2) {
        e_.rorx(r13, r14, 12);
    } else {
        e_.mov(r13, r14);
        e_.shift_right_imm(r13, 12);
    }
    e_.alu(6, r13, r14);
    e_.alu_imm(4, r13, jump_size - 1, false);
    e_.op({.byte = 0xc1}, 4, r13); // shl r13d, 5
    e_.byte(5);
    e_.alu(7, r14, field(offsetof(JumpEntry, linear)));
    add_cold({ColdKind::lookup, e_.jcc(not_equal), 0, 0, nullptr, 0, {}});
    e_.load(r15, field(offsetof(JumpEntry, key)));
    e_.alu(7, r15, gs_at(offset_key));
    add_cold({ColdKind::lookup, e_.jcc(not_equal), 0, 0, nullptr, 0, {}});
    e_.alu_imm(4, r14, i32(mmu::page_mask));
    e_.store(gs_at(offset_page_base), r14);
    e_.op({.byte = 0xff}, 4, field(offsetof(JumpEntry, code))); // jmp
}

void Generator::emit(const ir::Op &op) {
    switch (op.kind) {
    case Kind::native: native(op); break;
    case Kind::divide: divide(op); break;
    case Kind::load: load(op); break;
    case Kind::store: store(op); break;
    case Kind::set: assign(op.destination, value(op.source, r13), op.size); break;
    case Kind::add: {
        const Reg to = home(op.destination), from = home(op.source); // never one of r12 to r15
        flags_.register_written(op.destination);
        e_.lea(to, at(from, i32(op.immediate)), op.size == 8);
        break;
    }
    case Kind::set_address:
        compute_address(op.address, false);
        if (op.size == 4 && op.address.offset_size == 8) // for registers that live in memory
            e_.mov32(r14, r14);
        assign(op.destination, r14, op.size);
        break;
    case Kind::jump:
        flags_.save();
        exit_to(op.immediate, op.offset);
        break;
    case Kind::jump_looked_up:
        flags_.save();
        page_relative(r14, op.immediate);
        to_stub(e_.jmp(), stubs_.lookup);
        break;
    case Kind::use_x87: {
        if (x87_ready_)
            break;
        x87_ready_ = true;
        flags_.before_clobber();
        e_.alu_imm(7, gs_at(offset_fpu_live), 0, 4);
        const Label absent = e_.jcc(equal);
        add_cold({ColdKind::load_x87, absent, op.offset, 0, e_.here(), 0, {}});
        break;
    }
    case Kind::load_x87_control: {
        constexpr i32 masks = 0x3f;
        probe(op, 2, false);
        e_.load_sized(r13, at(r14), 2);
        e_.alu_imm(4, r13, masks, false);
        e_.alu_imm(7, r13, masks, false);
        add_cold({ColdKind::interpret, e_.jcc(not_equal), op.offset, 0, nullptr, 0, {}});
        e_.op({.byte = 0xd9}, 5, at(r14));
        break;
    }
    case Kind::swap_gs: {
        const Mem base = gs_at(offset_segments + x86::gs * i32(sizeof(x86::Segment)));
        e_.load(r13, base);
        e_.load(r15, gs_at(offset_kernel_gs_base));
        e_.store(base, r15);
        e_.store(gs_at(offset_kernel_gs_base), r13);
        break;
    }
    case Kind::read_selector:
        e_.load_sized(r13,
                      gs_at(offset_segments + i32(op.immediate) * i32(sizeof(x86::Segment)) +
                            i32(offsetof(x86::Segment, selector))),
                      2);
        assign(op.destination, r13, op.size);
        break;
    case Kind::branch:
        flags_.make_native();
        if (op.immediate <= op.offset) { // the end of a loop: its way is the straight one
            const Label out = e_.jcc(Condition(op.condition ^ 1));
            flags_.save_snapshot(flags_.snapshot());
            exit_to(op.immediate, op.offset);
            e_.bind(out);
            break;
        }
        add_cold({ColdKind::link, e_.jcc(Condition(op.condition)), op.offset, 0, nullptr,
                  op.immediate, flags_.snapshot()});
        break;
    case Kind::branch_count_zero: {
        flags_.save();
        const Label taken = e_.jrcxz_short(op.size == 4);
        const Label over = e_.jmp_short();
        e_.bind_short(taken);
        add_cold(
            {ColdKind::link, e_.jmp(), op.offset, 0, nullptr, op.immediate, flags_.snapshot()});
        e_.bind_short(over);
        break;
    }
    case Kind::jump_indirect: {
        flags_.save();
        const Reg target = value(op.source, r14);
        if (target != r14)
            op.size == 4 ? e_.mov32(r14, target) : e_.mov(r14, target);
        else if (op.size == 4)
            e_.mov32(r14, r14);
        look_up();
        break;
    }
    case Kind::string_forward:
        flags_.before_clobber();
        e_.op({.byte = 0xf7}, 0, gs_at(offset_rflags)); // test
        e_.raw(u32(x86::flag::df));
        add_cold({ColdKind::interpret, e_.jcc(not_equal), op.offset, 0, nullptr, 0, {}});
        break;
    case Kind::compare:
        e_.op({.prefix = u8(op.size == 2 ? 0x66 : 0),
               .byte = u8(op.size == 1 ? 0x38 : 0x39),
               .wide = op.size == 8},
              r15, value(op.source, r13));
        flags_.defined();
        break;
    case Kind::read_flags:
        flags_.make_native();
        flags_.before_clobber(); // EFLAGS is still whole until the AND
        e_.byte(0x9c);           // pushfq
        e_.pop(r13);
        e_.alu_imm(4, r13, x86::flag::arithmetic, false);
        e_.load(r15, gs_at(offset_rflags));
        e_.alu_imm(4, r15, i32(~(x86::flag::arithmetic | x86::flag::rf | x86::flag::vm)), false);
        e_.alu(1, r13, r15);
        e_.store(gs_at(offset_scratch + 8), r13);
        break;
    case Kind::clear_flags:
        flags_.before_clobber();
        e_.alu_imm(4, gs_at(offset_rflags), i32(~op.immediate), 4);
        break;
    case Kind::set_flags:
        flags_.before_clobber();
        e_.alu_imm(1, gs_at(offset_rflags), i32(op.immediate), 4);
        if (op.immediate & x86::flag::if_) {
            e_.load32(r13, gs_at(offset_deferred));
            e_.op({.byte = 0x09}, r13, gs_at(offset_local_requests)); // or
        }
        break;
    case Kind::read_time:
        flags_.before_clobber();
        e_.byte(0x0f); // rdtsc
        e_.byte(0x31);
        e_.op({.byte = 0xc1, .wide = true}, 4, rdx); // shl rdx, 32
        e_.byte(32);
        e_.alu(1, rax, rdx);
        e_.alu(0, rax, gs_at(offset_tsc_offset));
        e_.mov(rdx, rax);
        e_.shift_right_imm(rdx, 32);
        e_.mov32(rax, rax);
        flags_.registers_written(1u << x86::rax | 1u << x86::rdx);
        break;
    case Kind::interpret_here:
        flags_.save();
        e_.mov_imm(r13, u32(op.offset) | u32(op.size) << 12);
        to_stub(e_.call(), stubs_.interpret_here);
        flags_.left_to_interpreter();
        x87_ready_ = false;
        break;
    case Kind::interpret:
        flags_.save();
        interpret(op.offset);
        break;
    case Kind::nothing: break;
    }
}

// What is rarely run, behind the block.
void Generator::cold_code() {
    for (unsigned i = 0; i < cold_count_; ++i) {
        const Cold &c = cold_[i];
        e_.bind(c.from);
        switch (c.kind) {
        case ColdKind::slow_access:
            e_.mov_imm(r13, c.descriptor);
            to_stub(e_.call(), stubs_.slow_access);
            e_.bind(e_.jmp(), c.back);
            break;
        case ColdKind::load_x87:
            to_stub(e_.call(), stubs_.load_x87);
            e_.bind(e_.jmp(), c.back);
            break;
        case ColdKind::unlinked:
            out_.link[c.descriptor].unlinked = e_.here() + delta_;
            store_rip(c.offset);
            e_.mov_imm(r13, reinterpret_cast<u64>(links_[c.descriptor]));
            e_.store(gs_at(offset_link), r13);
            leave(Leave::link);
            break;
        case ColdKind::lookup: to_stub(e_.jmp(), stubs_.lookup); break;
        case ColdKind::interpret: interpret(c.offset); break;
        case ColdKind::request:
            store_rip(c.offset);
            leave(Leave::request);
            break;
        case ColdKind::link:
            flags_.save_snapshot(c.flags);
            exit_to(c.target, c.offset);
            break;
        }
        if (e_.overflowed())
            return;
    }
}

void Generator::run() {
    u8 *const begin = e_.here();
    e_.alu_imm(7, gs_at(offset_requests), 0, 8);
    add_cold({ColdKind::request, e_.jcc(not_equal), block_.ir.start, 0, nullptr, 0, {}});
    out_.entry_unchecked = e_.here() + delta_;
    for (unsigned i = 0; i < block_.ir.count && !e_.overflowed(); ++i)
        emit(block_.ir.op[i]);
    if (!e_.overflowed())
        cold_code();
    out_.overflow |= e_.overflowed();
    out_.entry = begin + delta_;
    out_.size = u32(e_.here() - begin);
}

} // namespace

void generate(const x86::LoweredBlock &block, u32 mode, CodeBuffer buffer, const Stubs &stubs,
              HostFeatures features, std::span<void *const> links, Generated &out) noexcept {
    out = {};
    Generator(block, mode, buffer, stubs, features, links, out).run();
}

HostFeatures detect_host_features() noexcept {
    u32 a = 0, b = 0, c = 0, d = 0;
    HostFeatures features;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d))
        features.bmi2 = (b & bit_BMI2) != 0;
    return features;
}

} // namespace rhea::dbt::host
