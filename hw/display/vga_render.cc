#include "hw/display/vga_render.h"

#include "dm/core/bits.h"
#include "dm/core/endian.h"

#include <algorithm>

namespace rhea::hw {

using namespace vga;

namespace {

using Palette = std::array<u32, 256>;
using Memory = std::span<const u8>; // the size is a power of two

u32 double_word(Memory memory, u64 offset) noexcept {
    return load_le<u32>(&memory[offset * 4 & (memory.size() - 1)]);
}

Palette palette_of(const VgaState &s) noexcept {
    Palette out{};
    const auto part = [&](u8 v) -> u32 {
        return s.dac_is_8_bit() ? v : static_cast<u32>((v & 0x3f) << 2 | (v & 0x3f) >> 4);
    };
    for (unsigned i = 0; i < out.size(); ++i) {
        const u8 *const entry = &s.palette[(i & s.dac_mask) * 3u];
        out[i] = part(entry[0]) << 16 | part(entry[1]) << 8 | part(entry[2]);
    }
    return out;
}

// The attribute controller: four bits of a pixel to an index of the DAC.
u8 dac_index(const VgaState &s, unsigned pixel) noexcept {
    const u8 select = s.attribute[AR_COLOR_SELECT];
    const u8 entry = s.attribute[pixel & s.attribute[AR_PLANE_ENABLE] & 15] & 0x3f;
    if (s.attribute[AR_MODE] & 0x80) // bits 5:4 from the colour select register
        return static_cast<u8>((select & 15) << 4 | (entry & 15));
    return static_cast<u8>((select & 0x0c) << 4 | entry);
}

std::array<u32, 16> colours_of(const VgaState &s) noexcept {
    const Palette palette = palette_of(s);
    std::array<u32, 16> out{};
    for (unsigned i = 0; i < out.size(); ++i)
        out[i] = palette[dac_index(s, i)];
    return out;
}

unsigned vertical(const VgaState &s, u8 low, unsigned bit8, unsigned bit9) noexcept {
    const u8 overflow = s.crtc[CR_OVERFLOW];
    return low | (overflow >> bit8 & 1u) << 8 | (overflow >> bit9 & 1u) << 9;
}

// What the CRTC shows, whatever the pixels are.
struct Frame {
    u32 columns = 0, rows = 0; // character clocks, scan lines
    u32 dots = 8;              // a character clock's
    u32 stretch = 1;           // pixels a dot
    u32 start = 0, pitch = 0;  // of the address counter
    u32 line_compare = 0;
    u32 scan_lines = 1; // a character row's
    bool doubled = false;
    u32 preset = 0, pan = 0, byte_pan = 0;
    bool pan_stops = false; // below the split
    u32 mask = 0xffff;      // of addresses in a plane
    bool off = false;
};

Frame frame_of(const VgaState &s) noexcept {
    const auto &cr = s.crtc;
    Frame f;
    f.columns = cr[CR_HORIZONTAL_END] + 1u;
    f.rows = vertical(s, cr[CR_VERTICAL_END], 1, 6) + 1;
    if (cr[CR_MODE] & 0x04) // the vertical counter counts every second line
        f.rows *= 2;
    f.dots = s.graphics_mode() || (s.sequencer[SR_CLOCKING] & SR1_EIGHT_DOTS) ? 8 : 9;
    f.stretch = s.sequencer[SR_CLOCKING] & SR1_HALF_CLOCK ? 2 : 1;
    f.start = cr[CR_START_HIGH] << 8u | cr[CR_START_LOW];
    f.pitch = cr[CR_OFFSET] * 2u;
    f.line_compare = vertical(s, cr[CR_LINE_COMPARE], 4, 31) | (cr[CR_MAX_SCAN] >> 6 & 1u) << 9;
    f.scan_lines = (cr[CR_MAX_SCAN] & 31) + 1u;
    f.doubled = cr[CR_MAX_SCAN] & 0x80;
    f.preset = cr[CR_PRESET_ROW] & 31;
    f.byte_pan = cr[CR_PRESET_ROW] >> 5 & 3;
    f.pan = s.attribute[AR_PANNING] & 15;
    f.pan_stops = s.attribute[AR_MODE] & 0x20;
    f.off = (s.sequencer[SR_CLOCKING] & SR1_SCREEN_OFF) || !(cr[CR_MODE] & 0x80) ||
            !(s.attribute_index & AR_INDEX_DISPLAY) || f.columns < 8 || f.rows < 8;
    return f;
}

// One scan line after another: where the address counter and the row counter are.
class Beam {
public:
    explicit Beam(const Frame &f) noexcept
        : f_(f), counter_(f.start + f.byte_pan), scan_(f.preset), pan_(f.pan) {}
    u32 counter() const noexcept { return counter_; }
    u32 scan() const noexcept { return scan_; }
    u32 pan() const noexcept { return pan_; }
    u32 row() const noexcept { return row_; }
    void next() noexcept {
        if (y_++ == f_.line_compare) { // the split: from the start of memory
            counter_ = scan_ = 0;
            second_ = false;
            ++row_;
            if (f_.pan_stops)
                pan_ = 8; // none, whether a cell has eight dots or nine
            return;
        }
        if (f_.doubled && (second_ = !second_))
            return;
        if (++scan_ >= f_.scan_lines) {
            scan_ = 0;
            counter_ += f_.pitch;
            ++row_;
        }
    }

private:
    const Frame &f_;
    u32 counter_, scan_, pan_, y_ = 0, row_ = 0;
    bool second_ = false;
};

// The address counter as the plane's address (CR14, CR17).
u32 address_of(const VgaState &s, u32 counter, u32 scan, u32 mask) noexcept {
    const u8 mode = s.crtc[CR_MODE];
    u32 at = counter;
    if (s.crtc[CR_UNDERLINE] & 0x40) {
        if (!s.chain_4()) // chain-4 fills every double word here, see vga.h
            at = counter << 2 | (counter >> 14 & 3);
    } else if (!(mode & 0x40)) {
        at = counter << 1 | (counter >> (mode & 0x20 ? 15 : 13) & 1);
    }
    if (!(mode & 0x01))
        at = (at & ~0x2000u) | (scan & 1) << 13;
    if (!(mode & 0x02))
        at = (at & ~0x4000u) | (scan >> 1 & 1) << 14;
    return at & mask;
}

// -------------------------------------------------------------------------------------------- text

// Where in plane 2 the two character sets begin (SR3).
u32 font_at(unsigned select) noexcept {
    return (select & 3) * 0x4000u + (select & 4 ? 0x2000u : 0);
}

struct TextStyle {
    explicit TextStyle(const VgaState &s, Time now) noexcept
        : colour(colours_of(s)), line_graphics(s.attribute[AR_MODE] & 0x04),
          blinking(s.attribute[AR_MODE] & 0x08) {
        const u8 map = s.sequencer[SR_CHARACTER_MAP];
        font[0] = font_at((map & 3u) | (map >> 2 & 4u));
        font[1] = font_at((map >> 2 & 3u) | (map >> 3 & 4u));
        underline = s.crtc[CR_UNDERLINE] & 31;
        cursor_first = s.crtc[CR_CURSOR_START] & 31;
        cursor_last = s.crtc[CR_CURSOR_END] & 31;
        cursor_at = (s.crtc[CR_CURSOR_HIGH] << 8u | s.crtc[CR_CURSOR_LOW]) +
                    (s.crtc[CR_CURSOR_END] >> 5 & 3u);
        const u64 phase = vga_blink(s, now);
        cursor_on = !(s.crtc[CR_CURSOR_START] & 0x20) && !(phase & 1);
        blink_off = phase & 2;
    }
    std::array<u32, 16> colour;
    u32 font[2]{};
    bool line_graphics, blinking, cursor_on = false, blink_off = false;
    u32 underline = 0, cursor_first = 0, cursor_last = 0, cursor_at = 0;
};

// Nine pixels of a cell's scan line, the leftmost in bit 8.
u32 glyph_bits(const TextStyle &style, Memory memory, u8 character, u8 attribute,
               u32 scan) noexcept {
    const u32 font = style.font[attribute >> 3 & 1];
    const u32 bits = double_word(memory, font + character * 32u + scan) >> 16 & 0xff;
    const bool joins = style.line_graphics && (character & 0xe0) == 0xc0;
    u32 out = bits << 1 | (joins ? bits & 1 : 0);
    if (scan == style.underline && (attribute & 7) == 1)
        out = 0x1ff;
    return out;
}

void text_line(const VgaState &s, const Frame &f, const TextStyle &style, Memory memory,
               const Beam &beam, std::span<u32> line) noexcept {
    // With nine dots, panning by 8 is none, and 0 is one dot.
    const u32 shift = f.dots == 9 ? (beam.pan() >= 8 ? 0 : beam.pan() + 1) : beam.pan() & 7;
    const u32 cells = f.columns + (shift ? 1 : 0);
    std::size_t x = 0;
    for (u32 cell = 0; cell < cells; ++cell) {
        const u32 counter = beam.counter() + cell;
        const u32 data = double_word(memory, address_of(s, counter, beam.scan(), f.mask));
        const u8 character = static_cast<u8>(data), attribute = static_cast<u8>(data >> 8);
        u32 bits = glyph_bits(style, memory, character, attribute, beam.scan());
        const bool blinks = style.blinking && (attribute & 0x80);
        if (blinks && style.blink_off)
            bits = 0;
        if (style.cursor_on && (counter & 0xffff) == style.cursor_at &&
            beam.scan() >= style.cursor_first && beam.scan() <= style.cursor_last)
            bits = 0x1ff;
        const u32 ink = style.colour[attribute & 15];
        const u32 paper = style.colour[attribute >> 4 & (style.blinking ? 7 : 15)];
        for (u32 dot = cell ? 0 : shift; dot < f.dots; ++dot)
            for (u32 n = 0; n < f.stretch && x < line.size(); ++n)
                line[x++] = bits >> (8 - dot) & 1 ? ink : paper;
    }
}

// ---------------------------------------------------------------------------------------- graphics

struct Colours {
    explicit Colours(const VgaState &s) noexcept : sixteen(colours_of(s)), all(palette_of(s)) {}
    std::array<u32, 16> sixteen;
    Palette all;
};

// Eight four-bit pixels of a double word, the leftmost first.
std::array<u8, 8> pixels_of(u32 data, bool cga) noexcept {
    std::array<u8, 8> out{};
    for (unsigned i = 0; i < 8; ++i) {
        if (cga) { // two bits at a time from planes 0 and 2, then from 1 and 3
            const unsigned shift = 6 - 2 * (i & 3) + (i & 4 ? 8 : 0);
            out[i] = static_cast<u8>((data >> shift & 3) | (data >> (shift + 16) & 3) << 2);
            continue;
        }
        const unsigned shift = 7 - i;
        out[i] = static_cast<u8>((data >> shift & 1) | (data >> (shift + 7) & 2) |
                                 (data >> (shift + 14) & 4) | (data >> (shift + 21) & 8));
    }
    return out;
}

void graphics_line(const VgaState &s, const Frame &f, const Colours &colours, Memory memory,
                   const Beam &beam, std::span<u32> line) noexcept {
    const u8 mode = s.graphics[GR_MODE];
    const bool bytes = mode & GR5_SHIFT_256;
    // With 256 colours a pixel is two dots, and panning counts half pixels.
    const u32 shift = bytes ? beam.pan() & 6 : beam.pan() & 7;
    const u32 cells = f.columns + (shift ? 1 : 0);
    std::size_t x = 0;
    for (u32 cell = 0; cell < cells; ++cell) {
        const u32 data =
            double_word(memory, address_of(s, beam.counter() + cell, beam.scan(), f.mask));
        std::array<u32, 8> dots{};
        if (bytes) {
            for (unsigned i = 0; i < 8; ++i)
                dots[i] = colours.all[data >> 8 * (i / 2) & 0xff];
        } else {
            const auto pixels = pixels_of(data, mode & GR5_CGA_SHIFT);
            for (unsigned i = 0; i < 8; ++i)
                dots[i] = colours.sixteen[pixels[i]];
        }
        for (u32 dot = cell ? 0 : shift; dot < 8; ++dot)
            for (u32 n = 0; n < f.stretch && x < line.size(); ++n)
                line[x++] = dots[dot];
    }
}

// --------------------------------------------------------------------------------------------- VBE

// In VBE modes, whose timing is not the CRTC's.
bool switched_off(const VgaState &s) noexcept {
    return !(s.attribute_index & AR_INDEX_DISPLAY) || (s.sequencer[SR_CLOCKING] & SR1_SCREEN_OFF);
}

void planar_vbe(const VgaState &s, const VbeMode &mode, Memory memory, ui::Surface &out) noexcept {
    const auto colour = colours_of(s);
    for (u32 y = 0; y < mode.height; ++y) {
        const auto line = out.row(y);
        for (u32 x = 0; x < mode.width; x += 8) {
            const auto pixels =
                pixels_of(double_word(memory, mode.start + y * mode.pitch + x / 8), false);
            for (u32 i = 0; i < 8 && x + i < mode.width; ++i)
                line[x + i] = colour[pixels[i]];
        }
    }
}

u32 from_5_6_5(u32 v) noexcept {
    const u32 r = v >> 11 & 31, g = v >> 5 & 63, b = v & 31;
    return (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | (b << 3 | b >> 2);
}
u32 from_5_5_5(u32 v) noexcept {
    const u32 r = v >> 10 & 31, g = v >> 5 & 31, b = v & 31;
    return (r << 3 | r >> 2) << 16 | (g << 3 | g >> 2) << 8 | (b << 3 | b >> 2);
}

void vbe_line(const VbeMode &mode, const Palette &palette, const u8 *from,
              std::span<u32> line) noexcept {
    switch (mode.bits) {
    case 8:
        for (u32 &pixel : line)
            pixel = palette[*from++];
        break;
    case 15:
        for (u32 &pixel : line)
            pixel = from_5_5_5(load_le<u16>(std::exchange(from, from + 2)));
        break;
    case 16:
        for (u32 &pixel : line)
            pixel = from_5_6_5(load_le<u16>(std::exchange(from, from + 2)));
        break;
    case 24:
        for (u32 &pixel : line) {
            pixel = static_cast<u32>(from[2] << 16 | from[1] << 8 | from[0]);
            from += 3;
        }
        break;
    default:
        for (u32 &pixel : line)
            pixel = load_le<u32>(std::exchange(from, from + 4)) & 0xff'ffff;
        break;
    }
}

} // namespace

void render_vbe_rows(const VgaState &s, const VbeMode &mode, Memory memory, u32 first, u32 last,
                     ui::Surface &out) noexcept {
    const Palette palette = palette_of(s);
    const u64 row_bytes = u64{mode.width} * ((mode.bits + 7) / 8);
    for (u32 y = first; y < last; ++y) {
        const u64 at = mode.start + y * mode.pitch;
        if (at + row_bytes <= memory.size() && !switched_off(s))
            vbe_line(mode, palette, &memory[at], out.row(y));
        else
            std::ranges::fill(out.row(y), 0u);
    }
}

std::pair<u32, u32> vbe_rows(const VbeMode &mode, u64 from, u64 to) noexcept {
    const u64 end = mode.start + mode.pitch * mode.height;
    if (to <= mode.start || from >= end)
        return {0, 0};
    const u64 first = from <= mode.start ? 0 : (from - mode.start) / mode.pitch;
    const u64 last = (std::min(to, end) - mode.start + mode.pitch - 1) / mode.pitch;
    return {static_cast<u32>(first), static_cast<u32>(std::min<u64>(last, mode.height))};
}

VgaTiming vga_timing(const VgaState &s) noexcept {
    const Frame f = frame_of(s);
    // Not set up yet: 80x25 characters.
    const bool set_up = s.crtc[CR_HORIZONTAL_TOTAL] && f.columns >= 8 && f.rows >= 8;
    const i64 characters = set_up ? s.crtc[CR_HORIZONTAL_TOTAL] + 5 : 100;
    const i64 lines = set_up ? i64{vertical(s, s.crtc[CR_VERTICAL_TOTAL], 0, 5)} + 2 : 449;
    const i64 khz = (s.misc >> 2 & 3) == 1 ? 28'322 : 25'175;
    const auto ns = [&](i64 clocks) { return clocks * f.dots * f.stretch * 1'000'000 / khz; };
    VgaTiming t;
    t.line_ns = ns(characters);
    t.frame_ns = t.line_ns * lines;
    t.visible_ns = ns(set_up ? std::min<i64>(f.columns, characters) : 80);
    t.visible_lines = set_up ? std::min<i64>(f.rows, lines) : 400;
    // The end is said by four bits.
    t.retrace_start = set_up ? i64{vertical(s, s.crtc[CR_RETRACE_START], 2, 7)} : 412;
    const i64 length = (s.crtc[CR_RETRACE_END] - t.retrace_start) & 15;
    t.retrace_end = t.retrace_start + (length ? length : 2);
    if (t.retrace_start >= lines) { // there would be none: the last two lines
        t.retrace_start = lines - 2;
        t.retrace_end = lines;
    }
    return t;
}

// The cursor is on for 8 frames and off for 8, characters for 16.
u64 vga_blink(const VgaState &s, Time now) noexcept {
    if (s.graphics_mode() || (s.vbe[VBE_ENABLE] & VBE_ENABLED))
        return 0;
    return static_cast<u64>(now / vga_timing(s).frame_ns / 8 & 3);
}

void render_vga(const VgaState &s, Memory memory, Time now, ui::Surface &out) {
    if (const auto mode = vbe_mode(s, memory.size())) {
        out.resize(mode->width, mode->height);
        if (switched_off(s))
            return;
        if (mode->bits == 4)
            planar_vbe(s, *mode, memory, out);
        else
            render_vbe_rows(s, *mode, memory, 0, mode->height, out);
        return;
    }
    const Frame f = frame_of(s);
    if (f.columns < 8 || f.rows < 8) {
        out.resize(640, 480); // not set up
        return;
    }
    out.resize(f.columns * f.dots * f.stretch, f.rows);
    if (f.off)
        return;
    Beam beam(f);
    if (s.graphics_mode()) {
        const Colours colours(s);
        for (u32 y = 0; y < f.rows; ++y, beam.next())
            graphics_line(s, f, colours, memory, beam, out.row(y));
    } else {
        const TextStyle style(s, now);
        for (u32 y = 0; y < f.rows; ++y, beam.next())
            text_line(s, f, style, memory, beam, out.row(y));
    }
}

namespace {

// Code page 437.
constexpr char16_t cp437[] =
    u" ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼ "
    u"!\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]"
    u"^_`abcdefghijklmnopqrstuvwxyz{|}~⌂ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║"
    u"╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ";
static_assert(std::size(cp437) == 257);

void append_utf8(std::string &to, char16_t c) {
    if (c < 0x80) {
        to += static_cast<char>(c);
    } else if (c < 0x800) {
        to += static_cast<char>(0xc0 | c >> 6);
        to += static_cast<char>(0x80 | (c & 0x3f));
    } else {
        to += static_cast<char>(0xe0 | c >> 12);
        to += static_cast<char>(0x80 | (c >> 6 & 0x3f));
        to += static_cast<char>(0x80 | (c & 0x3f));
    }
}

} // namespace

std::vector<std::string> vga_text(const VgaState &s, Memory memory) {
    std::vector<std::string> lines;
    const Frame f = frame_of(s);
    if (s.graphics_mode() || (s.vbe[VBE_ENABLE] & VBE_ENABLED) || f.off)
        return lines;
    Beam beam(f);
    for (u32 y = 0, row = ~0u; y < f.rows; ++y, beam.next()) {
        if (beam.row() == row)
            continue;
        row = beam.row();
        std::string line;
        for (u32 cell = 0; cell < f.columns; ++cell)
            append_utf8(line, cp437[double_word(memory, address_of(s, beam.counter() + cell,
                                                                   beam.scan(), f.mask)) &
                                    0xff]);
        line.resize(line.find_last_not_of(' ') + 1);
        lines.push_back(std::move(line));
    }
    return lines;
}

} // namespace rhea::hw
