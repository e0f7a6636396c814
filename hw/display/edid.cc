#include "hw/display/edid.h"

#include "dm/core/endian.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string_view>

namespace rhea::hw {

namespace {

using Descriptor = std::span<u8, 18>;

// 3.10.2. CVT reduced blanking: 160 pixels beside, and enough lines above for 460 µs.
void put_timing(Descriptor d, u32 width, u32 height, u32 mm_wide, u32 mm_high) noexcept {
    constexpr u32 h_blank = 160, h_front = 48, h_sync = 32, v_front = 3, v_sync = 6, rate = 60;
    const u32 v_blank = std::max(height * 460 * rate / (1'000'000 - 460 * rate) + 1, 14u);
    const u32 clock = (width + h_blank) * (height + v_blank) * rate / 10'000; // 10 kHz
    store_le<u16>(&d[0], static_cast<u16>(std::min(clock, 0xffffu)));
    const auto split = [&](unsigned at, u32 active, u32 blank) {
        d[at] = static_cast<u8>(active);
        d[at + 1] = static_cast<u8>(blank);
        d[at + 2] = static_cast<u8>((active >> 8 & 15) << 4 | (blank >> 8 & 15));
    };
    split(2, width, h_blank);
    split(5, height, v_blank);
    d[8] = h_front;
    d[9] = h_sync;
    d[10] = v_front << 4 | v_sync;
    d[12] = static_cast<u8>(mm_wide);
    d[13] = static_cast<u8>(mm_high);
    d[14] = static_cast<u8>((mm_wide >> 8 & 15) << 4 | (mm_high >> 8 & 15));
    d[17] = 0x1a; // digital separate sync, horizontal positive
}

void put_text(Descriptor d, u8 tag, std::string_view text) noexcept {
    d[3] = tag;
    std::fill(d.begin() + 5, d.end(), u8{' '});
    std::copy_n(text.begin(), std::min<std::size_t>(text.size(), 12), d.begin() + 5);
    d[5 + std::min<std::size_t>(text.size(), 12)] = '\n';
}

} // namespace

std::array<u8, 128> make_edid(u32 width, u32 height) noexcept {
    width = std::min(width, 4095u);
    height = std::min(height, 4095u);
    const u32 mm_wide = width * 254 / 960, mm_high = height * 254 / 960;
    std::array<u8, 128> e{};
    std::fill_n(e.begin() + 1, 6, u8{0xff});
    // Manufacturer "RHE": five bits a letter.
    store_be<u16>(&e[8], ('R' - '@') << 10 | ('H' - '@') << 5 | ('E' - '@'));
    store_le<u16>(&e[10], 0x1234);
    e[16] = 1;           // week
    e[17] = 2024 - 1990; // year
    e[18] = 1, e[19] = 4;
    e[20] = 0xa5; // digital, 8 bits a colour, DisplayPort
    e[21] = static_cast<u8>(mm_wide / 10);
    e[22] = static_cast<u8>(mm_high / 10);
    e[23] = 120;  // gamma 2.2
    e[24] = 0x06; // sRGB, the first timing is the preferred one
    // sRGB's primaries and white point (3.7).
    constexpr u8 colours[]{0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54};
    std::copy(std::begin(colours), std::end(colours), e.begin() + 25);
    e[35] = 0x21;                              // 640x480 and 800x600 at 60 Hz
    e[36] = 0x08;                              // 1024x768 at 60 Hz
    std::fill_n(e.begin() + 38, 16, u8{0x01}); // no standard timings but these (3.9)
    constexpr u8 standard[][2]{{0x81, 0x80},   // 1280x1024
                               {0xa9, 0x40},   // 1600x1200
                               {0xd1, 0xc0}};  // 1920x1080
    for (std::size_t i = 0; i < std::size(standard); ++i)
        std::copy_n(standard[i], 2, e.begin() + 38 + static_cast<std::ptrdiff_t>(2 * i));
    put_timing(std::span(e).subspan<54, 18>(), width, height, mm_wide, mm_high);
    const auto limits = std::span(e).subspan<72, 18>();
    put_text(limits, 0xfd, ""); // 3.10.3.3: 50 to 125 Hz, 30 to 160 kHz, up to 600 MHz
    constexpr u8 range[]{50, 125, 30, 160, 60, 1, '\n'};
    std::copy(std::begin(range), std::end(range), limits.begin() + 5);
    put_text(std::span(e).subspan<90, 18>(), 0xfc, "Rhea Monitor");
    put_text(std::span(e).subspan<108, 18>(), 0xff, "1");
    e[127] = static_cast<u8>(0x100 - std::accumulate(e.begin(), e.end() - 1, 0) % 256);
    return e;
}

} // namespace rhea::hw
