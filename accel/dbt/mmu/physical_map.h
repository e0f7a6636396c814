#pragma once
// What guest-physical addresses mean to the translator: RAM, ROM, or nothing that it knows (then
// the access leaves as an exit record and whoever runs the core serves it). The adapter builds one
// from the machine's address space and swaps it while no vCPU runs; the core itself never sees a
// device.

#include "dm/core/types.h"

#include <atomic>
#include <span>
#include <vector>

namespace rhea::dbt::mmu {

// Bits of a RAM page's flag byte, the same as in dm/mem/ram.h. Whoever sets one flushes the pages'
// write entries from all TLBs.
namespace page_flag {
inline constexpr u8 code = 1;   // translated code was made from bytes of this page
inline constexpr u8 logged = 6; // stores are reported to the dirty log (display 2, migration 4)
inline constexpr u8 page_table = 8;
} // namespace page_flag

struct PhysicalRange {
    u64 base, size; // bytes, page aligned
    u8 *host;
    bool writable;               // false: ROM, stores are dropped
    std::atomic<u8> *page_flags; // one byte a page; null for ROM
    // What the maker of the map knows the memory by, and where in it this range begins.
    void *owner = nullptr;
    u64 owner_offset = 0;
    bool operator==(const PhysicalRange &) const = default;
};

class PhysicalMap {
public:
    PhysicalMap() = default;
    // `ranges`: sorted by base, disjoint.
    explicit PhysicalMap(std::vector<PhysicalRange> ranges) : ranges_(std::move(ranges)) {}

    const PhysicalRange *find(u64 physical) const noexcept {
        const PhysicalRange *first = ranges_.data();
        usize count = ranges_.size();
        while (count > 0) { // the last range whose base is not above
            const usize half = count / 2;
            if (first[half].base <= physical) {
                first += half + 1;
                count -= half + 1;
            } else {
                count = half;
            }
        }
        if (first == ranges_.data())
            return nullptr;
        --first;
        return physical - first->base < first->size ? first : nullptr;
    }
    std::span<const PhysicalRange> ranges() const noexcept { return ranges_; }

private:
    std::vector<PhysicalRange> ranges_;
};

} // namespace rhea::dbt::mmu
