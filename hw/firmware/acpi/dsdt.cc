// The DSDT: what an operating system cannot find out by itself about this PC.
#include "hw/firmware/acpi/aml.h"
#include "hw/firmware/acpi/table.h"
#include "hw/firmware/acpi/tables.h"

#include <array>
#include <string>

namespace rhea::hw {

using namespace aml;

namespace {

/// One of the PIIX3's four interrupt routers (82371SB, 2.2.9: PIRQRC, bit 7 set: not routed).
Aml link_device(unsigned n) {
    constexpr u32 number_at = 5; // in the extended interrupt descriptor
    const std::string as = std::string("LNK") + char('A' + n);
    const std::string route_name = std::string("PRQ") + char('A' + n);
    const Aml route = path("\\_SB.PCI0.ISA." + route_name);
    const Aml current = dword_field_of(path("PRR0"), number_at, "PRRI") +
                        if_true(less(route, integer(0x80)), store(route, path("PRRI"))) +
                        give(path("PRR0"));
    return device(
        as,
        name("_HID", eisa_id("PNP0C0F")) + name("_UID", integer(n + 1)) +
            name("PRR0", resources(interrupts({0}))) +
            name("_PRS", resources(interrupts({5, 10, 11}))) +
            method("_STA", 0,
                   if_true(bit_and(route, integer(0x80)), give(integer(0x09))) +
                       give(integer(0x0b))) +
            method("_DIS", 0, or_into(route, integer(0x80), route)) + method("_CRS", 0, current) +
            method("_SRS", 1,
                   dword_field_of(argument(0), number_at, "PRRI") + store(path("PRRI"), route)));
}

/// Which router each slot's pins come in at: PIRQ (slot + pin - 1) mod 4, as the board is wired.
/// Function 1.3's SCI is not routed at all, it is ISA interrupt 9.
Aml interrupt_routing() {
    static constexpr std::array<const char *, 4> links{"LNKA", "LNKB", "LNKC", "LNKD"};
    Aml entries;
    for (u32 slot = 0; slot < 32; ++slot)
        for (u32 pin = 0; pin < 4; ++pin) {
            const bool sci = slot == 1 && pin == 0;
            const u64 address = u64{slot} << 16 | 0xffff;
            entries += package({integer(address), integer(pin),
                                sci ? integer(0) : path(links[(slot + pin + 3) % 4]),
                                integer(sci ? 9 : 0)});
        }
    return name("_PRT", package_of(32 * 4, entries));
}

Aml isa_devices(const AcpiConfig &c) {
    const auto plain = [](std::string_view as, std::string_view hid, const Aml &what) {
        return device(as, name("_HID", eisa_id(hid)) + name("_CRS", resources(what)));
    };
    Aml out = region("P40C", RegionSpace::pci_config, 0x60, 4) +
              byte_field("P40C", {{"PRQA", 8}, {"PRQB", 8}, {"PRQC", 8}, {"PRQD", 8}}) +
              plain("RTC", "PNP0B00", io(0x70, 2) + irq(8)) +
              plain("TIMR", "PNP0100", io(0x40, 4) + irq(0)) +
              plain("KBD", "PNP0303", io(0x60, 1) + io(0x64, 1) + irq(1)) +
              plain("MOU", "PNP0F13", irq(12));
    if (c.com1)
        out += device("COM1", name("_HID", eisa_id("PNP0501")) + name("_UID", integer(1)) +
                                  name("_CRS", resources(io(0x3f8, 8) + irq(4))));
    return out;
}

Aml host_bridge(const AcpiConfig &c) {
    constexpr u32 before_io_apic = 0xfebf'ffff;
    Aml windows = bus_numbers(0, 0xff) + io_range(0x0000, 0x0cf7) + io(0xcf8, 8) +
                  io_range(0x0d00, 0xffff) + memory_range(0xa'0000, 0xb'ffff, true) +
                  memory_range(c.pci_hole_start, before_io_apic, false);
    if (c.pci_hole64_start)
        windows += memory_range64(c.pci_hole64_start, c.pci_hole64_start + (u64{1} << 35) - 1);
    // What the board itself takes, so that nothing is placed on it.
    const Aml board = io(c.pm_base & 0xff00, 0x40) + io(0xb2, 2) + io(0x92, 1) +
                      fixed_memory(0xfec0'0000, 0x1000) + fixed_memory(0xfee0'0000, 0x1000);
    Aml body = name("_HID", eisa_id("PNP0A03")) + name("_UID", integer(0)) +
               name("_CRS", resources(windows)) + interrupt_routing() +
               device("BRD", name("_HID", eisa_id("PNP0C02")) + name("_CRS", resources(board))) +
               device("ISA", name("_ADR", integer(0x0001'0000)) + isa_devices(c));
    return device("PCI0", body);
}

Aml processors(const AcpiConfig &c) {
    Aml out;
    for (unsigned i = 0; i < c.cpus; ++i) {
        static constexpr char hex[] = "0123456789ABCDEF";
        const std::string as{'C', hex[i >> 8 & 15], hex[i >> 4 & 15], hex[i & 15]};
        out += device(as, name("_HID", string("ACPI0007")) + name("_UID", integer(i)));
    }
    return out;
}

} // namespace

std::vector<u8> make_dsdt(const AcpiConfig &c) {
    Aml links;
    for (unsigned n = 0; n < 4; ++n)
        links += link_device(n);
    const Aml body = scope("\\_SB", host_bridge(c) + processors(c)) + scope("\\_SB.PCI0", links) +
                     name("\\_S5", package({integer(0), integer(0), integer(0), integer(0)}));
    return with_header("DSDT", 2, body.bytes());
}

} // namespace rhea::hw
