#include "hw/intc/apic_bus.h"

#include "dm/core/bits.h"
#include "hw/intc/i8259.h"
#include "hw/intc/io_apic.h"
#include "hw/intc/local_apic.h"

namespace rhea::hw {

void ApicBus::set_line(u32 number, bool level) noexcept {
    std::atomic<bool> &line = number == 0 ? intr_ : nmi_;
    if (line.exchange(level, std::memory_order_seq_cst) == level)
        return;
    for (LocalApic *apic : apics_)
        number == 0 ? apic->lint0_changed(level) : apic->lint1_changed(level);
}

int ApicBus::acknowledge_extint() noexcept {
    return pics_ ? pics_->acknowledge() : -1;
}

void ApicBus::send(const MsiMessage &message) noexcept {
    if (bits(message.address, 63, 20) != 0xfee)
        return;
    deliver({.vector = static_cast<u8>(message.data),
             .mode = static_cast<DeliveryMode>(bits(message.data, 10, 8)),
             .destination = static_cast<u8>(bits(message.address, 19, 12)),
             .logical = bit(message.address, 2),
             .level = bit(message.data, 15)});
}

void ApicBus::deliver(const ApicMessage &message) noexcept {
    if (message.mode != DeliveryMode::lowest_priority) {
        for (LocalApic *apic : apics_)
            if (apic->matches(message.destination, message.logical))
                apic->accept(message);
        return;
    }
    LocalApic *best = nullptr;
    for (LocalApic *apic : apics_)
        if (apic->matches(message.destination, message.logical) && apic->takes_fixed() &&
            (!best || apic->processor_priority() < best->processor_priority()))
            best = apic;
    if (best)
        best->accept(message);
}

void ApicBus::deliver_to_all(const ApicMessage &message, const LocalApic *except) noexcept {
    for (LocalApic *apic : apics_)
        if (apic != except)
            apic->accept(message);
}

void ApicBus::end_of_interrupt(u8 vector) noexcept {
    if (io_apic_)
        io_apic_->end_of_interrupt(vector);
}

} // namespace rhea::hw
