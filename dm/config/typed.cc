#include "dm/config/typed.h"

#include <algorithm>

namespace rhea::config {

bool same_key(std::string_view a, std::string_view b) noexcept {
    return std::ranges::equal(a, b, [](char x, char y) {
        return x == y || ((x == '-' || x == '_') && (y == '-' || y == '_'));
    });
}

} // namespace rhea::config
