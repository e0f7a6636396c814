// ApicBus: how interrupt messages find their local APICs: from IO-APICs, from other CPUs, from
// devices' MSIs; and where LINT0 (the 8259 pair's INTR), LINT1 (NMI) and EOI messages go.
//
// Owned by the board, which attaches what there is before the guest runs; from then on the list
// does not change and any thread may call it. Posting sets atomics in the local APICs; only INIT
// takes the receiver's lock (which is below all others).
//
// Facts: Intel SDM volume 3, "Message signalled interrupts", "Interprocessor interrupts".
#pragma once
#include "dm/core/types.h"
#include "dm/irq/line.h"
#include "dm/irq/msi.h"

#include <atomic>
#include <vector>

namespace rhea::hw {

class I8259Pair;
class IoApic;
class LocalApic;

enum class DeliveryMode : u8 { fixed, lowest_priority, smi, reserved, nmi, init, startup, extint };

struct ApicMessage {
    u8 vector = 0;
    DeliveryMode mode = DeliveryMode::fixed;
    u8 destination = 0;
    bool logical = false;
    bool level = false; // level triggered: an EOI message goes back
};

class ApicBus final : public MsiSink, public IrqSink {
public:
    void attach(LocalApic &apic) { apics_.push_back(&apic); }
    void attach(IoApic &io_apic) noexcept { io_apic_ = &io_apic; }
    void attach(I8259Pair &pics) noexcept { pics_ = &pics; }

    // What the 8259 pair and the NMI logic drive.
    IrqLine intr_input() noexcept { return {*this, 0}; }
    IrqLine nmi_input() noexcept { return {*this, 1}; }
    void set_line(u32 number, bool level) noexcept override;
    bool intr_level() const noexcept { return intr_.load(std::memory_order_seq_cst); }
    // The 8259 pair's acknowledge cycle; -1 without one. No local APIC's lock may be held.
    int acknowledge_extint() noexcept;

    void send(const MsiMessage &message) noexcept override;
    void deliver(const ApicMessage &message) noexcept;
    // Shorthand destinations of an interprocessor interrupt.
    void deliver_to_all(const ApicMessage &message, const LocalApic *except) noexcept;

    // A level-triggered vector has been served. No local APIC's lock may be held.
    void end_of_interrupt(u8 vector) noexcept;

private:
    std::vector<LocalApic *> apics_;
    IoApic *io_apic_ = nullptr;
    I8259Pair *pics_ = nullptr;
    std::atomic<bool> intr_{false}, nmi_{false};
};

} // namespace rhea::hw
