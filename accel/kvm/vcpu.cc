#include "accel/kvm/vcpu.h"

#include "accel/kvm/convert.h"
#include "accel/kvm/cpuid.h"
#include "accel/kvm/report.h"
#include "dm/core/config_error.h"
#include "dm/core/log.h"
#include "dm/core/trace.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace rhea::kvm {
namespace {

TRACE_POINT(kvm_exit, "KVM_RUN has come back: reason, errno");

constexpr u32 msr_apic_base = 0x1b;

int kick_signal() {
    return SIGRTMIN + 1;
}

[[noreturn]] void fail(const char *what) {
    throw ConfigError(std::string("the engine kvm: ") + what + ": " + std::strerror(errno));
}

} // namespace

KvmVcpu::KvmVcpu(Vm &vm, const accel::VcpuConfig &config, accel::VcpuClient &client)
    : vm_(vm), client_(client), index_(config.index), reader_(vm.map()),
      accessor_(vm.map(), &reader_) {
    const std::vector<kvm_cpuid_entry2> leaves = make_cpuid(vm.device(), config.model, index_);
    for (const kvm_cpuid_entry2 &leaf : leaves)
        if (leaf.function == 1)
            signature_ = leaf.eax;
    fd_ = Descriptor(::ioctl(vm.fd(), KVM_CREATE_VCPU, u64{index_}));
    if (fd_ < 0)
        fail("KVM_CREATE_VCPU");
    set_cpuid(fd_, leaves);
    msrs_ = state_msrs(fd_);
    const int size = ::ioctl(vm.device(), KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < int(sizeof(kvm_run)))
        fail("KVM_GET_VCPU_MMAP_SIZE");
    void *shared = ::mmap(nullptr, usize(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (shared == MAP_FAILED)
        fail("the vCPU's shared page");
    run_ = static_cast<kvm_run *>(shared);
    run_size_ = usize(size);
    // The signal has only to interrupt: its handler does nothing.
    struct sigaction action {};
    action.sa_handler = [](int) {};
    ::sigaction(kick_signal(), &action, nullptr);
    thread_ = std::thread([this] { thread_main(); });
    vm_.add(*this);
}

KvmVcpu::~KvmVcpu() {
    vm_.remove(*this);
    {
        std::lock_guard guard(mutex_);
        quit_ = true;
        wanted_ = false;
    }
    wake();
    thread_.join();
    ::munmap(run_, run_size_);
}

// --- any thread

// A request is noted before this, immediate_exit is set before in_guest_ is read, and the vCPU's
// thread does the same the other way round: one of the two sees the other.
void KvmVcpu::kick_out() noexcept {
    std::atomic_ref<__u8>(run_->immediate_exit).store(1);
    if (in_guest_.load())
        ::pthread_kill(thread_.native_handle(), kick_signal());
}

void KvmVcpu::wake() noexcept {
    {
        std::lock_guard guard(mutex_);
        ++wakes_;
        changed_.notify_all();
    }
    kick_out();
}

void KvmVcpu::set_interrupt(bool level) noexcept {
    if (interrupt_level_.exchange(level) != level && level)
        wake();
}

void KvmVcpu::raise_nmi() noexcept {
    nmi_.store(true);
    wake();
}

void KvmVcpu::raise_init() noexcept {
    init_.store(true);
    wake();
}

void KvmVcpu::raise_startup(u8 page) noexcept {
    startup_.store(page);
    wake();
}

void KvmVcpu::run() {
    std::lock_guard guard(mutex_);
    wanted_ = true;
    ++wakes_;
    changed_.notify_all();
}

void KvmVcpu::pause() {
    {
        std::lock_guard guard(mutex_);
        wanted_ = false;
    }
    wake();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !running_; });
}

// --- while paused

void KvmVcpu::put(const accel::X86State &state) noexcept {
    halted_ = state.halted;
    wait_for_sipi_ = state.wait_for_sipi;
    apic_base_ = state.apic_base;
    can_inject_ = false;
    stopped_ = false;
    run_->if_flag = (state.rflags >> 9 & 1) != 0; // KVM writes it after it has run
    if (!kvm::set_state(fd_, msrs_, state))
        stuck(std::string("its state is refused: ") + std::strerror(errno));
}

void KvmVcpu::reset() {
    accel::X86State s = reset_state(signature_, msrs_);
    if (!client_.read_msr(msr_apic_base, s.apic_base))
        s.apic_base = 0xfee0'0000 | (index_ == 0 ? 0x900 : 0x800);
    nmi_ = init_ = false;
    startup_ = -1;
    put(s);
}

