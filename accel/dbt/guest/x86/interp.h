#pragma once
// T0: the interpreter. It is right before it is fast: the oracle of the translator's tests, and
// what runs every instruction and every mode that T1 does not translate (16-bit code, segments that
// are not flat, system instructions). It works on a Cpu whose lazy flags have been materialised,
// one instruction at a time.

#include "accel/dbt/guest/x86/insn.h"
#include "accel/dbt/guest/x86/state.h"

namespace rhea::dbt::mmu {
class PhysicalMap;
}

namespace rhea::dbt::x86 {

// Who is told of stores to pages that hold translated code. Called after the bytes have changed, on
// the vCPU's thread.
class StoreWatch {
public:
    virtual void stored(u64 physical, unsigned size) noexcept = 0;

protected:
    ~StoreWatch() = default;
};

class InsnCache; // insn_cache.h

// What an execution needs besides the CPU. Lives as long as the vCPU runs; `map` is swapped between
// runs only.
struct Context {
    Cpu &cpu;
    const mmu::PhysicalMap *map;
    StoreWatch *watch;               // never null
    InsnCache *insn_cache = nullptr; // this vCPU's; without one T0 decodes every instruction anew
};

enum class Step : u8 {
    done, // the instruction has retired (or an exception or interrupt was delivered): rip is where
          // to go on
    exit, // cpu.exit says what must be served first; the instruction has changed nothing yet, run
          // it again afterwards
    repeat, // one or more iterations of a REP string instruction are done, more to go: interrupts
            // may be taken here
};

// Runs one instruction at CS:RIP, including the delivery of its fault, if any, and of a debug trap.
Step step(Context &context) noexcept;

// Runs an instruction that has already been decoded and whose bytes are at CS:RIP (T1's call for
// what it does not translate).
Step execute(Context &context, const Insn &insn) noexcept;

// Step::exit has been served: enters cpu.exit.value (the datum of a read) into the log, so that the
// instruction goes on when it is run again. Not for ExitKind::halt and shutdown.
inline void complete_exit(Cpu &cpu) noexcept {
    if (cpu.io.served < IoLog::capacity)
        cpu.io.value[cpu.io.served++] = cpu.exit.value;
}

// Delivers an exception or an external interrupt now (vector 0..255), through IDT or IVT, with the
// double- and triple-fault rules. Step::exit with ExitKind::shutdown on a triple fault, or with an
// I/O exit if a table lies in MMIO.
Step deliver_exception(Context &context, u8 vector, bool has_error_code, u32 error_code) noexcept;
Step deliver_interrupt(Context &context, u8 vector) noexcept;
Step deliver_nmi(Context &context) noexcept;
// An interrupt whose delivery left for I/O (cpu.pending.valid) goes on. step() does this by itself.
Step resume_delivery(Context &context) noexcept;
// True if a maskable interrupt may be taken at this instruction boundary (IF, shadow, no half-done
// I/O instruction).
bool interrupts_enabled(const Cpu &cpu) noexcept;

} // namespace rhea::dbt::x86
