#include "hw/display/vga.h"

#include "dm/core/config_error.h"
#include "hw/display/vga_render.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace rhea::hw {

using namespace vga;

namespace {

constexpr PciIdentity identity{.vendor = 0x1234,
                               .device = 0x1111,
                               .class_code = 0x03'00'00,
                               .revision = 2,
                               .command_writable = pci::COMMAND_IO | pci::COMMAND_MEMORY};

std::shared_ptr<RamRegion> make_region(const std::string &name, u64 size) {
    auto made = RamRegion::create(name, size);
    if (!made)
        throw ConfigError("video memory of " + std::to_string(size >> 10) +
                          " KiB cannot be had: " + to_string(made.error()));
    return std::move(*made);
}

std::shared_ptr<RamRegion> make_video_memory(const std::string &name, u64 size) {
    if (!std::has_single_bit(size) || size < u64{1} << 20 || size > u64{256} << 20)
        throw ConfigError("vgamem_mb: 1, 2, 4 and so on up to 256 are possible");
    return make_region(name + " memory", size);
}

} // namespace

// Follows video memory for update(); and what the picture was drawn from.
class Vga::Watch {
public:
    explicit Watch(Vga &vga) : log(vga.map_, vga.vram_, PageWatch::display) {}
    DirtyLog log;
    u64 changes = 0;
    u64 blink = 0;
};

Vga::Vga(std::string name, const Config &config, AddressMap &map, Clock &clock)
    : StateDevice(std::move(name)), clock_(clock), map_(map),
      vram_(make_video_memory(this->name(), config.memory)),
      edid_(make_edid(config.width, config.height)),
      config_(*this, "VGA configuration", s.config, identity),
      ports_3b_(*this, "VGA ports 3B0h", {.max_size = 1}),
      ports_3c_(*this, "VGA ports 3C0h", {.max_size = 1}),
      vbe_ports_(*this, "VBE ports", {.max_size = 2, .unaligned = true}),
      legacy_(*this, "VGA memory", {.max_size = 8, .unaligned = true}),
      mmio_(*this, "VGA registers", {.max_size = 4}),
      direct_(map.map_ram(0xa'0000, vram_, 0, 0x1'0000, /*priority=*/2, /*shown=*/false)),
      windows_{
          Window{"config", Space::pci_config, pci::config_base(config.slot, 0), 0x1000, &config_},
          Window{"ports 3B0h", Space::port, 0x3b0, 0x0c, &ports_3b_},
          Window{"ports 3C0h", Space::port, 0x3c0, 0x20, &ports_3c_},
          Window{"VBE ports", Space::port, 0x1ce, 3, &vbe_ports_},
          Window{"memory", Space::memory, 0xa'0000, 0x2'0000, &legacy_},
          Window{"registers", Space::memory, Window::unplaced, 0x1000, &mmio_}} {
    config_.add_ram_bar(map, 0, BarKind::prefetchable, vram_);
    config_.add_bar(map, 2, BarKind::memory, 0x1000, mmio_);
    if (!config.rom.empty()) {
        const u64 size = std::max<u64>(std::bit_ceil(config.rom.size()), page_size);
        if (size > u64{16} << 20)
            throw ConfigError("romfile: an image of " + std::to_string(config.rom.size()) +
                              " bytes is too large");
        auto image = make_region(this->name() + " ROM", size);
        std::memset(image->host(), 0xff, size);
        std::ranges::copy(config.rom, image->host());
        config_.add_rom(map, std::move(image));
    }
}

Vga::~Vga() = default;

// Video memory stays as it is, as it does on a card.
void Vga::on_reset() noexcept {
    s = VgaState{};
    config_.reset();
    ++changes_;
}

void Vga::settle() noexcept {
    config_.settle();
    if (const bool direct = plain_chain_4(); direct != direct_shown_) {
        direct_.show(direct);
        direct_shown_ = direct;
    }
}

// ------------------------------------------------------------------------------------ saved state

namespace {

// Pages of video memory that are not all zero.
struct SavedPage {
    u32 number = 0;
    std::string bytes;
    static constexpr auto fields() {
        return describe<SavedPage>(Field<&SavedPage::number>{},
                                   Field<&SavedPage::bytes>{.max = page_size});
    }
};

std::vector<SavedPage> pages_of(const RamRegion &ram) {
    std::vector<SavedPage> pages;
    const auto size = static_cast<off_t>(ram.size());
    // Holes of the memfd have never been touched; what is no hole is looked at.
    for (off_t at = ::lseek(ram.fd(), 0, SEEK_DATA); at >= 0 && at < size;) {
        off_t hole = ::lseek(ram.fd(), at, SEEK_HOLE);
        if (hole < 0 || hole > size)
            hole = size;
        for (u64 page = static_cast<u64>(at) / page_size; page < static_cast<u64>(hole) / page_size;
             ++page) {
            const u8 *const p = ram.host() + page * page_size;
            if (std::any_of(p, p + page_size, [](u8 b) { return b != 0; }))
                pages.push_back({static_cast<u32>(page),
                                 std::string(reinterpret_cast<const char *>(p), page_size)});
        }
        at = ::lseek(ram.fd(), hole, SEEK_DATA);
    }
    return pages;
}

} // namespace

