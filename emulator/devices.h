#pragma once
// From the options to the machine's configuration: which back ends and devices there are.
#include <string>

#include "dm/chardev/registry.h"
#include "emulator/drives.h"
#include "emulator/options.h"
#include "hw/machine/pc.h"

namespace rhea::emulator {

/// Adds drives, serial ports, debug consoles and -device to `pc`, and makes their back ends. Throws
/// ConfigError.
void add_devices(const Options &options, chardev::CharBackends &backends, Drives &drives,
                 hw::PcConfig &pc);

/// The types that -device takes, one a line.
std::string device_list();
/// The keys of one of them. Throws ConfigError if there is no such type.
std::string device_keys(std::string_view type);

} // namespace rhea::emulator
