// Every device type there is, sorted by name: what help texts, hot-plug and the conformance suite
// read. A new device adds one line to catalog.cc.
#pragma once
#include "dm/device/catalog.h"

#include <span>

namespace rhea::hw {

std::span<const DeviceType> catalog() noexcept;

} // namespace rhea::hw
