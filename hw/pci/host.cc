#include "hw/pci/host.h"

#include "dm/core/bits.h"

namespace rhea::hw {

namespace {
constexpr u32 ENABLE = 0x8000'0000;
constexpr u8 RCR_RESET_CPU = 0x04, RCR_HARD = 0x02;
} // namespace

PciHost::PciHost(std::string name, AddressMap &map, MachineEvents &events)
    : PlainDevice(std::move(name)), functions_(map),
      events_(events), windows_{Window{"mechanism 1", Space::port, 0xcf8, 8, this}} {}

// CONFIG_ADDRESS as an address in Space::pci_config.
u64 PciHost::selected(u64 at) const noexcept {
    return bits(s.address, 23, 8) << 12 | (s.address & 0xfc) | (at & 3);
}

u64 PciHost::read(u64 at, unsigned size) noexcept {
    if (at >= 4) {
        if (!(s.address & ENABLE) || !functions_.find(Space::pci_config, selected(at)))
            return size_mask(size); // nobody claims the cycle: master abort
        return functions_.read(Space::pci_config, selected(at), size);
    }
    if (at == 1 && size == 1)
        return s.reset_control;
    return u64{s.address} >> 8 * at;
}

void PciHost::write(u64 at, unsigned size, u64 value) noexcept {
    if (at >= 4) {
        if ((s.address & ENABLE) && functions_.find(Space::pci_config, selected(at)))
            functions_.write(Space::pci_config, selected(at), size, value);
    } else if (at == 0 && size == 4) {
        s.address = static_cast<u32>(value) & 0x80ff'fffc;
    } else if (at == 1 && size == 1) {
        write_reset_control(static_cast<u8>(value));
    }
}

// The rising edge of bit 2 resets. A soft reset (bit 1 clear) is INIT on this chip set; firmware
// cannot tell it from a hard one, which is what the machine does for both.
void PciHost::write_reset_control(u8 value) noexcept {
    const bool rises = (value & RCR_RESET_CPU) && !(s.reset_control & RCR_RESET_CPU);
    s.reset_control = value & (RCR_HARD | RCR_RESET_CPU);
    if (rises)
        events_.reset_requested();
}

} // namespace rhea::hw
