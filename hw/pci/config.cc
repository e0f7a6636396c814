#include "hw/pci/config.h"

#include "dm/core/bits.h"
#include "dm/core/endian.h"

namespace rhea::hw {

namespace {
constexpr u32 ROM_ENABLE = 1;
}

PciConfig::PciConfig(Owner &device, const char *name, PciConfigState &state,
                     const PciIdentity &identity, Callback wrote)
    : Target(device, name, {.max_size = 4}), state_(state), wrote_(wrote) {
    store_le<u16>(&reset_[pci::VENDOR_ID], identity.vendor);
    store_le<u16>(&reset_[pci::DEVICE_ID], identity.device);
    store_le<u16>(&reset_[pci::COMMAND], identity.command);
    store_le<u16>(&reset_[pci::STATUS], identity.status);
    store_le<u32>(&reset_[pci::REVISION], identity.class_code << 8 | identity.revision);
    reset_[pci::HEADER_TYPE] = identity.header_type;
    store_le<u16>(&reset_[pci::SUBSYSTEM_VENDOR], identity.subsystem_vendor);
    store_le<u16>(&reset_[pci::SUBSYSTEM], identity.subsystem);
    reset_[pci::INTERRUPT_PIN] = identity.interrupt_pin;
    allow(pci::COMMAND, identity.command_writable, 2);
    allow_clear(pci::STATUS, 0xf900, 2);
    if (identity.interrupt_pin)
        allow(pci::INTERRUPT_LINE, 0xff, 1);
    state_.bytes = reset_;
}

void PciConfig::set_byte(u8 at, u8 value) noexcept {
    reset_[at] = state_.bytes[at] = value;
}

void PciConfig::allow(u8 at, u64 mask, unsigned size) noexcept {
    for (unsigned i = 0; i < size; ++i)
        writable_[(at + i) & 0xff] = static_cast<u8>(mask >> 8 * i);
}

void PciConfig::allow_clear(u8 at, u64 mask, unsigned size) noexcept {
    for (unsigned i = 0; i < size; ++i)
        clearable_[(at + i) & 0xff] = static_cast<u8>(mask >> 8 * i);
}

void PciConfig::add_bar(AddressMap &map, unsigned n, BarKind kind, u64 size, Target &target) {
    add_bar_register(n, kind, size);
    bars_.at(n).mapping = map.map(kind == BarKind::port ? Space::port : Space::memory, 0, size,
                                  target, /*priority=*/1, /*shown=*/false);
}

void PciConfig::add_ram_bar(AddressMap &map, unsigned n, BarKind kind,
                            std::shared_ptr<RamRegion> ram) {
    add_bar_register(n, kind, ram->size());
    bars_.at(n).mapping = map.map_ram(0, std::move(ram), /*priority=*/1, /*shown=*/false);
}

void PciConfig::add_rom(AddressMap &map, std::shared_ptr<RamRegion> image) {
    rom_.size = image->size();
    allow(pci::ROM, ~(rom_.size - 1) | ROM_ENABLE, 4);
    rom_.mapping = map.map_rom(0, std::move(image), 0, rom_.size, /*priority=*/1, /*shown=*/false);
}

void PciConfig::add_bar_register(unsigned n, BarKind kind, u64 size) {
    Bar &bar = bars_.at(n);
    bar.kind = kind;
    bar.size = size;
    const u8 at = static_cast<u8>(pci::BAR0 + 4 * n);
    const u64 mask = ~(size - 1);
    allow(at, mask, kind == BarKind::memory64 ? 8 : 4);
    switch (kind) {
    case BarKind::memory: break;
    case BarKind::prefetchable: set_byte(at, 0x8); break;
    case BarKind::memory64: set_byte(at, 0xc); break;
    case BarKind::port:
        set_byte(at, 0x1);
        allow(at, mask & 0xffff'fffc, 4);
        break;
    }
}

void PciConfig::reset() noexcept {
    state_.bytes = reset_;
    requested_ = false;
}

void PciConfig::settle() noexcept {
    const u16 command = word(pci::COMMAND);
    for (unsigned n = 0; n < bars_.size(); ++n) {
        Bar &bar = bars_[n];
        if (!bar.size)
            continue;
        const u8 at = static_cast<u8>(pci::BAR0 + 4 * n);
        const bool port = bar.kind == BarKind::port;
        u64 base = dword(at) & (port ? ~u32{3} : ~u32{15});
        if (bar.kind == BarKind::memory64)
            base |= u64{dword(static_cast<u8>(at + 4))} << 32;
        // While a guest sizes it (all ones), and at 0, where it was never put, it shows nothing.
        const u64 top = port                            ? 0x1'0000
                        : bar.kind == BarKind::memory64 ? u64{1} << 40
                                                        : 0x1'0000'0000;
        const bool on = command & (port ? pci::COMMAND_IO : pci::COMMAND_MEMORY);
        const bool shown = on && base && base < top && bar.size < top - base;
        if (shown == bar.shown && (!shown || base == bar.base))
            continue;
        bar.mapping.move_and_show(shown ? base : 0, shown);
        bar.shown = shown;
        bar.base = base;
    }
    if (rom_.size) {
        const u32 at = dword(pci::ROM);
        const u64 base = at & ~(rom_.size - 1);
        const bool shown = (command & pci::COMMAND_MEMORY) && (at & ROM_ENABLE) && base &&
                           rom_.size < 0x1'0000'0000 - base;
        if (shown != rom_.shown || (shown && base != rom_.base)) {
            rom_.mapping.move_and_show(shown ? base : 0, shown);
            rom_.shown = shown;
            rom_.base = base;
        }
    }
    const u16 status = word(pci::STATUS);
    put_word(pci::STATUS,
             static_cast<u16>(requested_ ? status | pci::STATUS_INTX : status & ~pci::STATUS_INTX));
    intx_.set(requested_ && !(command & pci::COMMAND_INTX_OFF));
}

u16 PciConfig::word(u8 at) const noexcept {
    return static_cast<u16>(state_.bytes[at] | state_.bytes[(at + 1) & 0xff] << 8);
}
u32 PciConfig::dword(u8 at) const noexcept {
    return word(at) | u32{word(static_cast<u8>(at + 2))} << 16;
}
void PciConfig::put_word(u8 at, u16 value) noexcept {
    state_.bytes[at] = static_cast<u8>(value);
    state_.bytes[(at + 1) & 0xff] = static_cast<u8>(value >> 8);
}
bool PciConfig::wrote(u8 at, unsigned size) const noexcept {
    return written_at_ < at + u64{size} && at < written_at_ + written_size_;
}

u64 PciConfig::read(u64 at, unsigned size) noexcept {
    if (at + size > state_.bytes.size()) // extended space of a conventional function
        return size_mask(size);
    return load_le(&state_.bytes[at], size);
}

void PciConfig::write(u64 at, unsigned size, u64 value) noexcept {
    if (at + size > state_.bytes.size())
        return;
    for (unsigned i = 0; i < size; ++i) {
        const u8 in = static_cast<u8>(value >> 8 * i);
        u8 &byte = state_.bytes[at + i];
        byte = static_cast<u8>(((byte & ~writable_[at + i]) | (in & writable_[at + i])) &
                               ~(in & clearable_[at + i]));
    }
    written_at_ = at;
    written_size_ = size;
    wrote_();
}

} // namespace rhea::hw
