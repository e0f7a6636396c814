#include "hw/isa/piix3.h"

namespace rhea::hw {

namespace {

enum : u8 { XBCS = 0x4e, PIRQRC = 0x60, TOM = 0x69, APIC_BASE = 0x80, DLC = 0x82 };
constexpr u8 PIRQ_OFF = 0x80;
constexpr u8 PORT92_A20 = 0x02, PORT92_INIT = 0x01;
// ISA interrupts that PCI ones may be routed to (2.2.11): the others are the board's own.
constexpr u16 routable = 0xdef8;

constexpr PciIdentity identity{.vendor = 0x8086,
                               .device = 0x7000,
                               .class_code = 0x06'01'00,
                               .header_type = pci::MULTI_FUNCTION,
                               .command = 0x0007, // I/O, memory and master are always on
                               .command_writable = pci::COMMAND_SERR | 0x0008,
                               .status = 0x0280};

} // namespace

Piix3::Piix3(std::string name, IrqSink &isa, MachineEvents &events) noexcept
    : StateDevice(std::move(name)), isa_(isa), events_(events),
      config_(*this, "piix3", s.config, identity), port_92_(*this, "port 92h", {.max_size = 1}),
      windows_{Window{"config", Space::pci_config, pci::config_base(1, 0), 0x1000, &config_},
               Window{"port 92h", Space::port, 0x92, 1, &port_92_}} {
    config_.set_byte(0x4c, 0x4d); // ISA I/O recovery timer
    config_.set_byte(XBCS, 0x03);
    config_.set_byte(TOM, 0x02);
    config_.allow(0x4c, 0xff, 1);
    config_.allow(XBCS, 0xffff, 2);
    for (unsigned n = 0; n < 4; ++n) {
        const u8 at = static_cast<u8>(PIRQRC + n);
        config_.set_byte(at, PIRQ_OFF);
        config_.allow(at, 0x8f, 1);
    }
    config_.allow(TOM, 0xfe, 1);
    config_.allow(0x6a, 0xffff, 2); // MSTAT
    config_.set_byte(0x70, 0x80);   // MBIRQ0
    config_.allow(0x70, 0xef, 1);
    config_.allow(0x76, 0x8f8f, 2); // MBDMA
    config_.set_byte(0x76, 0x0c);
    config_.set_byte(0x77, 0x0c);
    config_.allow(APIC_BASE, 0x7f, 1);
    config_.allow(DLC, 0x0f, 1);
    config_.allow(0xa0, 0xffff'ffff, 4); // SMI control and enables: kept, there is no SMM
    config_.allow(0xa4, 0xffff'ffff, 4);
    config_.allow(0xa8, 0xffff'ffff, 4);
}

void Piix3::on_reset() noexcept {
    config_.reset();
    s.port_92 = PORT92_A20;
    // The PIRQ inputs are their sources' to say.
}

void Piix3::set_line(u32 pirq, bool level) noexcept {
    if (pirq < s.pirq.size())
        enter([&] { s.pirq[pirq] = level; });
}

void Piix3::settle() noexcept {
    config_.settle();
    u16 wanted = 0;
    for (unsigned n = 0; n < s.pirq.size(); ++n) {
        const u8 route = config_.byte(static_cast<u8>(PIRQRC + n));
        if (s.pirq[n] && !(route & PIRQ_OFF))
            wanted |= static_cast<u16>(1u << (route & 15));
    }
    wanted &= routable;
    for (unsigned irq = 0; irq < 16; ++irq)
        if ((wanted ^ driven_) >> irq & 1)
            isa_.set_line(irq, wanted >> irq & 1);
    driven_ = wanted;
}

u64 Piix3::read_port_92(u64, unsigned) noexcept {
    return s.port_92;
}

void Piix3::write_port_92(u64, unsigned, u64 value) noexcept {
    const bool reset = (value & PORT92_INIT) && !(s.port_92 & PORT92_INIT);
    s.port_92 = value & (PORT92_A20 | PORT92_INIT);
    if (reset)
        events_.reset_requested();
}

} // namespace rhea::hw
