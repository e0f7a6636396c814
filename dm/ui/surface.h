// Surface: a picture in memory, one u32 a pixel (00RRGGBBh), rows without gaps.
//
// A value; whoever has it owns it. Consoles render into one, image writers and remote displays read
// it.
#pragma once
#include "dm/core/types.h"

#include <span>
#include <vector>

namespace rhea::ui {

struct Rect {
    u32 x = 0, y = 0, width = 0, height = 0; // pixels
    bool operator==(const Rect &) const = default;
};

struct Surface {
    u32 width = 0, height = 0;
    std::vector<u32> pixels;

    void resize(u32 w, u32 h) {
        width = w;
        height = h;
        pixels.assign(std::size_t{w} * h, 0);
    }
    std::span<u32> row(u32 y) noexcept { return {&pixels[std::size_t{y} * width], width}; }
    std::span<const u32> row(u32 y) const noexcept {
        return {&pixels[std::size_t{y} * width], width};
    }
    bool operator==(const Surface &) const = default;
};

} // namespace rhea::ui
