#pragma once
// The tiers of the translator as Machines: a guest in long mode whose page tables, descriptors and
// exception handlers make the window what it is to the host. Handlers are HLTs at CPL 0, so that a
// run ends with the exit `halt`.

#include "accel/dbt/guest/x86/insn_cache.h"
#include "accel/dbt/guest/x86/interp.h"
#include "accel/dbt/mmu/physical_map.h"
#include "accel/dbt/runtime/core.h"
#include "tests/diff/machine.h"

#include <atomic>
#include <memory>
#include <vector>

namespace rhea::dbt::diff {

// Guest-physical memory and the CPU state to begin with; what the engines share.
class Guest {
public:
    Guest();
    const mmu::PhysicalMap &map() const { return map_; }
    // System registers, segments and model. Once for each CPU.
    void set_up(x86::Cpu &cpu) const;
    // Memory and CPU as `input` wants them. Gives the physical address of the instruction.
    u64 begin(x86::Cpu &cpu, const Input &input);
    // After the exit `halt`: what the exception frame says. Takes the instruction away.
    Output end(const x86::Cpu &cpu, const Input &input);
    std::span<const u8> data() const;

private:
    static constexpr u64 ram_size = 1 << 20;
    struct Free {
        void operator()(u8 *p) const { ::operator delete[](p, std::align_val_t{4096}); }
    };
    template <class T> void poke(u64 physical, T value);
    void make_tables();
    void make_descriptors();

    std::unique_ptr<u8[], Free> ram_;
    std::unique_ptr<std::atomic<u8>[]> page_flags_;
    mmu::PhysicalMap map_;
};

class Interpreter final : public Machine, x86::StoreWatch {
public:
    // `cached`: with the cache of decoded instructions.
    explicit Interpreter(bool cached);
    const char *name() const override { return "T0"; }
    Output run(const Input &input) override;
    std::span<const u8> data() const override { return guest_.data(); }
    const x86::Cpu &cpu() const { return *cpu_; }

private:
    void stored(u64, unsigned) noexcept override {}

    Guest guest_;
    std::unique_ptr<x86::Cpu> cpu_;
    std::unique_ptr<x86::InsnCache> cache_;
    x86::Context context_;
};

// T1, with T0 for what it does not translate, as a machine runs it.
class Translator final : public Machine {
public:
    Translator();
    const char *name() const override { return "T1"; }
    Output run(const Input &input) override;
    std::span<const u8> data() const override { return guest_.data(); }
    const x86::Cpu &cpu() const { return core_.cpu(); }
    bool keeps_x87_pointers() const override { return false; }
    u64 interpreted() const { return core_.statistics().interpreted; }

private:
    Guest guest_;
    Core core_;
};

} // namespace rhea::dbt::diff
