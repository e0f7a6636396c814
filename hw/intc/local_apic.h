// A local APIC (xAPIC), one a vCPU, and what the machine is to that vCPU.
//
// Facts: Intel SDM volume 3, "Advanced programmable interrupt controller". The register page is
// private to its vCPU, so it is no window of the address map: the engine offers the vCPU's memory
// accesses to serve_local() first.
//
// Owned by the board. The vCPU's thread reads and writes registers and acknowledges, under the
// APIC's own lock, which is below every other; accept() and the LINT inputs come from any thread,
// take no lock (but for INIT) and end in Vcpu::set_interrupt and its siblings. What they change is
// therefore in atomics beside the state, which is complete only where it is saved.
//
// set_interrupt follows "there is something to deliver": whoever may have made it true sets it;
// whoever finds nothing clears it and then looks again, so a request in between is not lost.
//
// Chosen where processors differ: the timer's input runs at 1 GHz; LINT0 of the boot processor
// starts as ExtINT, as firmware leaves it, so that a guest which never looks at its APIC has the
// 8259 pair.
#pragma once
#include "accel/irqchip_state.h"
#include "accel/vcpu.h"
#include "dm/device/device.h"
#include "dm/time/timer.h"
#include "hw/intc/apic_bus.h"
#include "hw/machine/events.h"

#include <atomic>

namespace rhea::hw {

class LocalApic : public StateDevice<accel::LocalApicState>, public accel::VcpuClient {
public:
    static constexpr u64 default_base = 0xfee0'0000;

    // `index` is also the initial APIC ID; 0 is the boot processor.
    LocalApic(std::string name, unsigned index, ApicBus &bus, Clock &clock,
              MachineEvents &board) noexcept;
    std::string_view type() const noexcept override { return "local-apic"; }

    // Before the guest runs, and with null before the vCPU goes.
    void attach(accel::Vcpu *vcpu) noexcept;

    // VcpuClient, on the vCPU's thread.
    bool serve_local(Request &request) noexcept override;
    int acknowledge_interrupt() noexcept override;
    u64 task_priority() noexcept override;
    void set_task_priority(u64 value) noexcept override;
    bool read_msr(u32 number, u64 &value) noexcept override;
    bool write_msr(u32 number, u64 value) noexcept override;
    void cpu_shut_down() noexcept override { board_.processor_shut_down(index_); }

    // Messages and lines, on any thread.
    bool matches(u8 destination, bool logical) const noexcept;
    bool takes_fixed() const noexcept; // software-enabled
    u8 processor_priority() const noexcept { return ppr_.load(std::memory_order_seq_cst); }
    void accept(const ApicMessage &message) noexcept;
    void lint0_changed(bool level) noexcept;
    void lint1_changed(bool level) noexcept;

    void settle() noexcept override;

private:
    // What a register write asks of others.
    struct Outgoing {
        int eoi = -1;
        bool ipi = false;
        u32 low = 0;
        u8 destination = 0;
    };

    void on_reset() noexcept override;
    void save_fields(state::FieldWriter &out) const override;
    void loaded() noexcept override;
    State reset_state() const noexcept override;
    const char *validate(const State &state) const noexcept override;
    void initialise() noexcept;
    bool fixed_pending() const noexcept;
    bool extint_pending() const noexcept;
    void signal() noexcept;
    void accept_fixed(u8 vector, bool level) noexcept;
    Time timer_period() const noexcept;
    Time next_expiry() const noexcept;
    void timer_expired() noexcept;
    u32 timer_current() const noexcept;
    void error(u32 bit) noexcept;
    u32 read_register(u32 n) noexcept;
    void write_register(u32 n, u32 value, Outgoing &out) noexcept;
    void write_lvt(unsigned n, u32 value) noexcept;
    void end_of_interrupt(Outgoing &out) noexcept;
    void send(const Outgoing &out) noexcept;
    u64 read(u64 at, unsigned size) noexcept;
    void write(u64 at, unsigned size, u64 value) noexcept;

    const unsigned index_;
    ApicBus &bus_;
    Clock &clock_;
    MachineEvents &board_;
    std::atomic<accel::Vcpu *> vcpu_{nullptr};
    Time last_expiry_ = 0;

    // What other threads change: the request and trigger-mode registers, errors, an ExtINT message.
    std::array<std::atomic<u32>, 8> irr_{}, tmr_{};
    std::atomic<u32> esr_pending_{0};
    std::atomic<bool> extint_{false};
    // What other threads look at; settle() derives them from the state.
    std::atomic<bool> present_{false}, enabled_{false}, flat_{true}, takes_intr_{false};
    std::atomic<u8> id_{0}, ldr_{0}, ppr_{0};
    std::atomic<u32> lint0_{0}, lint1_{0};

    Timer timer_;
};

} // namespace rhea::hw
