// BusMaster: one channel's bus-master registers and its walk through the guest's table of physical
// regions (PRDs).
//
// Facts: Intel 82371SB (PIIX3), 2.6; "Programming Interface for Bus Master IDE Controller" 1.0. A
// member of the IDE function, under its lock. A region that is not RAM ends the transfer with the
// error bit. A table that ends early stops the engine and leaves the drive waiting, as the
// interface says; the host may go on with another table. The table's address wraps within 64 KiB,
// which it may not cross.
#pragma once
#include "dm/core/describe.h"
#include "dm/mem/dma.h"

#include <span>

namespace rhea::hw {

struct BusMasterState {
    u8 command = 0, status = 0;
    u32 table = 0;
    u32 next = 0;      // address of the next descriptor
    u32 address = 0;   // of what is left of the present region
    u32 left = 0;      // bytes
    bool last = false; // the present region is the table's last
    static constexpr auto fields() {
        using S = BusMasterState;
        return describe<S>(Field<&S::command>{}, Field<&S::status>{}, Field<&S::table>{},
                           Field<&S::next>{}, Field<&S::address>{}, Field<&S::left>{.max = 0x10000},
                           Field<&S::last>{});
    }
};

class BusMaster {
public:
    enum class Outcome : u8 { done, waits, failed };

    BusMaster(BusMasterState &state, AddressMap &map) noexcept : s_(state), dma_(map) {}

    u8 read(unsigned at) const noexcept;
    void write(unsigned at, u8 value) noexcept;
    bool active() const noexcept { return s_.status & 1; }
    void interrupt() noexcept { s_.status |= 4; }

    // Moves bytes between a drive and the guest's regions; `at` is advanced by what was moved.
    // waits: the engine is stopped, or the table has ended.
    Outcome to_memory(std::span<const u8> data, u32 &at) noexcept;
    Outcome from_memory(std::span<u8> data, u32 &at) noexcept;

private:
    template <class Move> Outcome walk(u64 size, u32 &at, Move &&move) noexcept;
    bool next_region() noexcept;

    BusMasterState &s_;
    Dma dma_;
};

} // namespace rhea::hw
