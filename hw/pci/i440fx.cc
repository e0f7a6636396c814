#include "hw/pci/i440fx.h"

#include "dm/core/bits.h"
#include "dm/core/endian.h"

namespace rhea::hw {

namespace {

enum : u8 { PAM0 = 0x59, SMRAM = 0x72 };
constexpr u8 PAM_READ = 1, PAM_WRITE = 2;
constexpr u8 SMRAM_BASE = 0x02, SMRAM_ENABLE = 0x08, SMRAM_LOCK = 0x10, SMRAM_CLOSED = 0x20,
             SMRAM_OPEN = 0x40;

constexpr u64 first_segment = 0xc'0000, last_segment = 0xf'0000;
constexpr u64 rom_window = 0xe'0000, rom_window_size = 0x2'0000;
// Above RAM and below what PCI functions map themselves.
constexpr int priority = 1;

constexpr PciIdentity identity{.vendor = 0x8086,
                               .device = 0x1237,
                               .class_code = 0x06'00'00,
                               .revision = 2,
                               .command = pci::COMMAND_MEMORY | pci::COMMAND_MASTER,
                               .command_writable = pci::COMMAND_SERR,
                               .status = 0x0280};

} // namespace

I440fx::I440fx(std::string name, AddressMap &map, std::shared_ptr<RamRegion> ram,
               std::shared_ptr<RamRegion> rom)
    : StateDevice(std::move(name)), ram_(std::move(ram)),
      config_(*this, "i440fx", s, identity), windows_{Window{"config", Space::pci_config,
                                                             pci::config_base(0, 0), 0x1000,
                                                             &config_}} {
    config_.allow(0x0d, 0xf8, 1);                   // latency timer
    config_.allow(0x50, 0xffff, 2);                 // PMC configuration
    config_.allow(PAM0, 0x33'33'33'33'33'33'30, 7); // PAM0: only its high half exists
    config_.allow(0x60, 0xffff'ffff'ffff'ffff, 8);  // DRAM row boundaries
    config_.set_byte(SMRAM, SMRAM_BASE);
    config_.allow(SMRAM, SMRAM_ENABLE | SMRAM_LOCK | SMRAM_CLOSED | SMRAM_OPEN, 1);
    for (unsigned n = 0; n < segments; ++n) {
        Segment &seg = segments_[n];
        const u64 base = n == segments - 1 ? last_segment : first_segment + n * 0x4000u;
        const u64 size = n == segments - 1 ? 0x1'0000 : 0x4000;
        seg.ram = map.map_ram(base, ram_, base, size, priority, false);
        if (base < rom_window) {
            seg.shadow = std::make_unique<Shadow>(*this, base);
            seg.through = map.map(Space::memory, base, size, *seg.shadow, priority, false);
            continue;
        }
        const u64 offset = rom->size() - rom_window_size + (base - rom_window);
        seg.shadow = std::make_unique<Shadow>(*this, base - offset);
        seg.bus = map.map_rom(base, rom, offset, size, priority, true);
        seg.through = map.map_rom(base, rom, offset, size, priority, false, seg.shadow.get());
    }
    smram_ = map.map_ram(0xa'0000, ram_, 0xa'0000, 0x2'0000, priority + 2, false);
}

// PAM0 holds F0000h in its high half; PAM1 to PAM6 two segments each.
u8 I440fx::attributes(unsigned segment) const noexcept {
    const u8 pam = segment == segments - 1 ? config_.byte(PAM0)
                                           : config_.byte(static_cast<u8>(PAM0 + 1 + segment / 2));
    const bool high = segment == segments - 1 || (segment & 1);
    return (high ? pam >> 4 : pam) & (PAM_READ | PAM_WRITE);
}

void I440fx::settle() noexcept {
    config_.settle();
    for (unsigned n = 0; n < segments; ++n) {
        Segment &seg = segments_[n];
        const u8 now = attributes(n);
        if (now == seg.attributes)
            continue;
        seg.attributes = now;
        const bool reads_ram = now & PAM_READ;
        // First what will show, then what goes: no moment with nothing there.
        if (reads_ram) {
            seg.ram.set_writable(now & PAM_WRITE);
            seg.ram.show(true);
        }
        seg.through.show(now == PAM_WRITE);
        seg.bus.show(now == 0);
        if (!reads_ram)
            seg.ram.show(false);
    }
    const u8 smram = config_.byte(SMRAM);
    if (smram & SMRAM_LOCK) // from here on it can only be closed
        config_.allow(SMRAM, SMRAM_CLOSED, 1);
    else
        config_.allow(SMRAM, SMRAM_ENABLE | SMRAM_LOCK | SMRAM_CLOSED | SMRAM_OPEN, 1);
    const bool open =
        (smram & SMRAM_ENABLE) && (smram & SMRAM_OPEN) && !(smram & (SMRAM_CLOSED | SMRAM_LOCK));
    if (open != smram_shown_) {
        smram_.show(open);
        smram_shown_ = open;
    }
}

void I440fx::open_shadow() noexcept {
    enter([this] {
        s.bytes[PAM0] = 0x30;
        for (u8 at = PAM0 + 1; at <= PAM0 + 6; ++at)
            s.bytes[at] = 0x33;
    });
}

u64 I440fx::Shadow::read(u64, unsigned size) noexcept {
    return size_mask(size);
}

void I440fx::Shadow::write(u64 at, unsigned size, u64 value) noexcept {
    store_le(ram_.host() + origin_ + at, size, value);
    ram_.written(origin_ + at, size);
}

} // namespace rhea::hw
