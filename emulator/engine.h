#pragma once
// The choice of the engine: the first of those that the command line names that can be used here.
#include <memory>
#include <string>

#include "accel/accelerator.h"
#include "dm/mem/address_space.h"
#include "emulator/options.h"

namespace rhea::emulator {

/// Throws ConfigError if none can be used. Says so in one line when it is not the first one.
std::unique_ptr<accel::Accelerator> make_engine(const Options &options, AddressMap &map);

/// The answer to -accel help, a line each.
std::string engine_list();

} // namespace rhea::emulator
