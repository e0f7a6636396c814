// dbt::Core on small long-mode programs, assembled into this file: each runs in T0 and in T1, and
// both must leave the same state. (The instruction forms one by one are tests/diff's matter.)

#include "accel/dbt/cpu_state.h"
#include "accel/dbt/guest/x86/cpuid.h"
#include "accel/dbt/guest/x86/flags.h"
#include "accel/dbt/guest/x86/system.h"
#include "accel/dbt/runtime/core.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <span>
#include <sys/mman.h>
#include <thread>
#include <vector>

namespace rhea::dbt {
namespace {

#define GUEST_CODE(name, text)                                                                     \
    asm(".pushsection .rodata\n" #name ":\n.code64\n" text "\n" #name "_end:\n.popsection\n");     \
    extern "C" const u8 name[], name##_end[]

GUEST_CODE(guest_sum, R"(
    mov $1000, %ecx
    xor %eax, %eax
1:  add %rcx, %rax
    dec %ecx
    jnz 1b
    hlt
)");
GUEST_CODE(guest_high_registers, R"(
    mov $0x1122334455667788, %r12
    lea (%r12,%r12), %r13
    mov %r13, %r14
    add $0x77, %r14b
    mov %r12d, %r15d
    xchg %r12, %r15
    bswap %r13
    imul $7, %r14, %rdx
    mov %dh, %cl
    mov $0x5a, %ah
    add %ah, %dh
    push %r13
    push %rsp
    pop %rbx
    pop %r8
    cmovc %r8, %r12
    setne %r9b
    shl %cl, %r14
    shld $5, %r13, %r15
    hlt
)");
GUEST_CODE(guest_calls, R"(
    mov $15, %edi
    call guest_fib
    hlt
guest_fib:
    cmp $2, %edi
    jb 2f
    push %rdi
    dec %edi
    call guest_fib
    pop %rdi
    push %rax
    lea -2(%rdi), %edi
    call guest_fib
    pop %rdx
    add %rdx, %rax
    ret
2:  mov %edi, %eax
    ret
)");
GUEST_CODE(guest_memory, R"(
    mov $0x200000, %ebx
    mov $300, %ecx
1:  lea (%rcx,%rcx,4), %edx
    mov %edx, (%rbx,%rcx,8)
    lock xadd %rdx, 0x4000(%rbx,%rcx,2)
    adc $3, %esi
    cmpb $17, 3(%rbx,%rcx,8)
    sbb %edi, %edi
    dec %rcx
    jnz 1b
    mov 0xffd(%rbx), %rax
    mov %rax, 0x1ffb(%rbx)
    movzwl 0x1fff(%rbx), %r10d
    movsbq 5(%rbx), %r11
    cmpxchg %rdx, 64(%rbx)
    pushf
    pop %r9
    and $0x8d5, %r9
    hlt
)");
GUEST_CODE(guest_flags, R"(
    mov $0x7fffffff, %eax
    xor %r10d, %r10d
    mov $0x200000, %ebx
    add $1, %eax
    mov (%rbx), %rcx
    seto %r10b
    cmp $5, %eax
    mov %rax, (%rbx)
    jl 1f
    hlt
1:  inc %r10
    stc
    mov 8(%rbx), %rdx
    adc $0, %r10
    sub $100, %ecx
    mov %rcx, 16(%rbx)
    pushf
    pop %r8
    and $0x8d5, %r8
    test $1, %r10b
    mov %r10, 24(%rbx)
    jz 2f
    add $0x100, %r10
2:  ror $3, %r10
    rcl $1, %r10
    bt $4, %r10
    mov 24(%rbx), %r12
    setc %r11b
    neg %r12
    movl $3, 40(%rbx)
    cmc
    setc %r13b
    hlt
)");
GUEST_CODE(guest_sse, R"(
    mov $0x200000, %ebx
    mov $3, %eax
    cvtsi2sd %eax, %xmm0
    movapd %xmm0, %xmm9
    mulsd %xmm9, %xmm9
    sqrtsd %xmm9, %xmm1
    addsd %xmm1, %xmm9
    movsd %xmm9, (%rbx)
    movups (%rbx), %xmm15
    paddd %xmm15, %xmm15
    movaps %xmm15, 16(%rbx)
    pshufd $0x1b, 16(%rbx), %xmm3
    cvttsd2si %xmm9, %r12
    movq %xmm3, %r13
    pmovmskb %xmm3, %r14d
    ucomisd %xmm0, %xmm1
    seta %r15b
    hlt
)");
GUEST_CODE(guest_divide, R"(
    mov $1000003, %eax
    xor %edx, %edx
    mov $17, %r12d
    div %r12d
    mov %rax, %r13
    mov %rdx, %r14
    mov $-1000, %rax
    cqo
    mov $7, %ecx
    idiv %rcx
    hlt
)");
GUEST_CODE(guest_x87, R"(
    fninit
    mov $0x200000, %ebx
    movl $7, (%rbx)
    fildl (%rbx)
    fld1
    fdivp
    fsts 8(%rbx)
    fld %st(0)
    fsqrt
    fcomi %st(1), %st
    seta %al
    fstpt 16(%rbx)
    fstpl 32(%rbx)
    fnstcw 40(%rbx)
    movw $0x0e7f, 42(%rbx)
    fldcw 42(%rbx)
    fldpi
    fistpq 48(%rbx)
    fldcw 40(%rbx)
    movq (%rbx), %mm3
    paddb %mm3, %mm3
    movq %mm3, 56(%rbx)
    emms
    fnstsw %ax
    cpuid
    fldl2e
    fstpl 64(%rbx)
    hlt
)");
// Overwrites an instruction of the running block, and one of a block that has run before.
GUEST_CODE(guest_self_modifying, R"(
    lea guest_patched(%rip), %rbx
    xor %eax, %eax
    mov $10, %ecx
1:  movb $0x7f, 2(%rbx)
guest_patched:
    add $1, %eax
    nop
    nop
    mov %cl, 2(%rbx)
    dec %ecx
    jnz 1b
    add 0(%rbx), %edx
    hlt
)");

constexpr u64 ram_size = u64{4} << 20, code_at = 0x100000, stack_at = 0x180000, table_at = 0x10000;

class Machine {
public:
    explicit Machine(Tier tier) : core_({.tier = tier}) {
        ram_ = static_cast<u8 *>(
            mmap(nullptr, ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        map_ = mmu::PhysicalMap({{.base = 0,
                                  .size = ram_size,
                                  .host = ram_,
                                  .writable = true,
                                  .page_flags = flags_.get(),
                                  .owner = nullptr,
                                  .owner_offset = 0}});
        core_.attach_thread();
        core_.set_map(map_);
        x86::Cpu &c = core_.cpu();
        EXPECT_EQ(x86::set_cpu_model(c, "qemu64", {}), "");
        x86::reset(c, false);
        // Identity map of the first 2 MiB by 4 KiB pages, of the next by one large page.
        put(table_at, table_at + 0x1007);
        put(table_at + 0x1000, table_at + 0x2007);
        put(table_at + 0x2000, table_at + 0x3007);
        put(table_at + 0x2008, 0x200000 | 0x87);
        for (u64 i = 0; i < 512; ++i)
            put(table_at + 0x3000 + i * 8, i << 12 | 7);
        c.cr0 =
            x86::cr0::pe | x86::cr0::pg | x86::cr0::ne | x86::cr0::et | x86::cr0::mp | x86::cr0::wp;
        c.cr4 = x86::cr4::pae | x86::cr4::osfxsr | x86::cr4::osxmmexcpt | x86::cr4::pge;
        c.cr3 = table_at;
        c.efer = x86::efer::lme | x86::efer::lma | x86::efer::nxe | x86::efer::sce;
        using S = x86::Segment;
        for (x86::Segment &s : c.seg)
            s = {0, 0xffffffff, 0x10,
                 u16(S::present | S::user | S::writable | S::accessed | S::big | S::granular)};
        c.seg[x86::cs] = {0, 0xffffffff, 8,
                          u16(S::present | S::user | S::code | S::readable | S::accessed |
                              S::long_mode | S::granular)};
        c.rflags = 2;
        c.rip = code_at;
        c.gpr[x86::rsp] = stack_at;
        core_.state_changed();
    }
    ~Machine() { munmap(ram_, ram_size); }

    const x86::Exit &run(std::span<const u8> code) {
        std::memcpy(ram_ + code_at, code.data(), code.size());
        return core_.run();
    }
    void put(u64 at, u64 value) { std::memcpy(ram_ + at, &value, 8); }
    u64 get(u64 at) const {
        u64 v;
        std::memcpy(&v, ram_ + at, 8);
        return v;
    }
    x86::Cpu &cpu() { return core_.cpu(); }
    Core &core() { return core_; }
    std::span<const u8> ram() const { return {ram_, ram_size}; }

private:
    u8 *ram_;
    std::unique_ptr<std::atomic<u8>[]> flags_ =
        std::make_unique<std::atomic<u8>[]>(ram_size / 4096);
    mmu::PhysicalMap map_;
    Core core_;
};

struct Program {
    const char *name;
    const u8 *begin, *end;
};

class BothTiers : public testing::TestWithParam<Program> {};

TEST_P(BothTiers, program_leaves_the_same_state) {
    const std::span<const u8> code(GetParam().begin, GetParam().end);
    Machine interpreted(Tier::interpreter), translated(Tier::translator);

    const x86::ExitKind first = interpreted.run(code).kind, second = translated.run(code).kind;

    ASSERT_EQ(first, x86::ExitKind::halt);
    ASSERT_EQ(second, x86::ExitKind::halt);
    x86::Cpu &a = interpreted.cpu(), &b = translated.cpu();
    for (unsigned i = 0; i < 16; ++i)
        EXPECT_EQ(a.gpr[i], b.gpr[i]) << "register " << i;
    EXPECT_EQ(a.rip, b.rip);
    EXPECT_EQ(x86::arithmetic_flags(a), x86::arithmetic_flags(b));
    for (unsigned i = 0; i < 16; ++i) {
        EXPECT_EQ(a.xmm[i].low, b.xmm[i].low) << "xmm" << i;
        EXPECT_EQ(a.xmm[i].high, b.xmm[i].high) << "xmm" << i;
    }
    EXPECT_EQ(std::memcmp(interpreted.ram().data(), translated.ram().data(), ram_size), 0);
    EXPECT_GT(translated.core().statistics().blocks, 0u);
}

#define PROGRAM(name)                                                                              \
    Program {                                                                                      \
#name, name, name##_end                                                                    \
    }
INSTANTIATE_TEST_SUITE_P(Programs, BothTiers,
                         testing::Values(PROGRAM(guest_sum), PROGRAM(guest_high_registers),
                                         PROGRAM(guest_calls), PROGRAM(guest_memory),
                                         PROGRAM(guest_flags), PROGRAM(guest_sse),
                                         PROGRAM(guest_divide), PROGRAM(guest_x87),
                                         PROGRAM(guest_self_modifying)),
                         [](const auto &p) { return std::string(p.param.name); });

TEST(dbt_core, sum_is_right) {
    Machine m(Tier::translator);

    m.run({guest_sum, guest_sum_end});

    EXPECT_EQ(m.cpu().gpr[x86::rax], 500500u);
}

TEST(dbt_core, recursive_calls_are_right) {
    Machine m(Tier::translator);

    m.run({guest_calls, guest_calls_end});

    EXPECT_EQ(m.cpu().gpr[x86::rax], 610u);
}

// Random bytes as code, in 64-bit and 32-bit mode, at both privilege levels: whatever they do,
// run() comes back and the state can be run again.
TEST(dbt_core, noise_as_code_comes_back) {
    const char *const more = std::getenv("RHEA_NOISE_ROUNDS");
    const unsigned rounds = more ? unsigned(std::atoi(more)) : 2000;
    std::mt19937_64 random(7);
    Machine m(Tier::translator);
    const accel::X86State start = export_state(m.cpu(), 0);
    std::jthread watchdog([&](std::stop_token stop) { // loops are noise too
        while (!stop.stop_requested()) {
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
            m.core().request(x86::request::stop);
        }
    });
    unsigned ended = 0;
    for (unsigned round = 0; round < rounds; ++round) {
        x86::Cpu &c = m.cpu();
        import_state(c, start);
        std::vector<u8> code(512);
        for (u8 &b : code)
            b = u8(random());
        for (usize i = 0; i < code.size(); i += 1 + random() % 8) { // likely opcodes
            constexpr u8 common[] = {0x0f, 0x66, 0x48, 0x8b, 0x89, 0x01,
                                     0xf3, 0xf2, 0xd9, 0xdd, 0xf7, 0x70};
            code[i] = common[random() % sizeof common];
        }
        for (u64 &r : c.gpr)
            r = random() % 2 ? 0x200000 + random() % 0x1000 : random();
        if (round & 1) {
            c.seg[x86::cs].attributes =
                u16((c.seg[x86::cs].attributes & ~x86::Segment::long_mode) | x86::Segment::big);
            for (u64 &r : c.gpr)
                r = u32(r);
        }
        if (round & 2) {
            c.seg[x86::cs].attributes |= 0x60;
            c.seg[x86::ss].attributes |= 0x60;
        }
        m.core().state_changed();
        m.core().memory_written(code_at, code.size());
        for (unsigned turn = 0; turn < 8; ++turn) {
            const x86::ExitKind kind = m.run(code).kind;
            if (kind == x86::ExitKind::shutdown || kind == x86::ExitKind::halt)
                break;
            m.core().complete(random());
        }
        ++ended;
    }
    EXPECT_EQ(ended, rounds);
}

TEST(dbt_core, loop_without_exit_stops_on_request) {
    Machine m(Tier::translator);
    m.core().request(x86::request::stop);
    const u8 forever[] = {0xeb, 0xfe};

    EXPECT_EQ(m.run(forever).kind, x86::ExitKind::none);

    EXPECT_EQ(m.cpu().rip, code_at);
}

TEST(dbt_core, store_to_nowhere_leaves_with_a_memory_write) {
    Machine m(Tier::translator);
    m.put(table_at + 0x2010, 0xfee00000 | 0x87);     // maps 4 MiB … to beyond RAM
    const u8 code[] = {0xbb, 0x80, 0x00, 0x40, 0x00, // mov $0x400080, %ebx
                       0xb8, 0x44, 0x33, 0x22, 0x11, // mov $0x11223344, %eax
                       0x89, 0x03,                   // mov %eax, (%rbx)
                       0x8b, 0x0b,                   // mov (%rbx), %ecx
                       0xf4};

    const x86::Exit write = m.run(code);
    m.core().complete(0);
    const x86::Exit read = m.core().run();
    m.core().complete(0x55);
    const x86::Exit last = m.core().run();

    EXPECT_EQ(write.kind, x86::ExitKind::memory_write);
    EXPECT_EQ(write.address, 0xfee00080u);
    EXPECT_EQ(write.value, 0x11223344u);
    EXPECT_EQ(write.size, 4);
    EXPECT_EQ(read.kind, x86::ExitKind::memory_read);
    EXPECT_EQ(last.kind, x86::ExitKind::halt);
    EXPECT_EQ(m.cpu().gpr[x86::rcx], 0x55u);
}

TEST(dbt_core, fault_without_handlers_shuts_down) {
    Machine m(Tier::translator);
    const u8 code[] = {0x48, 0x8b, 0x04, 0x25, 0x00,
                       0x00, 0x00, 0x70, 0xf4}; // mov 0x70000000, %rax; hlt

    EXPECT_EQ(m.run(code).kind, x86::ExitKind::shutdown);

    EXPECT_EQ(m.cpu().cr2, 0x70000000u);
}

} // namespace
} // namespace rhea::dbt
