// Accessor: serves accesses against an AddressMap, for one master (a vCPU, a bridge, a test).
//
// One thread at a time; it caches the range that it used last in each space, and writes nothing
// that other accessors read on its hot path. For a device range it takes the device's lock, calls
// the target and settle(), and releases the lock. Nothing there: reads give all ones and writes are
// lost, as on a bus that floats high. Writes to ROM are lost. All of these are a guest_error.
//
// An access is split where the range ends, where the target takes no accesses that wide, and to
// aligned pieces where it takes no unaligned ones.
#pragma once
#include "dm/core/types.h"
#include "dm/mem/address_space.h"
#include "dm/mem/request.h"
#include <array>
#include <atomic>
#include <span>

namespace rhea {

class Accessor {
public:
    // `reader`: the vCPU's own ViewReader, if it has one. When a device has changed the map, the
    // outermost access waits on its way out, with no device lock held, until all other readers have
    // seen the change; its own reader is idle meanwhile, and then active again. So after each
    // access the engine compares the map's generation with that of what it has cached.
    //
    // A bridge forwards through an Accessor of its own, used under its lock.
    explicit Accessor(AddressMap &map, ViewReader *reader = nullptr);
    ~Accessor();
    Accessor(const Accessor &) = delete;
    Accessor &operator=(const Accessor &) = delete;

    // `size` is 1, 2, 4 or 8 bytes; addresses wrap at the end of the space.
    u64 read(Space space, u64 address, unsigned size) noexcept;
    void write(Space space, u64 address, unsigned size, u64 value) noexcept;
    void serve(Request &request) noexcept;

    // Bytes of memory, RAM or not (a debugger, a loader). Devices use Dma.
    void read_bytes(u64 address, std::span<u8> to) noexcept;
    void write_bytes(u64 address, std::span<const u8> from) noexcept;

    // The stretch at an address, or null; valid until the next call of this accessor.
    const Range *find(Space space, u64 address) noexcept { return look_up(space, address); }

private:
    friend class AddressMap;
    const Range *look_up(Space space, u64 address) noexcept;
    const Range *enter(Space space, u64 address) noexcept;
    void leave() noexcept;
    u64 read_piece(Space space, u64 address, unsigned &size) noexcept;
    void write_piece(Space space, u64 address, unsigned &size, u64 value) noexcept;
    bool serve_run_at_once(Request &request) noexcept;

    AddressMap &map_;
    ViewReader *reader_;
    ViewPtr view_;
    std::array<const Range *, space_count> last_{};
    std::atomic<const Owner *> inside_{nullptr}; // a hazard pointer: drain() waits for it
};

} // namespace rhea
