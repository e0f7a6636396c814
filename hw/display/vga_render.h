// From registers and video memory to pixels, as a VGA's monitor would show them: every dot of the
// pixel clock is a pixel (320-dot modes are 640 wide), every scan line a row (doubled ones twice).
//
// Pure functions on what the device hands them under its lock.
#pragma once
#include "dm/time/clock.h"
#include "dm/ui/surface.h"
#include "hw/display/vga_state.h"

#include <string>
#include <utility>
#include <vector>

namespace rhea::hw {

// A frame in guest nanoseconds and scan lines; never 0 where one divides by it.
struct VgaTiming {
    i64 line_ns = 1, visible_ns = 0, frame_ns = 1;
    i64 visible_lines = 0, retrace_start = 0, retrace_end = 0;
};
VgaTiming vga_timing(const VgaState &state) noexcept;

// Changes when the cursor or blinking characters do; constant in graphics modes.
u64 vga_blink(const VgaState &state, Time now) noexcept;

void render_vga(const VgaState &state, std::span<const u8> memory, Time now, ui::Surface &out);

// Rows [first, last) of a mode of 8 bits and more, into a surface of its size.
void render_vbe_rows(const VgaState &state, const VbeMode &mode, std::span<const u8> memory,
                     u32 first, u32 last, ui::Surface &out) noexcept;
// The rows that show some of the bytes [from, to).
std::pair<u32, u32> vbe_rows(const VbeMode &mode, u64 from, u64 to) noexcept;

// The characters of a text mode as UTF-8, a string a row; empty in graphics modes.
std::vector<std::string> vga_text(const VgaState &state, std::span<const u8> memory);

} // namespace rhea::hw
