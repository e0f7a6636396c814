// The shared routines of translated code: entering and leaving it, the jump cache, the slow path of
// memory accesses.

#include "accel/dbt/host/x86_64/codegen.h"
#include "accel/dbt/host/x86_64/flag_state.h"
#include "accel/dbt/host/x86_64/layout.h"
#include "accel/dbt/runtime/slow_path.h"

namespace rhea::dbt::host {
namespace {

constexpr Reg callee_saved[] = {rbx, rbp, r12, r13, r14, r15};

class StubWriter {
public:
    StubWriter(CodeBuffer buffer, Stubs &stubs)
        : e_(buffer.begin, buffer.end), delta_(buffer.executable_delta), stubs_(stubs) {}

    u32 write() {
        u8 *const begin = e_.here();
        enter();
        leave();
        lookup();
        slow_access();
        interpret_here();
        load_x87();
        load_flags();
        return u32(e_.here() - begin);
    }

private:
    const u8 *start() {
        while (reinterpret_cast<u64>(e_.here()) & 15)
            e_.int3();
        return e_.here() + delta_;
    }
    void load_guest() {
        e_.ldmxcsr(gs_at(offset_mxcsr));
        for (u8 i = 0; i < 16; ++i)
            e_.movaps_load(i, gs_at(offset_xmm + i * 16));
        for (u8 i = 0; i < 12; ++i)
            e_.load(home(i), gpr_slot(i));
    }
    void store_guest() {
        for (u8 i = 0; i < 12; ++i)
            e_.store(gpr_slot(i), home(i));
        for (u8 i = 0; i < 16; ++i)
            e_.movaps_store(gs_at(offset_xmm + i * 16), i);
        e_.stmxcsr(gs_at(offset_mxcsr));
        e_.ldmxcsr(gs_at(offset_host_mxcsr));
    }

    // void enter(Area *, const u8 *code): RSP is a multiple of 16 while translated code runs.
    void enter() {
        stubs_.enter = start();
        for (Reg r : callee_saved)
            e_.push(r);
        e_.lea(rsp, at(rsp, -8));
        e_.mov(r14, rsi);
        e_.store(gs_at(offset_native_stack), rsp);
        e_.stmxcsr(gs_at(offset_host_mxcsr));
        load_guest();
        e_.jmp(r14);
    }

    // Returns r15d to the caller of enter().
    void leave() {
        stubs_.leave = start();
        store_guest();
        leave_stored_ = e_.here();
        save_x87();
        e_.mov32(rax, r15);
        e_.load(rsp, gs_at(offset_native_stack));
        e_.lea(rsp, at(rsp, 8));
        for (unsigned i = 6; i-- > 0;)
            e_.pop(callee_saved[i]);
        e_.ret();
    }

    // C++ code finds the registers in cpu.fpu, and the host's in the state that its ABI wants. FIP,
    // FDP and FOP would be the host's own addresses: they are left zero, as on CPUs that keep them
    // only for pending exceptions (AMD APM volume 2, 11.5.2).
    void save_x87() {
        const i32 image = offset_fpu;
        e_.alu_imm(7, gs_at(offset_fpu_live), 0, 4);
        const Label absent = e_.jcc(equal);
        e_.op({.map = 1, .byte = 0xae, .wide = true}, 0, gs_at(image)); // fxsave64
        e_.store_imm32(gs_at(image + i32(offsetof(x86::FxImage, instruction))), 0, 8);
        e_.store_imm32(gs_at(image + i32(offsetof(x86::FxImage, data))), 0, 8);
        e_.byte(0x65); // mov word gs:[opcode], 0
        e_.byte(0x66);
        e_.byte(0xc7);
        e_.byte(0x04);
        e_.byte(0x25);
        e_.raw(image + i32(offsetof(x86::FxImage, opcode)));
        e_.raw(u16(0));
        e_.byte(0xdb); // fninit
        e_.byte(0xe3);
        e_.store_imm32(gs_at(offset_fpu_live), 0);
        e_.bind(absent);
    }

    void interpret_here() {
        stubs_.interpret_here = start();
        store_guest();
        save_x87();
        e_.load(rdi, gs_at(offset_self));
        e_.mov32(rsi, r13);
        e_.lea(rsp, at(rsp, -8)); // the return address is on the stack
        e_.mov_imm(rax, reinterpret_cast<u64>(&interpret_in_block));
        e_.call(rax);
        e_.lea(rsp, at(rsp, 8));
        e_.mov32(r15, rax);
        e_.test(r15, r15, 4);
        const Label on = e_.jcc(sign);
        e_.bind(e_.jmp(), leave_stored_);
        e_.bind(on);
        load_guest();
        e_.ret();
    }

