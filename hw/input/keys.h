// Keys by name, as management programs and people call them ("a", "ret", "ctrl_r"), and their bytes
// in scan code set 2, which is what I8042::key() takes.
//
// Facts: IBM Personal System/2 Hardware Interface Technical Reference, "Keyboard (101- and
// 102-key)", scan code set 2. A constant table; any thread.
#pragma once
#include "dm/core/types.h"

#include <array>
#include <span>
#include <string_view>
#include <vector>

namespace rhea::hw {

struct KeyCodes {
    std::array<u8, 8> bytes{};
    u8 count = 0;
    std::span<const u8> span() const noexcept { return std::span(bytes).first(count); }
};

// False: there is no key of that name.
bool key_codes(std::string_view name, bool press, KeyCodes &out) noexcept;
std::vector<std::string_view> key_names();

} // namespace rhea::hw
