// Intel 82371SB (PIIX3), the PCI to ISA bridge: PCI function 0:1.0, the routing of PCI interrupts
// to ISA ones, and the fast reset and A20 port 92h.
//
// Facts: Intel 82371SB data sheet (290550), 2.2 (configuration), 2.5.5 (port 92h). Owned by the
// board. PIRQ0 to PIRQ3 come in by set_line() on any thread.
//
// There is no A20 mask: the bit is kept and read back, and addresses above 1 MiB are always there,
// as on PCs since the gate left their chip sets.
#pragma once
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "hw/machine/events.h"
#include "hw/pci/config.h"

#include <array>

namespace rhea::hw {

struct Piix3State {
    PciConfigState config{};
    std::array<bool, 4> pirq{};
    u8 port_92 = 2;
    static constexpr auto fields() {
        using S = Piix3State;
        return describe<S>(Field<&S::config>{}, Field<&S::pirq>{}, Field<&S::port_92>{.max = 3});
    }
};

class Piix3 : public StateDevice<Piix3State>, public IrqSink {
public:
    // `isa`: line n is ISA interrupt n as the PCI side drives it, to be wired-or with the ISA
    // device's own.
    Piix3(std::string name, IrqSink &isa, MachineEvents &events) noexcept;

    std::string_view type() const noexcept override { return "piix3"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    void set_line(u32 pirq, bool level) noexcept override;
    void settle() noexcept override;
    // The keyboard controller's output port drives the same gate.
    bool a20() const noexcept { return s.port_92 & 2; }

private:
    void on_reset() noexcept override;
    u64 read_port_92(u64 at, unsigned size) noexcept;
    void write_port_92(u64 at, unsigned size, u64 value) noexcept;

    IrqSink &isa_;
    MachineEvents &events_;
    PciConfig config_;
    MethodTarget<&Piix3::read_port_92, &Piix3::write_port_92> port_92_;
    u16 driven_ = 0; // ISA interrupts that are high because of us
    std::array<Window, 2> windows_;
};

} // namespace rhea::hw
