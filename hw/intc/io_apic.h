// 82093AA IO-APIC: 24 inputs, each with a redirection entry that says which interrupt message it
// becomes.
//
// Facts: Intel 82093AA data sheet (290566-001). Owned by the board, at FEC00000h. Inputs come in by
// set_line() on any thread and take the controller's lock, which is below every device's; messages
// go out through the ApicBus.
#pragma once
#include "accel/irqchip_state.h"
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "hw/intc/apic_bus.h"

namespace rhea::hw {

class IoApic : public PlainDevice<accel::IoApicState>, public IrqSink {
public:
    static constexpr unsigned inputs = 24;
    static constexpr u64 default_base = 0xfec0'0000;

    IoApic(std::string name, ApicBus &bus) noexcept;

    std::string_view type() const noexcept override { return "ioapic"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    // Input 0 to 23. A PC's IRQ0 comes in at 2; that is the board's wiring.
    void set_line(u32 number, bool level) noexcept override;
    // An EOI message for a level-triggered vector.
    void end_of_interrupt(u8 vector) noexcept;

    u64 read(u64 at, unsigned size) noexcept override;
    void write(u64 at, unsigned size, u64 value) noexcept override;
    void settle() noexcept override;

private:
    State reset_state() const noexcept override;
    void post(unsigned input) noexcept;
    u32 read_selected() const noexcept;
    void write_selected(u32 value) noexcept;

    ApicBus &bus_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
