// The catalog of device types: a sorted constexpr table, one line a type, beside the devices
// (hw/catalog.cc).
//
// It is what `-device help`, hot-plug and the conformance suite read. Nothing registers itself at
// start-up. A board constructs its own devices directly, with their typed configuration; make() is
// for who has only a name.
#pragma once
#include "dm/core/types.h"
#include "dm/irq/line.h"
#include "dm/irq/msi.h"
#include "dm/mem/address_space.h"
#include "dm/time/clock.h"
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace rhea {

class Device;

enum class BusKind : u8 { board, isa, pci }; // what a device of the type is plugged into

// What a device may be wired to where it is made from its name alone.
struct Resources {
    AddressMap &map;
    Clock &clock;
    IrqSink &irqs; // line n: ISA interrupt n, or the board's own numbering
    MsiSink *msi = nullptr;
};

struct DeviceType {
    std::string_view name;
    std::string_view help;
    BusKind bus = BusKind::board;
    // The device with its power-on state. `options` is "key=value,..." as on the command line,
    // without the type; throws ConfigError. Windows are not mapped yet.
    std::unique_ptr<Device> (*make)(std::string name, const Resources &resources,
                                    std::string_view options) = nullptr;
    std::string_view alias{};   // the name that people know it by, if it is another
    std::string_view options{}; // help text: what `options` may hold, one a line
};

consteval bool sorted_by_name(std::span<const DeviceType> catalog) {
    for (std::size_t i = 0; i < catalog.size(); ++i)
        if (catalog[i].name.empty() || (i && !(catalog[i - 1].name < catalog[i].name)))
            return false;
    return true;
}

// By name, then by alias; null if there is none.
constexpr const DeviceType *find_type(std::span<const DeviceType> catalog,
                                      std::string_view name) noexcept {
    const auto i = std::ranges::lower_bound(catalog, name, {}, &DeviceType::name);
    if (i != catalog.end() && i->name == name)
        return &*i;
    const auto j = std::ranges::find(catalog, name, &DeviceType::alias);
    return j != catalog.end() && !name.empty() ? &*j : nullptr;
}

} // namespace rhea
