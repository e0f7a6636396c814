#include "hw/ide/bus_master.h"

#include <algorithm>

namespace rhea::hw {

namespace {
enum : u8 { START = 0x01, TO_MEMORY = 0x08 };
enum : u8 { ACTIVE = 0x01, ERROR = 0x02, INTERRUPT = 0x04, DRIVES_CAPABLE = 0x60 };
struct Descriptor {
    Le<u32> address;
    Le<u16> size; // 0: 64 KiB
    Le<u16> flags;
};
static_assert(sizeof(Descriptor) == 8);
constexpr u16 END_OF_TABLE = 0x8000;
} // namespace

u8 BusMaster::read(unsigned at) const noexcept {
    switch (at) {
    case 0: return s_.command;
    case 2: return s_.status;
    case 4:
    case 5:
    case 6:
    case 7: return static_cast<u8>(s_.table >> 8 * (at - 4));
    default: return 0xff;
    }
}

void BusMaster::write(unsigned at, u8 value) noexcept {
    if (at == 0) {
        const bool starts = (value & START) && !(s_.command & START);
        if (starts) {
            s_.next = s_.table;
            s_.left = 0;
            s_.last = false;
            s_.status |= ACTIVE;
        } else if (!(value & START)) {
            s_.status &= static_cast<u8>(~ACTIVE);
        }
        s_.command = value & (START | TO_MEMORY);
    } else if (at == 2) {
        s_.status &= static_cast<u8>(~(value & (ERROR | INTERRUPT)));
        s_.status = static_cast<u8>((s_.status & ~DRIVES_CAPABLE) | (value & DRIVES_CAPABLE));
    } else if (at >= 4 && at < 8) {
        const unsigned shift = 8 * (at - 4);
        s_.table = ((s_.table & ~(u32{0xff} << shift)) | u32{value} << shift) & ~u32{3};
    }
}

bool BusMaster::next_region() noexcept {
    Descriptor d;
    if (!dma_.read(s_.next, d))
        return false;
    s_.next = (s_.next & 0xffff'0000) | ((s_.next + 8) & 0xffff);
    s_.address = d.address & ~u32{1};
    s_.left = d.size & 0xfffe;
    if (!s_.left)
        s_.left = 0x10000;
    s_.last = d.flags & END_OF_TABLE;
    return true;
}

template <class Move> auto BusMaster::walk(u64 size, u32 &at, Move &&move) noexcept -> Outcome {
    if (!active())
        return Outcome::waits;
    while (at < size) {
        if (!s_.left && s_.last) {
            s_.status &= static_cast<u8>(~ACTIVE);
            return Outcome::waits;
        }
        if (s_.left || next_region()) {
            const u32 n = static_cast<u32>(std::min<u64>(s_.left, size - at));
            if (move(s_.address, at, n)) {
                s_.address += n;
                s_.left -= n;
                at += n;
                continue;
            }
        }
        s_.status = static_cast<u8>((s_.status | ERROR) & ~ACTIVE);
        return Outcome::failed;
    }
    if (!s_.left && s_.last)
        s_.status &= static_cast<u8>(~ACTIVE);
    return Outcome::done;
}

auto BusMaster::to_memory(std::span<const u8> data, u32 &at) noexcept -> Outcome {
    return walk(data.size(), at, [&](u32 address, u32 from, u32 n) {
        return dma_.write(address, data.subspan(from, n));
    });
}

auto BusMaster::from_memory(std::span<u8> data, u32 &at) noexcept -> Outcome {
    return walk(data.size(), at, [&](u32 address, u32 to, u32 n) {
        return dma_.read(address, data.subspan(to, n));
    });
}

} // namespace rhea::hw
