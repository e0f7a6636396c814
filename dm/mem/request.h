// Request: the one form of an access that is not plain guest RAM, whichever engine it comes from.
//
// Xen's ioreqs, KVM's exits and the translator's exit records all become a Request; the dispatcher
// (dispatcher.h) serves it. A request is a value on the stack of the vCPU's thread; nothing keeps
// it.
#pragma once
#include "dm/core/types.h"

namespace rhea {

enum class Space : u8 {
    memory,     // guest-physical addresses
    port,       // I/O ports, 0 to 0xffff
    pci_config, // segment << 28 | bus << 20 | device << 15 | function << 12 | register (as in ECAM)
};
inline constexpr unsigned space_count = 3;

enum class Direction : u8 { read, write };

struct Request {
    Space space = Space::memory;
    Direction direction = Direction::read;
    u8 size = 1; // bytes: 1, 2, 4 or 8
    u64 address = 0;
    u64 value = 0; // single access: what to write, or what was read (zero-extended)

    // A run (INS, OUTS, REP MOVS against a device): `count` items of `size` bytes. `data` is host
    // memory, the item of the first access; each next one is `data_step` bytes further (negative:
    // direction flag set) and `address_step` bytes further in the space (0 for ports). With `data`
    // null the request is a single access.
    u32 count = 1;
    u8 *data = nullptr;
    i32 data_step = 0;
    i32 address_step = 0;
};

} // namespace rhea
