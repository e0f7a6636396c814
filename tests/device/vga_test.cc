// Standard VGA: registers, planes, what is on the screen in each kind of mode, VBE, EDID and PCI.
#include "dm/device/bench.h"
#include "hw/display/vga.h"
#include "tests/device/conformance.h"

#include <gtest/gtest.h>
#include <numeric>

namespace rhea::hw {
namespace {

constexpr u64 window = 0xa0000, text_memory = 0xb8000;

struct VgaTest : testing::Test {
    VgaTest() { bench.plug(vga); }

    void sequencer(u8 i, u8 v) { bench.out16(0x3c4, static_cast<u16>(v << 8 | i)); }
    void graphics(u8 i, u8 v) { bench.out16(0x3ce, static_cast<u16>(v << 8 | i)); }
    void crtc(u8 i, u8 v) { bench.out16(0x3d4, static_cast<u16>(v << 8 | i)); }
    void attribute(u8 i, u8 v) {
        bench.in8(0x3da);
        bench.out8(0x3c0, i);
        bench.out8(0x3c0, v);
    }
    void colour(u8 i, u8 r, u8 g, u8 b) {
        bench.out8(0x3c8, i);
        for (const u8 part : {r, g, b})
            bench.out8(0x3c9, part);
    }
    void vbe(u16 i, u16 v) {
        bench.out16(0x1ce, i);
        bench.out16(0x1cf, v);
    }
    u16 vbe(u16 i) {
        bench.out16(0x1ce, i);
        return bench.in16(0x1cf);
    }
    void vbe_mode(u16 x, u16 y, u16 bits, u16 flags = 0x41) {
        vbe(4, 0);
        vbe(1, x);
        vbe(2, y);
        vbe(3, bits);
        vbe(4, flags);
        show();
    }
    void show() {
        bench.in8(0x3da);
        bench.out8(0x3c0, 0x20);
    }
    // What all modes have in common: 640 or 720 dots, `lines` scan lines.
    void timing(u8 misc, u16 lines, u8 max_scan, u8 offset, u8 underline, u8 crtc_mode) {
        bench.out8(0x3c2, misc);
        sequencer(2, 0x0f);
        crtc(0x11, 0x00);
        constexpr u8 horizontal[]{0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81};
        for (u8 i = 0; i < 6; ++i)
            crtc(i, horizontal[i]);
        const unsigned end = lines - 1u;
        crtc(0x06, lines == 480 ? 0x0b : 0xbf);
        crtc(0x07, static_cast<u8>((lines == 480 ? 0x2c : 0x0c) | (end >> 8 & 1) << 1 |
                                   (end >> 9 & 1) << 6 | 0x11));
        crtc(0x09, static_cast<u8>(max_scan | 0x40));
        crtc(0x0a, 0x20);
        crtc(0x10, lines == 480 ? 0xea : 0x9c);
        crtc(0x12, static_cast<u8>(end));
        crtc(0x13, offset);
        crtc(0x14, underline);
        crtc(0x17, crtc_mode);
        crtc(0x18, 0xff);
        for (u8 i = 0; i < 16; ++i) {
            attribute(i, i);
            colour(i, i, 0, 0);
        }
        attribute(0x12, 0x0f);
        graphics(7, 0x0f);
        graphics(8, 0xff);
    }
    void text_mode() {
        timing(0x67, 400, 0x0f, 0x28, 0x1f, 0xa3);
        sequencer(1, 0x00);
        sequencer(4, 0x02);
        graphics(5, 0x10);
        graphics(6, 0x0e);
        attribute(0x10, 0x0c);
        attribute(0x13, 0x08);
        show();
    }
    void planar_mode() { // 12h
        timing(0xe3, 480, 0x00, 0x28, 0x00, 0xe3);
        sequencer(1, 0x01);
        sequencer(4, 0x06);
        graphics(5, 0x00);
        graphics(6, 0x05);
        attribute(0x10, 0x01);
        show();
    }
    void mode_13() {
        timing(0x63, 400, 0x01, 0x28, 0x40, 0xa3);
        sequencer(1, 0x01);
        sequencer(4, 0x0e);
        graphics(5, 0x40);
        graphics(6, 0x05);
        attribute(0x10, 0x41);
        show();
    }
    u8 plane(unsigned n, u64 at) { return vga.memory().host()[at * 4 + n]; }
    static u32 red(u8 six_bits) { return static_cast<u32>(six_bits << 2 | six_bits >> 4) << 16; }

