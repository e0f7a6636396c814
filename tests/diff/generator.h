#pragma once
// Makes inputs for one row of the decoder's table: random encodings of the form, with registers and
// memory such that every access stays in the window or hits one of its holes.

#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/decode_table.h"
#include "tests/diff/machine.h"

#include <random>
#include <vector>

namespace rhea::dbt::diff {

// Several instructions in a row, for what a translator does across them: flags that are kept
// lazily, registers that are kept elsewhere, faults in the middle of a block.
struct Sequence {
    struct Item {
        x86::Insn insn;
        unsigned offset;      // in Input::bytes
        u32 undefined_before; // flags that are undefined when it starts
    };
    std::vector<Item> items;
    u32 undefined_after = 0;
};

class Generator {
public:
    explicit Generator(u64 seed) : random_(seed) {}

    // False if this try gave no legal instruction of the form (wrong mode, another row took it,
    // registers that cannot be arranged): try again.
    bool make(const x86::Form &form, bool code64, Input &input, x86::Insn &insn);

    // Memory operands are RIP-relative, absolute or on the stack, so that no instruction depends on
    // an address that one before it has computed; no result depends on flags that are undefined.
    // Branches go forward.
    void make_sequence(bool code64, const x86::Cpu &model, Input &input, Sequence &sequence);

    // Forms that may run here: no system calls, nothing whose result depends on the machine or on
    // the kernel.
    static bool testable(const x86::Form &form);

private:
    u64 any() { return random_(); }
    u64 below(u64 n) { return random_() % n; }
    bool chance(unsigned percent) { return below(100) < percent; }
    u64 integer();
    u64 double_bits();
    u32 float_bits();

    bool encode(const x86::Form &form, bool code64, Input &input);
    void random_state(Input &input);
    void random_x87(x86::FxImage &fpu);
    u64 pick_target(const x86::Insn &insn, unsigned size, bool aligned);
    u64 stack_target();
    u64 code_target(const Input &input);
    void patch(Input &input, unsigned at, i32 value, unsigned size);
    bool place_memory_operand(Input &input, x86::Insn &insn, u64 &target);
    bool place_implicit_operands(Input &input, x86::Insn &insn, u64 target);
    bool make_item(const x86::Form &form, bool code64, Input &input, unsigned offset,
                   x86::Insn &insn);
    template <class T> void put(Input &input, u64 linear, T value);
    void put_pointer(Input &input, u64 linear, u64 value, unsigned size);

    std::mt19937_64 random_;
    unsigned modrm_at_ = 0; // of the encoding being made
};

} // namespace rhea::dbt::diff
