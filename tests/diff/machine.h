#pragma once
// What the differential tests run one instruction on: the host CPU itself, T0, T1. All see the same
// user address space: linear addresses of the guest are addresses of this process.
//
//   window +0      two pages of code, not writable: the instruction among INT3s, which end a run
//          +2000h  hole    +3000h two pages of data    +5000h a page of data that is not writable
//          +6000h hole
//
// A run starts in 64-bit mode or, with the same flat segments, in a 32-bit compatibility segment,
// at CPL 3. It ends with the first exception, which is INT3's if nothing else happens.

#include "accel/dbt/guest/x86/state.h"

#include <array>
#include <span>

namespace rhea::dbt::diff {

inline constexpr u64 window_base = 0x1000'0000, window_size = 0x7000, page = 0x1000;
inline constexpr u64 code_base = window_base, code_size = 2 * page;
inline constexpr u64 data_base = window_base + 0x3000,
                     data_size = 3 * page, // the last page is read-only
    writable_size = 2 * page;
inline constexpr u8 breakpoint = 0xcc;
inline constexpr u16 user_code32 = 0x23, user_data = 0x2b, user_code64 = 0x33; // as Linux has them

struct State {
    std::array<u64, 16> gpr{};
    u64 rip = 0, rflags = 0;
    std::array<x86::Xmm, 16> xmm{};
    u32 mxcsr = 0x1f80;
    x86::FxImage fpu{}; // without MXCSR and XMM
};

struct Input {
    bool code64 = true;
    std::array<u8, 160> bytes{};
    unsigned length = 0;
    State state; // rip: where the bytes are
    std::array<u8, data_size> data{};
};

struct Output {
    unsigned vector = 0;
    u32 error_code = 0;
    u64 fault_address = 0; // #PF
    State state;
};

inline constexpr unsigned hung = 1000; // as a vector: the run did not end

class Machine {
public:
    virtual ~Machine() = default;
    virtual const char *name() const = 0;
    virtual Output run(const Input &input) = 0;
    virtual std::span<const u8> data() const = 0; // as the last run left it
    // The x87's instruction and operand pointers are the guest's even if no error is pending.
    // (AMD's CPUs do not save them then either.)
    virtual bool keeps_x87_pointers() const { return true; }
};

} // namespace rhea::dbt::diff