accel::X86State KvmVcpu::state() const {
    accel::X86State s;
    if (!kvm::get_state(fd_, msrs_, s))
        RHEA_LOG(error, "the state of CPU %u cannot be read from KVM: %s", index_,
                 std::strerror(errno));
    s.halted = halted_;
    s.wait_for_sipi = wait_for_sipi_;
    s.nmi_pending |= nmi_.load();
    s.cr8 = client_.task_priority();
    return s;
}

void KvmVcpu::set_state(const accel::X86State &state) {
    nmi_ = init_ = false;
    startup_ = -1;
    put(state);
    client_.set_task_priority(state.cr8);
}

// --- the vCPU's thread

void KvmVcpu::thread_main() {
    sigset_t set;
    ::sigemptyset(&set);
    ::sigaddset(&set, kick_signal());
    ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            running_ = false;
            changed_.notify_all();
            changed_.wait(lock, [&] { return wanted_ || quit_; });
            if (quit_)
                return;
            running_ = true;
        }
        execute();
    }
}

bool KvmVcpu::wanted() noexcept {
    std::lock_guard guard(mutex_);
    return wanted_;
}

void KvmVcpu::execute() noexcept {
    for (;;) {
        u64 wakes = 0;
        {
            std::lock_guard guard(mutex_);
            if (!wanted_)
                break;
            wakes = wakes_;
        }
        take_requests();
        if (must_wait())
            idle(wakes);
        else
            enter_guest();
    }
    complete_access();
}

void KvmVcpu::idle(u64 wakes) noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return wakes_ != wakes || !wanted_ || quit_; });
}

// INIT and start-up IPIs; an INIT comes first if both have come.
void KvmVcpu::take_requests() noexcept {
    if (init_.exchange(false)) {
        complete_access();
        initialise(false, 0);
    }
    if (const int page = startup_.exchange(-1); page >= 0 && wait_for_sipi_)
        initialise(true, u8(page));
}

// SDM volume 3, 8.4.3.
void KvmVcpu::initialise(bool startup, u8 page) noexcept {
    accel::X86State before;
    if (!kvm::get_state(fd_, msrs_, before))
        return stuck(std::string("its state cannot be read: ") + std::strerror(errno));
    before.apic_base = apic_base_;
    accel::X86State s = before;
    if (startup) {
        s.rip = 0;
        s.segment[1].selector = u16(page << 8);
        s.segment[1].base = u64{page} << 12;
        s.wait_for_sipi = false;
    } else {
        s = init_state(signature_, before);
        s.wait_for_sipi = index_ != 0;
    }
    put(s);
}

bool KvmVcpu::must_wait() noexcept {
    if (stopped_ || wait_for_sipi_)
        return true;
    if (halted_ && (nmi_.load() || (interrupt_level_.load() && run_->if_flag)))
        halted_ = false;
    return halted_;
}

void KvmVcpu::inject() noexcept {
    if (nmi_.exchange(false))
        ::ioctl(fd_, KVM_NMI);
    if (can_inject_ && interrupt_level_.load()) {
        if (const int vector = client_.acknowledge_interrupt(); vector >= 0) {
            kvm_interrupt interrupt{u32(vector)};
            if (::ioctl(fd_, KVM_INTERRUPT, &interrupt) < 0)
                return stuck(std::string("KVM_INTERRUPT: ") + std::strerror(errno));
            can_inject_ = false;
        }
    }
    run_->request_interrupt_window = interrupt_level_.load();
}

// KVM_RUN, between the slots' gate; 0 or an errno.
int KvmVcpu::run_once() noexcept {
    vm_.enter(reader_);
    const int error = ::ioctl(fd_, KVM_RUN, 0) < 0 ? errno : 0;
    vm_.leave(reader_);
    access_open_ = false; // the kernel has taken what the last exit gave it
    TRACE(kvm_exit, "reason %u, errno %d", run_->exit_reason, error);
    return error;
}

