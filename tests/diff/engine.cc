#include "tests/diff/engine.h"

#include "accel/dbt/guest/x86/cpuid.h"
#include "accel/dbt/guest/x86/flags.h"
#include "accel/dbt/guest/x86/system.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace rhea::dbt::diff {
namespace {

using x86::Segment;

// The supervisor's part: linear address system_base is guest-physical 0.
constexpr u64 system_base = 0x4000'0000;
constexpr u64 top_table = 0x1000, directory_pointers = 0x2000, directory = 0x3000,
              window_table = 0x4000, gdt = 0x6000, idt = 0x7000, tss = 0x8000, stack_top = 0xa000,
              handlers = 0xb000, window_physical = 0x10000;
constexpr u16 kernel_code = 0x10, kernel_data = 0x18, tss_selector = 0x40;
constexpr u64 present = 1, writable = 2, user = 4, large = 0x80, no_execute = u64{1} << 63;

constexpr u16 flat =
    Segment::present | Segment::user | Segment::granular | Segment::accessed | Segment::writable;
constexpr u16 data_segment = flat | Segment::big,
              code32_segment = flat | Segment::code | Segment::big,
              code64_segment = flat | Segment::code | Segment::long_mode, dpl3 = 3 << 5;

constexpr u64 descriptor(u16 attributes) {
    return 0xffff | u64{attributes & 0xf0ffu} << 40 | u64{0xf} << 48;
}

} // namespace

Guest::Guest()
    : ram_(new (std::align_val_t{4096}) u8[ram_size]()),
      page_flags_(new std::atomic<u8>[ram_size / page]()),
      map_({{0, ram_size, ram_.get(), true, page_flags_.get(), nullptr, 0}}) {
    make_tables();
    make_descriptors();
    std::memset(ram_.get() + window_physical, breakpoint, window_size);
}

template <class T> void Guest::poke(u64 physical, T value) {
    std::memcpy(ram_.get() + physical, &value, sizeof value);
}

void Guest::make_tables() {
    const u64 all = present | writable | user | 0x60; // accessed and dirty
    poke(top_table, directory_pointers | all);
    poke(directory_pointers, directory | all);
    poke(directory_pointers + 8, u64{0x5000} | all);
    poke(u64{0x5000}, present | writable | large | 0x60);
    poke(directory + 8 * (window_base >> 21), window_table | all);
    for (u64 offset = 0; offset < window_size; offset += page) {
        const u64 linear = window_base + offset;
        u64 entry = 0;
        if (linear < code_base + code_size)
            entry = present | user;
        else if (linear >= data_base && linear < data_base + writable_size)
            entry = present | user | writable | no_execute;
        else if (linear >= data_base && linear < data_base + data_size)
            entry = present | user | no_execute;
        if (entry != 0)
            poke(window_table + 8 * (linear >> 12 & 511),
                 (window_physical + offset) | entry | 0x60);
    }
}

void Guest::make_descriptors() {
    poke(gdt + kernel_code, descriptor(code64_segment));
    poke(gdt + kernel_data, descriptor(data_segment));
    poke(gdt + (user_code32 & ~7u), descriptor(code32_segment | dpl3));
    poke(gdt + (user_data & ~7u), descriptor(data_segment | dpl3));
    poke(gdt + (user_code64 & ~7u), descriptor(code64_segment | dpl3));
    for (u64 v = 0; v < 256; ++v) {
        const u64 to = system_base + handlers + 16 * v;
        poke(idt + 16 * v, (to & 0xffff) | u64{kernel_code} << 16 | u64{0xee00} << 32 |
                               (to >> 16 & 0xffff) << 48);
        poke(idt + 16 * v + 8, to >> 32);
        poke(handlers + 16 * v, u8{0xf4});
    }
    poke(tss + 4, system_base + stack_top);
    poke(tss + 0x66, u16{0x68}); // no I/O bitmap
}

void Guest::set_up(x86::Cpu &cpu) const {
    using namespace x86;
    if (const std::string error = set_cpu_model(cpu, "qemu64", {}); !error.empty()) {
        std::fprintf(stderr, "%s\n", error.c_str());
        std::abort();
    }
    reset(cpu, false);
    cpu.cr0 = cr0::pe | cr0::mp | cr0::et | cr0::ne | cr0::wp | cr0::am | cr0::pg;
    cpu.cr3 = top_table;
    cpu.cr4 = cr4::pae | cr4::osfxsr | cr4::osxmmexcpt;
    cpu.efer = efer::sce | efer::lme | efer::lma | efer::nxe;
    cpu.gdt = {system_base + gdt, 0x5f, 0};
    cpu.idt = {system_base + idt, 0xfff, 0};
    cpu.tr = {system_base + tss, 0x67, tss_selector, Segment::present | 11};
    flush_tlb(cpu, true);
}