    Bench bench;
    Vga vga{"pci.2.0", Vga::Config{}, bench.address_map, bench.clock};
};

TEST_F(VgaTest, a_screen_that_nobody_set_up_is_black) {
    const auto picture = vga.snapshot();
    EXPECT_EQ(picture.width, 640u);
    EXPECT_EQ(picture.height, 480u);
    for (const u32 pixel : picture.pixels)
        ASSERT_EQ(pixel, 0u);
    EXPECT_TRUE(vga.text().empty());
}

TEST_F(VgaTest, text_is_read_back_and_drawn_with_nine_dots) {
    text_mode();
    // A glyph by way of plane 2, as firmware loads a font: its lowest line has all eight dots.
    for (const unsigned c : {0xc4u, 0x41u})
        vga.memory().host()[(c * 32u + 15) * 4 + 2] = 0xff;
    bench.write16(text_memory, 0x0441);       // A, red 4 on 0
    bench.write16(text_memory + 2, 0x1fc4);   // a line, 15 on 1
    bench.write16(text_memory + 160, 0x0742); // B in the next row
    const auto lines = vga.text();
    ASSERT_EQ(lines.size(), 25u);
    const auto picture = vga.snapshot();
    ASSERT_EQ(picture.width, 720u);
    ASSERT_EQ(picture.height, 400u);
    EXPECT_EQ(picture.row(15)[0], red(4));
    EXPECT_EQ(picture.row(15)[7], red(4));
    EXPECT_EQ(picture.row(15)[8], red(0));   // a letter ends after eight dots
    EXPECT_EQ(picture.row(15)[17], red(15)); // a line goes on
    EXPECT_EQ(picture.row(14)[9], red(1));
    EXPECT_EQ(lines[0].substr(0, 4), "A─");
    EXPECT_EQ(lines[1].substr(0, 1), "B");
}

TEST_F(VgaTest, cursor_blinks_every_eight_frames) {
    text_mode();
    bench.write16(text_memory + 4, 0x0720);
    crtc(0x0a, 14);
    crtc(0x0b, 15);
    crtc(0x0e, 0);
    crtc(0x0f, 2);
    EXPECT_EQ(vga.snapshot().row(14)[18], red(7));
    EXPECT_EQ(vga.snapshot().row(13)[18], red(0));
    bench.clock.advance(8 * 14'300'000);
    EXPECT_EQ(vga.snapshot().row(14)[18], red(0));
}

TEST_F(VgaTest, start_address_scrolls_and_line_compare_splits) {
    text_mode();
    bench.write8(text_memory, 'T');
    bench.write8(text_memory + 160, 'X');
    crtc(0x0d, 80);
    EXPECT_EQ(vga.text()[0].substr(0, 1), "X");
    crtc(0x07, 0x0f); // bit 8 of the line compare is off
    crtc(0x09, 0x0f); // and bit 9
    crtc(0x18, 159);
    EXPECT_EQ(vga.text()[10].substr(0, 1), "T");
}

TEST_F(VgaTest, write_modes_and_read_modes) {
    planar_mode();
    sequencer(2, 0x05);
    bench.write8(window, 0xa5); // mode 0, planes 0 and 2
    EXPECT_EQ(plane(0, 0), 0xa5);
    EXPECT_EQ(plane(1, 0), 0x00);
    EXPECT_EQ(plane(2, 0), 0xa5);
    graphics(4, 2);
    EXPECT_EQ(bench.read8(window), 0xa5);
    graphics(4, 1);
    EXPECT_EQ(bench.read8(window), 0x00);

    sequencer(2, 0x0f);
    graphics(5, 1); // mode 1: the latches
    bench.write8(window + 1, 0xff);
    EXPECT_EQ(plane(2, 1), 0xa5);
    EXPECT_EQ(plane(3, 1), 0x00);

    graphics(5, 2); // mode 2: a colour, through the bit mask
    graphics(8, 0xf0);
    bench.write8(window, 0x0a);
    EXPECT_EQ(plane(0, 0), 0x05);
    EXPECT_EQ(plane(1, 0), 0xf0);
    EXPECT_EQ(plane(3, 0), 0xf0);

    graphics(5, 3); // mode 3: the data masks, set/reset is the colour
    graphics(8, 0xff);
    graphics(0, 0x0f);
    bench.read8(window + 2);
    bench.write8(window + 2, 0x3c);
    EXPECT_EQ(plane(1, 2), 0x3c);

    graphics(5, 0); // rotated by 4, exclusive-or with the latches
    graphics(3, 0x1c);
    bench.read8(window + 2);
    bench.write8(window + 2, 0x0f);
    EXPECT_EQ(plane(0, 2), 0x3c ^ 0xf0);

    graphics(3, 0);
    graphics(1, 0x0f); // all planes from set/reset
    graphics(0, 0x03);
    bench.write8(window + 3, 0x00);
    EXPECT_EQ(plane(1, 3), 0xff);
    EXPECT_EQ(plane(2, 3), 0x00);
    graphics(5, 8); // read mode 1: where the colour is 3
    graphics(2, 0x03);
    EXPECT_EQ(bench.read8(window + 3), 0xff);
    graphics(2, 0x02);
    EXPECT_EQ(bench.read8(window + 3), 0x00);
    graphics(7, 0x02); // only plane 1 counts
    EXPECT_EQ(bench.read8(window + 3), 0xff);
}

TEST_F(VgaTest, planar_pixels_pan_by_dots) {
    planar_mode();
    sequencer(2, 0x0a);
    bench.write8(window + 80, 0x20); // colour 10 at (2, 1)
    auto picture = vga.snapshot();
    EXPECT_EQ(picture.height, 480u);
    EXPECT_EQ(picture.row(1)[2], red(10));
    EXPECT_EQ(picture.row(1)[3], red(0));
    attribute(0x13, 2);
    show();
    picture = vga.snapshot();
    EXPECT_EQ(picture.row(1)[0], red(10));
}

TEST_F(VgaTest, mode_13h_is_linear_and_shown_twice_as_large) {
    mode_13();
    bench.write8(window + 320 * 7 + 5, 9);
    EXPECT_EQ(bench.read8(window + 320 * 7 + 5), 9);
    const auto picture = vga.snapshot();
    EXPECT_EQ(picture.width, 640u);
    EXPECT_EQ(picture.height, 400u);
    for (const u32 y : {14u, 15u})
        for (const u32 x : {10u, 11u})
            EXPECT_EQ(picture.row(y)[x], red(9));
    EXPECT_EQ(picture.row(16)[10], red(0));
    EXPECT_EQ(picture.row(14)[12], red(0));
    // One plane of four: no plain memory any more.
    sequencer(2, 0x01);
    bench.write32(window, 0x04040404);
    EXPECT_EQ(bench.read32(window), 0x00000004u);
}

TEST_F(VgaTest, mode_x_writes_one_plane_at_a_time) {
    mode_13();
    sequencer(4, 0x06);
    crtc(0x14, 0x00);
    crtc(0x17, 0xe3);
    sequencer(2, 0x04);
    bench.write8(window + 1, 12); // x = 1 * 4 + 2
    EXPECT_EQ(vga.snapshot().row(0)[12], red(12));
    EXPECT_EQ(vga.snapshot().row(0)[10], red(0));
}

TEST_F(VgaTest, dac_reads_back_and_counts_on) {
    colour(200, 1, 2, 3);
    bench.out8(0x3c7, 200);
    EXPECT_EQ(bench.in8(0x3c9), 1);
    EXPECT_EQ(bench.in8(0x3c9), 2);
    EXPECT_EQ(bench.in8(0x3c9), 3);
    EXPECT_EQ(bench.in8(0x3c7), 3);
}

TEST_F(VgaTest, retrace_comes_and_goes_with_the_clock) {
    text_mode();
    unsigned rises = 0;
    bool before = false;
    for (unsigned i = 0; i < 10'000; ++i) { // a second
        const bool now = bench.in8(0x3da) & 8;
        rises += now && !before;
        before = now;
        bench.clock.advance(20'000);
    }
    EXPECT_GE(rises, 13u); // 70 Hz for 0.2 s
    EXPECT_LE(rises, 15u);
}

TEST_F(VgaTest, timing_registers_can_be_protected) {
    text_mode();
    crtc(0x11, 0x80);
    crtc(0x01, 0x27);
    bench.out8(0x3d4, 0x01);
    EXPECT_EQ(bench.in8(0x3d5), 0x4f);
    EXPECT_EQ(bench.in8(0x3b5), 0xff); // nothing at the monochrome place
}

TEST_F(VgaTest, vbe_modes_of_every_depth) {
    struct Depth {
        u16 bits;
        u64 value;
        unsigned bytes;
        u32 pixel;
    };
    colour(0x21, 0x3f, 0, 0);
    for (const Depth d : {Depth{8, 0x21, 1, 0xff0000}, Depth{15, 0x7c1f, 2, 0xff00ff},
                          Depth{16, 0x07e0, 2, 0x00ff00}, Depth{24, 0x123456, 3, 0x123456},
                          Depth{32, 0xff123456, 4, 0x123456}}) {
        vbe_mode(800, 600, d.bits);
        u8 *const at = vga.memory().host() + (800 * 3 + 2) * d.bytes;
        for (unsigned i = 0; i < d.bytes; ++i)
            at[i] = static_cast<u8>(d.value >> 8 * i);
        auto picture = vga.snapshot();
        ASSERT_EQ(picture.width, 800u);
        ASSERT_EQ(picture.height, 600u);
        EXPECT_EQ(picture.row(3)[2], d.pixel) << d.bits;
        vbe(8, 2); // panned there
        vbe(9, 3);
        EXPECT_EQ(vga.snapshot().row(0)[0], d.pixel) << d.bits;
    }
}

TEST_F(VgaTest, vbe_banks_virtual_width_and_limits) {
    EXPECT_EQ(vbe(0), 0xb0c5);
    EXPECT_EQ(vbe(10), 256);
    bench.out8(0x3c2, 0x67);
    vbe_mode(640, 480, 32);
    vbe(6, 1024);
    EXPECT_EQ(vbe(7), 4096);
    graphics(6, 0x05);
    vbe(5, 3);
    bench.write32(window + 4, 0x00abcdef);
    EXPECT_EQ(vga.snapshot().row(0x30004 / 4096)[1], 0xabcdefu);
    vbe(4, 0x02);
    EXPECT_EQ(vbe(3), 32);
    EXPECT_GE(vbe(1), 1600);
}

TEST_F(VgaTest, vbe_mode_that_does_not_fit_is_cut) {
    vbe_mode(4096, 4096, 32);
    const auto picture = vga.snapshot();
    EXPECT_EQ(picture.width, 4096u);
    EXPECT_EQ(picture.height, 1024u);
    vbe(9, 0xffff); // beyond the end of memory: black, nothing else
    EXPECT_EQ(vga.snapshot().row(1023)[0], 0u);
}

TEST_F(VgaTest, edid_has_its_header_and_checksum) {
    const u64 mmio = bench.at(5);
    EXPECT_EQ(bench.read64(mmio), 0x00ffffffffffff00u);
    unsigned sum = 0;
    for (unsigned i = 0; i < 128; ++i)
        sum += bench.read8(mmio + i);
    EXPECT_EQ(sum & 0xff, 0u);
    EXPECT_EQ(bench.read8(mmio + 56) | (bench.read8(mmio + 58) & 0xf0) << 4, 1280);
    EXPECT_EQ(bench.read16(mmio + 0x500), 0xb0c5);
}

TEST_F(VgaTest, frame_buffer_is_a_bar_and_its_changes_are_followed) {
    vbe_mode(640, 480, 32);
    bench.cpu.write(Space::pci_config, pci::config_base(2, 0) + 0x10, 4, 0xfd000000);
    bench.cpu.write(Space::pci_config, pci::config_base(2, 0) + 0x04, 2, 2);
    ui::Surface picture;
    const auto first = vga.update(picture);
    EXPECT_EQ(first, (std::vector<ui::Rect>{{0, 0, 640, 480}}));
    EXPECT_TRUE(vga.update(picture).empty());
    bench.write32(0xfd000000 + 640 * 4 * 100, 0x123456);
    const auto changed = vga.update(picture);
    ASSERT_EQ(changed.size(), 1u);
    EXPECT_LE(changed[0].y, 100u);
    EXPECT_GT(changed[0].y + changed[0].height, 100u);
    EXPECT_LT(changed[0].height, 5u); // a page's worth of rows
    EXPECT_EQ(picture, vga.snapshot());
    EXPECT_TRUE(vga.update(picture).empty());
}

TEST_F(VgaTest, screen_that_is_switched_off_stays_black_when_memory_changes) {
    vbe_mode(640, 480, 32);
    ui::Surface picture;
    sequencer(1, 0x21);
    vga.update(picture);
    const std::array<u8, 4> white{0xff, 0xff, 0xff, 0xff};
    std::copy(white.begin(), white.end(), vga.memory().host());
    vga.memory().written(0, 4);
    vga.update(picture);
    EXPECT_EQ(picture.row(0)[0], 0u);
    sequencer(1, 0x01);
    vga.update(picture);
    EXPECT_EQ(picture.row(0)[0], 0xffffffu);
}

TEST_F(VgaTest, changed_text_is_followed_row_by_row) {
    text_mode();
    ui::Surface picture;
    vga.update(picture);
    for (unsigned i = 0; i < 16; ++i)
        vga.memory().host()[('#' * 32u + i) * 4 + 2] = 0x55;
    bench.write16(text_memory + 160 * 3, 0x0700 | '#');
    const auto changed = vga.update(picture);
    EXPECT_EQ(changed, (std::vector<ui::Rect>{{0, 48, 720, 16}}));
    EXPECT_EQ(picture, vga.snapshot());
}

TEST(VgaNoise, whatever_mode_noise_leads_to_can_be_drawn_and_followed) {
    for (unsigned seed = 1; seed <= 40; ++seed) {
        Bench bench{1 << 20};
        Vga vga("vga", Vga::Config{}, bench.address_map, bench.clock);
        bench.plug(vga);
        ui::Surface followed;
        for (unsigned part = 0; part < 2; ++part) {
            conformance::run_script(bench, vga, conformance::noise(seed * 2 + part, 6000));
            bench.in8(0x3da);
            bench.out8(0x3c0, 0x20); // the screen on, else most are black
            bench.out16(0x3c4, 0x0101);
            vga.update(followed);
            vga.text();
            ASSERT_FALSE(followed.pixels.empty());
            ASSERT_EQ(followed, vga.snapshot()) << seed;
        }
    }
}

TEST(VgaRom, expansion_rom_shows_where_it_is_put_while_it_is_enabled) {
    Bench bench;
    Vga vga("vga", Vga::Config{.rom = {0x55, 0xaa, 0x01}}, bench.address_map, bench.clock);
    bench.plug(vga);
    const u64 config = pci::config_base(2, 0);
    bench.cpu.write(Space::pci_config, config + 0x30, 4, 0xffffffff);
    EXPECT_EQ(bench.cpu.read(Space::pci_config, config + 0x30, 4), 0xfffff001u);
    bench.cpu.write(Space::pci_config, config + 0x30, 4, 0xfeb00001);
    EXPECT_EQ(bench.read16(0xfeb00000), 0xffff);
    bench.cpu.write(Space::pci_config, config + 0x04, 2, 2);
    EXPECT_EQ(bench.read32(0xfeb00000), 0xff01aa55u);
    bench.write8(0xfeb00000, 0);
    EXPECT_EQ(bench.read8(0xfeb00000), 0x55);
}

} // namespace
} // namespace rhea::hw