void KvmVcpu::enter_guest() noexcept {
    in_guest_.store(true);
    std::atomic_ref<__u8>(run_->immediate_exit).store(0);
    // From here on a kick is not lost. What came before it is seen now.
    if (!wanted() || init_.load() || startup_.load() >= 0) {
        in_guest_.store(false);
        return;
    }
    inject();
    if (stopped_) {
        in_guest_.store(false);
        return;
    }
    const u64 priority = client_.task_priority();
    run_->cr8 = priority;
    const int error = run_once();
    in_guest_.store(false);
    can_inject_ = run_->ready_for_interrupt_injection;
    if (run_->cr8 != priority)
        client_.set_task_priority(run_->cr8);
    if (run_->apic_base != apic_base_) {
        apic_base_ = run_->apic_base;
        client_.write_msr(msr_apic_base, apic_base_);
    }
    if (error == 0)
        serve_exit();
    else if (error != EINTR && error != EAGAIN)
        stuck(std::string("KVM_RUN: ") + std::strerror(error));
}

// What the guest has read is put into its registers by the next KVM_RUN only: one that goes no
// further. It may bring the next piece of the same access.
void KvmVcpu::complete_access() noexcept {
    while (access_open_ && !stopped_) {
        std::atomic_ref<__u8>(run_->immediate_exit).store(1);
        const int error = run_once();
        can_inject_ = run_->ready_for_interrupt_injection;
        if (error == 0)
            serve_exit();
        else if (error != EINTR && error != EAGAIN)
            stuck(std::string("KVM_RUN: ") + std::strerror(error));
    }
}

void KvmVcpu::serve(Request &request) noexcept {
    if (!client_.serve_local(request))
        accessor_.serve(request);
    reader_.idle(); // the accessor has made it active again
}

void KvmVcpu::serve_port() noexcept {
    const auto &io = run_->io;
    u8 *data = reinterpret_cast<u8 *>(run_) + io.data_offset;
    const bool out = io.direction == KVM_EXIT_IO_OUT;
    Request request{.space = Space::port,
                    .direction = out ? Direction::write : Direction::read,
                    .size = io.size,
                    .address = io.port};
    if (io.count > 1) { // a piece of INS or OUTS, as KVM has gathered it
        request.count = io.count;
        request.data = data;
        request.data_step = io.size;
        serve(request);
        return;
    }
    if (out)
        std::memcpy(&request.value, data, io.size);
    serve(request);
    if (!out)
        std::memcpy(data, &request.value, io.size);
}

void KvmVcpu::serve_memory() noexcept {
    auto &mmio = run_->mmio;
    const u32 length = std::min<u32>(mmio.len, sizeof mmio.data);
    // An access over the end of a page comes in two parts of any length.
    for (u32 at = 0; at < length;) {
        const u32 size = std::bit_floor(length - at);
        Request request{.space = Space::memory,
                        .direction = mmio.is_write ? Direction::write : Direction::read,
                        .size = u8(size),
                        .address = mmio.phys_addr + at};
        if (mmio.is_write)
            std::memcpy(&request.value, mmio.data + at, size);
        serve(request);
        if (!mmio.is_write)
            std::memcpy(mmio.data + at, &request.value, size);
        at += size;
    }
}

void KvmVcpu::serve_exit() noexcept {
    switch (run_->exit_reason) {
    case KVM_EXIT_IO:
        access_open_ = true;
        serve_port();
        break;
    case KVM_EXIT_MMIO:
        access_open_ = true;
        serve_memory();
        break;
    case KVM_EXIT_HLT: halted_ = true; break;
    case KVM_EXIT_IRQ_WINDOW_OPEN: // inject() does it
    case KVM_EXIT_SET_TPR:         // CR8 is looked at after each exit
    case KVM_EXIT_INTR: break;
    case KVM_EXIT_SHUTDOWN:
        stopped_ = true;
        client_.cpu_shut_down();
        break;
    case KVM_EXIT_FAIL_ENTRY:
        stuck("the guest's state is refused, hardware reason " +
              std::to_string(run_->fail_entry.hardware_entry_failure_reason));
        break;
    case KVM_EXIT_INTERNAL_ERROR:
        stuck(run_->internal.suberror == KVM_INTERNAL_ERROR_EMULATION
                  ? std::string("this kernel cannot emulate the instruction")
                  : "KVM's internal error " + std::to_string(run_->internal.suberror));
        break;
    default: stuck("exit reason " + std::to_string(run_->exit_reason)); break;
    }
}

// Nothing can be done but to tell, once: there is no state from which it could go on.
void KvmVcpu::stuck(const std::string &why) noexcept {
    stopped_ = true;
    report_stuck(fd_, index_, accessor_, why);
}

} // namespace rhea::kvm