u64 Guest::begin(x86::Cpu &cpu, const Input &input) {
    using namespace x86;
    const State &s = input.state;
    const u64 physical = window_physical + (s.rip - window_base);
    std::memcpy(ram_.get() + physical, input.bytes.data(), input.length);
    std::memcpy(ram_.get() + window_physical + (data_base - window_base), input.data.data(),
                data_size);
    std::copy(s.gpr.begin(), s.gpr.end(), cpu.gpr);
    std::copy(s.xmm.begin(), s.xmm.end(), cpu.xmm);
    cpu.rip = s.rip;
    cpu.rflags = s.rflags;
    cpu.cc_form = CcForm::in_rflags;
    cpu.mxcsr = s.mxcsr;
    cpu.fpu = s.fpu;
    const Segment data = {0, 0xffff'ffff, user_data, data_segment | dpl3};
    cpu.seg[ds] = cpu.seg[es] = cpu.seg[ss] = data;
    cpu.seg[fs] = cpu.seg[gs] = {0, 0, 0, 0};
    cpu.seg[cs] = {0, 0xffff'ffff, input.code64 ? user_code64 : user_code32,
                   u16((input.code64 ? code64_segment : code32_segment) | dpl3)};
    cpu.cr2 = 0;
    cpu.halted = cpu.interrupt_shadow = false;
    cpu.pending = {};
    cpu.exit = {};
    update_mode(cpu);
    return physical;
}

Output Guest::end(const x86::Cpu &cpu, const Input &input) {
    Output out;
    State &s = out.state;
    // HLT has been executed, or is about to be: the handler is 16 bytes long.
    out.vector = unsigned((cpu.rip - system_base - handlers) / 16);
    u64 frame = cpu.gpr[x86::rsp] - system_base;
    const auto pop = [&]() noexcept {
        u64 value = 0;
        if (frame + 8 <= ram_size)
            std::memcpy(&value, ram_.get() + frame, 8);
        frame += 8;
        return value;
    };
    constexpr u32 with_error_code = 1u << 8 | 0x1fu << 10 | 1u << 17;
    if (out.vector < 32 && (with_error_code >> out.vector & 1) != 0)
        out.error_code = u32(pop());
    if (out.vector == x86::vector::pf)
        out.fault_address = cpu.cr2;
    std::copy(std::begin(cpu.gpr), std::end(cpu.gpr), s.gpr.begin());
    std::copy(std::begin(cpu.xmm), std::end(cpu.xmm), s.xmm.begin());
    s.rip = pop();
    pop(); // CS
    s.rflags = pop();
    s.gpr[x86::rsp] = pop();
    s.mxcsr = cpu.mxcsr;
    s.fpu = cpu.fpu;
    std::memset(ram_.get() + window_physical + (input.state.rip - window_base), breakpoint,
                input.length);
    return out;
}

std::span<const u8> Guest::data() const {
    return {ram_.get() + window_physical + (data_base - window_base), data_size};
}

Interpreter::Interpreter(bool cached)
    : cpu_(new x86::Cpu{}),
      cache_(cached ? new x86::InsnCache : nullptr), context_{*cpu_, &guest_.map(), this,
                                                              cache_.get()} {
    guest_.set_up(*cpu_);
}

Output Interpreter::run(const Input &input) {
    guest_.begin(*cpu_, input);
    for (unsigned steps = 0; steps < 100'000; ++steps) {
        if (x86::step(context_) == x86::Step::exit || cpu_->halted)
            break;
    }
    return guest_.end(*cpu_, input);
}

Translator::Translator() : core_({.code_cache_bytes = u64{16} << 20}) {
    core_.set_map(guest_.map());
    guest_.set_up(core_.cpu());
    core_.attach_thread();
}

Output Translator::run(const Input &input) {
    const u64 physical = guest_.begin(core_.cpu(), input);
    core_.memory_written(physical, input.length);
    for (unsigned exits = 0; exits < 1000; ++exits) {
        const x86::Exit &exit = core_.run();
        if (exit.kind == x86::ExitKind::halt || exit.kind == x86::ExitKind::shutdown)
            break;
    }
    const Output output = guest_.end(core_.cpu(), input);
    core_.memory_written(physical, input.length);
    return output;
}

} // namespace rhea::dbt::diff
