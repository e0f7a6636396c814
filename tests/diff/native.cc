#include "tests/diff/native.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <csignal>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

namespace rhea::dbt::diff {
namespace {

constexpr int signals[] = {SIGTRAP, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGALRM};
struct sigaction previous[std::size(signals)];

enum class Phase { idle, entering, running };
volatile Phase phase = Phase::idle;
volatile u64 runs, runs_at_alarm; // a run that is still there at the second alarm hangs
const Input *entering_input;
Output *leaving_output;
gregset_t host_registers;
u8 host_fpu[512];

// The order of registers in a signal frame, by their x86 numbers.
constexpr int frame_index[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                 REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                 REG_R12, REG_R13, REG_R14, REG_R15};
constexpr u64 cs_and_ss = 0xffff'0000'0000'ffff;

// The frame's extended state is an XSAVE image whose header says which parts count.
void mark_fpu_used(u8 *fpu) {
    u32 magic;
    std::memcpy(&magic, fpu + 464, 4);
    if (magic == FP_XSTATE_MAGIC1)
        fpu[512] |= 3;
}

void enter(ucontext_t *context) {
    const State &s = entering_input->state;
    greg_t *registers = context->uc_mcontext.gregs;
    u8 *fpu = reinterpret_cast<u8 *>(context->uc_mcontext.fpregs);
    std::memcpy(host_registers, registers, sizeof host_registers);
    std::memcpy(host_fpu, fpu, sizeof host_fpu);
    for (unsigned i = 0; i < 16; ++i)
        registers[frame_index[i]] = greg_t(s.gpr[i]);
    registers[REG_RIP] = greg_t(s.rip);
    registers[REG_EFL] = greg_t(s.rflags);
    const u64 code = entering_input->code64 ? user_code64 : user_code32;
    registers[REG_CSGSFS] =
        greg_t((u64(registers[REG_CSGSFS]) & ~cs_and_ss) | code | u64{user_data} << 48);
    x86::FxImage image;
    std::memcpy(&image, fpu, sizeof image);
    std::memcpy(&image, &s.fpu, offsetof(x86::FxImage, mxcsr));
    std::memcpy(image.st, s.fpu.st, sizeof image.st);
    std::memcpy(image.unused_xmm, s.xmm.data(), sizeof image.unused_xmm);
    image.mxcsr = s.mxcsr;
    std::memcpy(fpu, &image, sizeof image - sizeof image.unused); // the rest is the kernel's
    mark_fpu_used(fpu);
    phase = Phase::running;
}

void leave(ucontext_t *context) {
    Output &out = *leaving_output;
    greg_t *registers = context->uc_mcontext.gregs;
    u8 *fpu = reinterpret_cast<u8 *>(context->uc_mcontext.fpregs);
    out.vector = unsigned(registers[REG_TRAPNO]);
    out.error_code = u32(registers[REG_ERR]);
    out.fault_address = out.vector == x86::vector::pf ? u64(registers[REG_CR2]) : 0;
    State &s = out.state;
    for (unsigned i = 0; i < 16; ++i)
        s.gpr[i] = u64(registers[frame_index[i]]);
    s.rip = u64(registers[REG_RIP]);
    s.rflags = u64(registers[REG_EFL]);
    x86::FxImage image;
    std::memcpy(&image, fpu, sizeof image);
    std::memcpy(s.xmm.data(), image.unused_xmm, sizeof image.unused_xmm);
    s.mxcsr = image.mxcsr;
    s.fpu = image;
    std::memcpy(registers, host_registers, sizeof host_registers);
    std::memcpy(fpu, host_fpu, sizeof host_fpu - sizeof image.unused);
    mark_fpu_used(fpu);
    phase = Phase::idle;
}

void handler(int number, siginfo_t *, void *opaque) {
    auto *context = static_cast<ucontext_t *>(opaque);
    if (number == SIGALRM) {
        if (phase == Phase::running && runs == runs_at_alarm) {
            leave(context);
            leaving_output->vector = hung;
        }
        runs_at_alarm = runs;
        return;
    }
    switch (phase) {
    case Phase::entering: enter(context); return;
    case Phase::running: leave(context); return;
    case Phase::idle: break;
    }
    // Not ours: it happens again, and ends the program. The input may be what a tier fell over.
    char text[128];
    int length =
        std::snprintf(text, sizeof text, "signal %d outside a native run; the last one was %s-bit",
                      number, entering_input && entering_input->code64 ? "64" : "32");
    for (unsigned i = 0; entering_input && i < entering_input->length; ++i)
        length += std::snprintf(text + length, sizeof text - usize(length), " %02x",
                                entering_input->bytes[i]);
    text[length] = '\n';
    [[maybe_unused]] const auto ignored = write(2, text, usize(length) + 1);
    signal(number, SIG_DFL);
}

void die(const char *what) {
    std::perror(what);
    std::abort();
}

void map(int file, u64 offset, u64 size, int protection) {
    void *at = reinterpret_cast<void *>(window_base + offset);
    if (mmap(at, size, protection, MAP_SHARED | MAP_FIXED | MAP_POPULATE, file, off_t(offset)) !=
        at)
        die("mmap of the window");
}

} // namespace

Native::Native() : signal_stack_(new u8[128 << 10]) {
    // The surroundings are reserved too, so that nothing else is hit by what just leaves the
    // window.
    constexpr u64 margin = 0x100000;
    void *reserved = reinterpret_cast<void *>(window_base - margin);
    if (mmap(reserved, window_size + 2 * margin, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != reserved)
        die("reserving the window");
    const int file = memfd_create("window", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, window_size) != 0)
        die("memfd of the window");
    void *alias =
        mmap(nullptr, window_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
    if (alias == MAP_FAILED)
        die("mmap of the window");
    alias_ = static_cast<u8 *>(alias);
    std::memset(alias_, breakpoint, window_size);
    map(file, code_base - window_base, code_size, PROT_READ | PROT_EXEC);
    map(file, data_base - window_base, writable_size, PROT_READ | PROT_WRITE);
    map(file, data_base - window_base + writable_size, data_size - writable_size, PROT_READ);
    close(file);

    stack_t stack{};
    stack.ss_sp = signal_stack_.get();
    stack.ss_size = 128 << 10;
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    if (sigaltstack(&stack, nullptr) != 0)
        die("sigaltstack");
    for (usize i = 0; i < std::size(signals); ++i)
        sigaction(signals[i], &action, &previous[i]);
    const itimerval second = {{1, 0}, {1, 0}};
    setitimer(ITIMER_REAL, &second, nullptr);
    // 64-bit code does without DS and ES; a compatibility segment does not.
    asm volatile("mov %0, %%ds; mov %0, %%es" ::"r"(u32{user_data}));
    u32 limit = 0;
    bool readable = false;
    asm("lsl %2, %0; setz %1" : "+r"(limit), "=q"(readable) : "r"(u32{user_code32}) : "cc");
    has_code32_ = readable && limit == 0xffff'ffff;
}

Native::~Native() {
    const itimerval never{};
    setitimer(ITIMER_REAL, &never, nullptr);
    for (usize i = 0; i < std::size(signals); ++i)
        sigaction(signals[i], &previous[i], nullptr);
    stack_t off{};
    off.ss_flags = SS_DISABLE;
    sigaltstack(&off, nullptr);
    constexpr u64 margin = 0x100000;
    munmap(reinterpret_cast<void *>(window_base - margin), window_size + 2 * margin);
    munmap(alias_, window_size);
}

Output Native::run(const Input &input) {
    Output output;
    std::memcpy(alias_ + (data_base - window_base), input.data.data(), data_size);
    u8 *code = alias_ + (input.state.rip - window_base);
    std::memcpy(code, input.bytes.data(), input.length);
    entering_input = &input;
    leaving_output = &output;
    runs = runs + 1;
    phase = Phase::entering;
    asm volatile("int3" ::: "memory", "cc"); // comes back with all registers as they were
    std::memset(code, breakpoint, input.length);
    if (output.vector == x86::vector::bp)
        output.error_code = 0;
    return output;
}

std::span<const u8> Native::data() const {
    return {alias_ + (data_base - window_base), data_size};
}

} // namespace rhea::dbt::diff
