#pragma once
// A virtual CPU as the machine sees it, whatever engine runs it, and what the machine is to a
// virtual CPU.
//
// A Vcpu owns its thread. The machine creates it paused, gives it a state, and lets it run; pause()
// returns when the thread is outside guest code and outside device code. kick(), the interrupt
// inputs and raise_*() may be called from any thread and under a device's lock: they set atomics
// and wake the thread, and take no lock that is held while device code runs.

#include "accel/x86_state.h"
#include "dm/core/types.h"
#include "dm/mem/request.h"

namespace rhea::accel {

// The machine's side, implemented by the interrupt controllers' owner (hw/intc). Called on the
// vCPU's thread.
class VcpuClient {
public:
    // An access to the registers that are private to this vCPU (its local APIC's page): served,
    // true. Every access that is not RAM is offered here first; false: it goes to the machine's
    // address map.
    virtual bool serve_local(Request &request) noexcept = 0;
    // The vector to deliver now (local APIC or, through LINT0 in ExtINT mode, the 8259 pair), or -1
    // if there is nothing any more. The controller counts it as accepted.
    virtual int acknowledge_interrupt() noexcept = 0;
    // CR8: bits 4..7 of the local APIC's task priority.
    virtual u64 task_priority() noexcept = 0;
    virtual void set_task_priority(u64 value) noexcept = 0;
    // MSRs that belong to the interrupt controller: IA32_APIC_BASE, x2APIC. False: no such
    // register, the guest gets #GP.
    virtual bool read_msr(u32 number, u64 &value) noexcept = 0;
    virtual bool write_msr(u32 number, u64 value) noexcept = 0;
    // The CPU has shut down (triple fault). What follows (reset, stop) is the machine's to decide;
    // the vCPU stays idle.
    virtual void cpu_shut_down() noexcept = 0;

protected:
    ~VcpuClient() = default;
};

class Vcpu {
public:
    virtual ~Vcpu() = default;

    virtual unsigned index() const noexcept = 0;
    virtual void run() = 0;   // let it go on (or start)
    virtual void pause() = 0; // returns when it has stopped; not from its own thread
    virtual void kick() noexcept = 0;

    // INTR: true while the controller has something to deliver. A level; the vCPU acknowledges
    // through its client.
    virtual void set_interrupt(bool level) noexcept = 0;
    virtual void raise_nmi() noexcept = 0;
    virtual void raise_init() noexcept = 0;
    virtual void raise_startup(u8 page) noexcept = 0; // SIPI: real-mode start at page << 12
    virtual void reset() = 0;                         // power-on state; while paused

    // While paused.
    virtual X86State state() const = 0;
    virtual void set_state(const X86State &state) = 0;
};

} // namespace rhea::accel
