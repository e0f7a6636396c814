#pragma once
// One vCPU of KVM and its thread.
//
// The interrupt controllers are the machine's, so the vCPU injects what its client acknowledges
// when KVM says that the guest can take it, and asks for an exit at that moment otherwise; HLT and
// the wait for a start-up IPI are sleeps of this thread. A kick sets immediate_exit and sends the
// thread a signal, which together end KVM_RUN wherever it is.
//
// Inputs as accel/vcpu.h says. The state is read and written by the pausing thread, while this one
// is outside; by then the last access is complete.

#include "accel/accelerator.h"
#include "accel/kvm/vm.h"
#include "dm/mem/dispatcher.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace rhea::kvm {

class KvmVcpu final : public accel::Vcpu, Kicked {
public:
    // Throws ConfigError. `vm` outlives it.
    KvmVcpu(Vm &vm, const accel::VcpuConfig &config, accel::VcpuClient &client);
    ~KvmVcpu() override;

    unsigned index() const noexcept override { return index_; }
    void run() override;
    void pause() override;
    void kick() noexcept override { wake(); }
    void set_interrupt(bool level) noexcept override;
    void raise_nmi() noexcept override;
    void raise_init() noexcept override;
    void raise_startup(u8 page) noexcept override;
    void reset() override;
    accel::X86State state() const override;
    void set_state(const accel::X86State &state) override;

private:
    void kick_out() noexcept override;
    void wake() noexcept;
    bool wanted() noexcept;

    void thread_main();
    void execute() noexcept;
    void idle(u64 wakes) noexcept;
    void take_requests() noexcept;
    void initialise(bool startup, u8 page) noexcept;
    bool must_wait() noexcept;
    void inject() noexcept;
    void enter_guest() noexcept;
    int run_once() noexcept;
    void complete_access() noexcept;
    void serve_exit() noexcept;
    void serve_port() noexcept;
    void serve_memory() noexcept;
    void serve(Request &request) noexcept;
    void stuck(const std::string &why) noexcept;
    void put(const accel::X86State &state) noexcept;

    Vm &vm_;
    accel::VcpuClient &client_;
    const unsigned index_;
    Descriptor fd_;
    kvm_run *run_ = nullptr; // shared with the kernel
    usize run_size_ = 0;
    u32 signature_ = 0;
    std::vector<u32> msrs_;
    ViewReader reader_;
    Accessor accessor_;

    // The thread's own, or the pausing thread's while it is paused.
    bool halted_ = false, wait_for_sipi_ = false, access_open_ = false;
    bool can_inject_ = false;
    u64 apic_base_ = 0;
    std::atomic<bool> stopped_{false}; // shut down, or stuck

    // What other threads ask for.
    std::atomic<bool> interrupt_level_{false}, nmi_{false}, init_{false}, in_guest_{false};
    std::atomic<int> startup_{-1};

    std::mutex mutex_; // leaf
    std::condition_variable changed_;
    bool wanted_ = false, running_ = false, quit_ = false;
    u64 wakes_ = 0;
    std::thread thread_;
};

} // namespace rhea::kvm