    // FXRSTOR64 loads the XMM registers and MXCSR too: they are written to the image first.
    void load_x87() {
        stubs_.load_x87 = start();
        for (u8 i = 0; i < 16; ++i)
            e_.movaps_store(gs_at(offset_fpu + i32(offsetof(x86::FxImage, unused_xmm)) + i * 16),
                            i);
        e_.stmxcsr(gs_at(offset_fpu + i32(offsetof(x86::FxImage, mxcsr))));
        e_.op({.map = 1, .byte = 0xae, .wide = true}, 1, gs_at(offset_fpu)); // fxrstor64
        e_.store_imm32(gs_at(offset_fpu_live), 1);
        e_.ret();
    }

    // r14 = linear address to go on at.
    void lookup() {
        stubs_.lookup = start();
        e_.mov(r13, r14);
        e_.shift_right_imm(r13, 12);
        e_.alu(6, r13, r14);
        e_.alu_imm(4, r13, jump_size - 1, false);
        e_.op({.byte = 0xc1, .wide = true}, 4, r13); // shl r13, 5
        e_.byte(5);
        auto field = [](usize offset) {
            return Mem{.base = r13, .gs = true, .displacement = offset_jump + i32(offset)};
        };
        e_.alu(7, r14, field(offsetof(JumpEntry, linear)));
        const Label other_address = e_.jcc(not_equal);
        e_.load(r15, field(offsetof(JumpEntry, key)));
        e_.alu(7, r15, gs_at(offset_key));
        const Label other_key = e_.jcc(not_equal);
        e_.alu_imm(4, r14, i32(mmu::page_mask));
        e_.store(gs_at(offset_page_base), r14);
        e_.op({.byte = 0xff}, 4, field(offsetof(JumpEntry, code))); // jmp
        e_.bind(other_address);
        e_.bind(other_key);
        e_.store(gs_at(offset_rip), r14);
        e_.mov_imm(r15, u32(Leave::lookup));
        e_.bind(e_.jmp(), stubs_.leave - delta_);
    }

    void slow_access() {
        stubs_.slow_access = start();
        store_guest();
        e_.load(rdi, gs_at(offset_self));
        e_.mov(rsi, r14);
        e_.mov32(rdx, r13);
        e_.lea(rsp, at(rsp, -8)); // the return address is on the stack
        e_.mov_imm(rax, reinterpret_cast<u64>(&slow_memory_access));
        e_.call(rax);
        e_.lea(rsp, at(rsp, 8));
        e_.mov(r14, rax);
        e_.mov32(r15, rdx); // SlowResult: rax host pointer, edx Leave
        e_.test(r14, r14, 8);
        const Label served = e_.jcc(not_equal);
        e_.bind(e_.jmp(), leave_stored_);
        e_.bind(served);
        load_guest();
        e_.ret();
    }

    // EFLAGS from the memory form. Clobbers r13 and r15 only.
    void load_flags() {
        stubs_.load_flags = start();
        e_.load32(r15, gs_at(offset_cc_form));
        e_.alu_imm(7, r15, i32(x86::CcForm::host_ah_al), false);
        const Label by_operation = e_.jcc(above);
        const Label in_rflags = e_.jcc(below);
        emit_flags_from_ah_al(e_);
        e_.ret();
        e_.bind(in_rflags);
        e_.load32(r13, gs_at(offset_rflags));
        e_.alu_imm(4, r13, x86::flag::arithmetic, false);
        e_.push(r13);
        e_.byte(0x9d); // popfq
        e_.ret();
        // The operation again: four forms by four sizes, 48 bytes each.
        e_.bind(by_operation);
        e_.alu_imm(5, r15, i32(x86::CcForm::add), false);
        e_.op({.byte = 0x6b}, r15, r15); // imul r15d, r15d, 48
        e_.byte(stride);
        e_.byte(0x4c); // lea r13, [rip + …]
        e_.byte(0x8d);
        e_.byte(0x2d);
        const Label table{e_.here()};
        e_.raw(i32(0));
        e_.alu(0, r15, r13);
        e_.jmp(r15);
        e_.bind(table);
        for (const x86::CcForm form :
             {x86::CcForm::add, x86::CcForm::sub, x86::CcForm::compare, x86::CcForm::logic})
            for (const unsigned size : {1u, 2u, 4u, 8u}) {
                u8 *const begin = e_.here();
                emit_operation_again(e_, form, size);
                e_.ret();
                while (e_.here() < begin + stride)
                    e_.int3();
            }
    }

    static constexpr u8 stride = 48;
    Emitter e_;
    const i64 delta_;
    Stubs &stubs_;
    const u8 *leave_stored_ = nullptr; // in the writable alias
};

} // namespace

void write_stubs(CodeBuffer buffer, Stubs &stubs, u32 &size) noexcept {
    size = StubWriter(buffer, stubs).write();
}

} // namespace rhea::dbt::host
