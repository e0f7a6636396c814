// The PCI host's way into configuration space: mechanism 1 (ports CF8h and CFCh), and the reset
// control register of the PIIX3 that shares its ports (CF9h).
//
// Facts: PCI Local Bus Specification 3.0, 3.2.2.3.2; Intel 82371SB (PIIX3), 2.5.7. A byte access to
// CF9h is the reset control; only a 32-bit one at CF8h is the address. An access to CFCh goes on to
// Space::pci_config with the host's lock held: the bridge is above its functions in the lock order.
#pragma once
#include "dm/device/device.h"
#include "dm/mem/dispatcher.h"
#include "hw/machine/events.h"

#include <array>

namespace rhea::hw {

struct PciHostState {
    u32 address = 0;
    u8 reset_control = 0;
    static constexpr auto fields() {
        using S = PciHostState;
        return describe<S>(Field<&S::address>{}, Field<&S::reset_control>{});
    }
};

class PciHost : public PlainDevice<PciHostState> {
public:
    PciHost(std::string name, AddressMap &map, MachineEvents &events);

    std::string_view type() const noexcept override { return "pci-host"; }
    std::span<const Window> windows() noexcept override { return windows_; }

    u64 read(u64 at, unsigned size) noexcept override;
    void write(u64 at, unsigned size, u64 value) noexcept override;

private:
    u64 selected(u64 at) const noexcept;
    void write_reset_control(u8 value) noexcept;

    Accessor functions_; // used under the lock only
    MachineEvents &events_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
