// EDID: what a monitor says of itself, 128 bytes.
//
// Facts: VESA Enhanced EDID Standard, release A, revision 2 (EDID 1.4), chapter 3; timings by VESA
// CVT reduced blanking. Plain function, any thread.
#pragma once
#include "dm/core/types.h"

#include <array>

namespace rhea::hw {

// A flat panel at 96 dots an inch with that preferred mode, 60 Hz. Width and height: at most 4095.
std::array<u8, 128> make_edid(u32 width, u32 height) noexcept;

} // namespace rhea::hw