void Vga::save_fields(state::FieldWriter &out) const {
    StateDevice::save_fields(out);
    out.field("pages", pages_of(*vram_));
}

void Vga::load_fields(state::FieldReader &in) {
    std::vector<SavedPage> pages;
    in.field("pages", pages, 1, vram_->pages());
    for (const SavedPage &page : pages)
        if (page.number >= vram_->pages() || page.bytes.size() != page_size)
            in.fail("a page that video memory does not have");
    StateDevice::load_fields(in); // ends with finish()
    if (in.failed())
        return;
    if (::fallocate(vram_->fd(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                    static_cast<off_t>(vram_->size())) != 0)
        std::memset(vram_->host(), 0, vram_->size());
    for (const SavedPage &page : pages)
        std::memcpy(vram_->host() + page.number * page_size, page.bytes.data(), page_size);
    vram_->written(0, vram_->size());
}

// ------------------------------------------------------------------------------------------ ports

u64 Vga::read_ports_3b(u64 at, unsigned) noexcept {
    return read_register(static_cast<u16>(0x3b0 + at));
}
void Vga::write_ports_3b(u64 at, unsigned, u64 value) noexcept {
    write_register(static_cast<u16>(0x3b0 + at), static_cast<u8>(value));
}
u64 Vga::read_ports_3c(u64 at, unsigned) noexcept {
    return read_register(static_cast<u16>(0x3c0 + at));
}
void Vga::write_ports_3c(u64 at, unsigned, u64 value) noexcept {
    write_register(static_cast<u16>(0x3c0 + at), static_cast<u8>(value));
}

namespace {
// Which of the two places the CRTC is at: 3Bxh (monochrome) or 3Dxh.
bool is_crtc_port(u16 port) noexcept {
    return (port >= 0x3b0 && port <= 0x3bf) || (port >= 0x3d0 && port <= 0x3df);
}
} // namespace

u8 Vga::read_register(u16 port) noexcept {
    if (is_crtc_port(port)) {
        if ((port >= 0x3d0) != bool(s.misc & MISC_COLOR))
            return 0xff;
        switch (port & 15) {
        case 0x4: return s.crtc_index;
        case 0x5: return s.crtc_index < s.crtc.size() ? s.crtc[s.crtc_index] : u8{0xff};
        case 0xa: return input_status();
        default: return 0xff;
        }
    }
    switch (port) {
    case 0x3c0: return s.attribute_index;
    case 0x3c1: return s.attribute[s.attribute_index & 31];
    case 0x3c2: return 0x10; // a colour monitor is connected
    case 0x3c3: return s.enable;
    case 0x3c4: return s.sequencer_index;
    case 0x3c5: return s.sequencer[s.sequencer_index & 7];
    case 0x3c6: return s.dac_mask;
    case 0x3c7: return s.dac_reading ? 3 : 0;
    case 0x3c8: return s.dac_write;
    case 0x3c9: return read_dac();
    case 0x3ca: return s.feature;
    case 0x3cc: return s.misc;
    case 0x3ce: return s.graphics_index;
    case 0x3cf: return s.graphics[s.graphics_index & 15];
    default: return 0xff;
    }
}

void Vga::write_register(u16 port, u8 value) noexcept {
    if (is_crtc_port(port)) {
        if ((port >= 0x3d0) != bool(s.misc & MISC_COLOR))
            return;
        switch (port & 15) {
        case 0x4: s.crtc_index = value; break;
        case 0x5: write_crtc(value); break;
        case 0xa: s.feature = value & 0x0b; break;
        default: break;
        }
        return;
    }
    switch (port) {
    case 0x3c0: write_attribute(value); break;
    case 0x3c2:
        s.misc = value & 0xef;
        ++changes_;
        break;
    case 0x3c3: s.enable = value & 1; break;
    case 0x3c4: s.sequencer_index = value & 7; break;
    case 0x3c5: write_sequencer(value); break;
    case 0x3c6:
        s.dac_mask = value;
        ++changes_;
        break;
    case 0x3c7:
        s.dac_read = value;
        s.dac_part = 0;
        s.dac_reading = true;
        break;
    case 0x3c8:
        s.dac_write = value;
        s.dac_part = 0;
        s.dac_reading = false;
        break;
    case 0x3c9: write_dac(value); break;
    case 0x3ce: s.graphics_index = value & 15; break;
    case 0x3cf: write_graphics(value); break;
    default: break;
    }
}

void Vga::write_sequencer(u8 value) noexcept {
    static constexpr u8 exists[8]{0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0, 0, 0};
    s.sequencer[s.sequencer_index & 7] = value & exists[s.sequencer_index & 7];
    ++changes_;
}

void Vga::write_graphics(u8 value) noexcept {
    static constexpr u8 exists[16]{0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
    u8 &reg = s.graphics[s.graphics_index & 15];
    const u8 before = reg;
    reg = value & exists[s.graphics_index & 15];
    const unsigned i = s.graphics_index & 15;
    changes_ += (i == GR_MODE || i == GR_MISC) && reg != before;
}

void Vga::write_crtc(u8 value) noexcept {
    if (s.crtc_index >= s.crtc.size())
        return;
    u8 &reg = s.crtc[s.crtc_index];
    // The protect bit keeps the timing, but for the line compare bit.
    if (s.crtc_index <= CR_OVERFLOW && (s.crtc[CR_RETRACE_END] & 0x80)) {
        if (s.crtc_index != CR_OVERFLOW)
            return;
        value = static_cast<u8>((reg & ~0x10) | (value & 0x10));
    }
    reg = value;
    ++changes_;
}

// One port for index and data, in turn; a read of input status 1 starts with the index.
void Vga::write_attribute(u8 value) noexcept {
    static constexpr u8 exists[32]{0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                   0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};
    const bool data = s.attribute_data;
    s.attribute_data = !data;
    ++changes_;
    if (!data) {
        s.attribute_index = value & 0x3f;
        return;
    }
    const unsigned i = s.attribute_index & 31;
    if (i < 16 && (s.attribute_index & AR_INDEX_DISPLAY))
        return; // the display has the palette
    s.attribute[i] = value & exists[i];
}

u8 Vga::read_dac() noexcept {
    const u8 value = s.palette[s.dac_read * 3u + s.dac_part];
    if (++s.dac_part == 3) {
        s.dac_part = 0;
        ++s.dac_read;
    }
    return value;
}

// A colour is taken when its third part has come.
void Vga::write_dac(u8 value) noexcept {
    if (!s.dac_is_8_bit())
        value &= 0x3f;
    if (s.dac_part < 2) {
        s.dac_latch[s.dac_part++] = value;
        return;
    }
    u8 *const entry = &s.palette[s.dac_write * 3u];
    entry[0] = s.dac_latch[0];
    entry[1] = s.dac_latch[1];
    entry[2] = value;
    s.dac_part = 0;
    ++s.dac_write;
    ++changes_;
}

// Input status 1 by the beam's place, as the clock and the CRTC's totals say.
u8 Vga::input_status() noexcept {
    s.attribute_data = false;
    const VgaTiming t = vga_timing(s);
    const i64 in_frame = clock_.now() % t.frame_ns;
    const i64 line = in_frame / t.line_ns, in_line = in_frame % t.line_ns;
    const bool retrace = line >= t.retrace_start && line < t.retrace_end;
    const bool off = line >= t.visible_lines || in_line >= t.visible_ns;
    return static_cast<u8>((off ? 0x01 : 0) | (retrace ? 0x08 : 0));
}

// ---------------------------------------------------------------------------------------- console

ui::Surface Vga::snapshot() {
    ui::Surface out;
    std::lock_guard guard(*this);
    render_vga(s, vram_->bytes(), clock_.now(), out);
    return out;
}

std::vector<std::string> Vga::text() {
    std::lock_guard guard(*this);
    return vga_text(s, vram_->bytes());
}

std::vector<ui::Rect> Vga::update(ui::Surface &surface) {
    if (!watch_)
        watch_ = std::make_unique<Watch>(*this);
    // Looking waits for the vCPUs: before the lock is taken.
    const auto pages = watch_->log.take_pages();
    ui::Surface now;
    {
        std::lock_guard guard(*this);
        const u64 blink = vga_blink(s, clock_.now());
        if (!surface.pixels.empty() && pages.empty() && watch_->changes == changes_ &&
            watch_->blink == blink)
            return {};
        const auto mode = vbe_mode(s, vram_->size());
        if (mode && mode->bits >= 8 && watch_->changes == changes_ &&
            surface.width == mode->width && surface.height == mode->height) {
            std::vector<ui::Rect> changed;
            for (const PageRun &run : pages) {
                const auto [first, last] =
                    vbe_rows(*mode, run.first * page_size, (run.first + run.count) * page_size);
                if (first >= last)
                    continue;
                render_vbe_rows(s, *mode, vram_->bytes(), first, last, surface);
                changed.push_back({0, first, mode->width, last - first});
            }
            return changed;
        }
        render_vga(s, vram_->bytes(), clock_.now(), now);
        watch_->changes = changes_;
        watch_->blink = blink;
    }
    std::vector<ui::Rect> changed;
    if (now.width != surface.width || now.height != surface.height) {
        changed.push_back({0, 0, now.width, now.height});
    } else {
        for (u32 y = 0; y < now.height; ++y) {
            if (std::ranges::equal(now.row(y), surface.row(y)))
                continue;
            if (!changed.empty() && changed.back().y + changed.back().height == y)
                ++changed.back().height;
            else
                changed.push_back({0, y, now.width, 1});
        }
    }
    surface = std::move(now);
    return changed;
}

} // namespace rhea::hw
