#pragma once
// Runs one x87, MMX or SSE instruction on the host CPU, for T0: a stub loads the state that the
// instruction needs from a frame, executes it, and stores the state back. The instruction has been
// re-encoded for that: general registers are RAX (ModRM.reg) and RCX (ModRM.rm), XMM registers are
// 1 (ModRM.reg) and 2 (ModRM.rm), the memory operand is [RSI]. MMX and x87 registers keep their
// numbers, because the whole of that state is loaded.
//
// The caller sees to it that the instruction cannot fault: exceptions that the frame's MXCSR or the
// memory operand could raise are its business (exec_vector.cc). x87 exceptions stay pending, since
// the stub executes no waiting instruction after the given one.
//
// One ThunkCache a process. Its memory is mapped twice, writable here and executable there, and is
// bounded: once it is full, stubs are made anew at each call. Any thread; finding a stub takes no
// lock.

#include "accel/dbt/guest/x86/state.h"
#include "dm/core/types.h"

#include <array>
#include <atomic>
#include <mutex>

namespace rhea::dbt::host {

struct alignas(64) VectorFrame {
    x86::Xmm xmm[3]; // XMM0 (implicit operand of some), XMM1, XMM2
    u64 rax, rcx, rdx;
    u64 flags; // RFLAGS before and after, if the stub is told to pass them
    void *memory;
    u32 mxcsr, host_mxcsr;
};

struct alignas(64) X87Frame {
    x86::FxImage image; // MXCSR and XMM1, XMM2 too
    u64 rax, rcx;
    u64 flags;
    void *memory;
    u32 host_mxcsr, host_control;
};

// An instruction as the stub will hold it: at most 8 bytes, so that it is its own key.
struct NativeInsn {
    std::array<u8, 8> bytes{};
    unsigned length = 0;
    void put(u8 byte) noexcept {
        if (length < bytes.size())
            bytes[length++] = byte;
    }
};

class ThunkCache {
public:
    ThunkCache() noexcept;
    ~ThunkCache();
    ThunkCache(const ThunkCache &) = delete;
    ThunkCache &operator=(const ThunkCache &) = delete;

    // False if the host gives no executable memory; then the functions below must not be called.
    bool valid() const noexcept { return writable_ != nullptr; }

    void run(const NativeInsn &insn, VectorFrame &frame, bool flags) noexcept;
    void run(const NativeInsn &insn, X87Frame &frame, bool flags) noexcept;

private:
    using Stub = void (*)(void *frame);
    struct Slot {
        std::atomic<u64>
            key; // the instruction's bytes and, in the top byte, which kind of stub; 0: free
        std::atomic<u32> code; // offset
    };
    enum class Kind : u8 { vector = 0x10, vector_flags = 0x11, x87 = 0x20, x87_flags = 0x21 };
    static constexpr usize code_size = usize{4} << 20, stub_size = 192, slot_count = 1u << 15;

    void run(const NativeInsn &insn, Kind kind, void *frame) noexcept;
    u32 emit(u64 offset, const NativeInsn &insn, Kind kind) noexcept; // length
    Stub stub(u64 offset) const noexcept;

    u8 *writable_ = nullptr, *executable_ = nullptr;
    Slot *slots_ = nullptr;
    std::mutex adding_;
    u64 used_ =
        stub_size; // the first stub_size bytes are for stubs that found no room; under adding_
    usize slots_used_ = 0; // under adding_
};

} // namespace rhea::dbt::host
