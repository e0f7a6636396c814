#pragma once
// Instructions that T0 has decoded lately, so that code that is run again is not decoded again. A
// vCPU's own, only its thread uses it. Nothing needs to invalidate it: an entry counts only while
// the instruction's bytes are still the same.

#include "accel/dbt/guest/x86/decode.h"

#include <array>
#include <cstring>

namespace rhea::dbt::x86 {

class InsnCache {
public:
    // The 16 bytes at the instruction, read once.
    struct Bytes {
        u64 low, high;
        explicit Bytes(const u8 *from) noexcept {
            std::memcpy(&low, from, 8);
            std::memcpy(&high, from + 8, 8);
        }
    };

    // Null if the instruction at this guest-physical address, of this code size, is not known.
    const Insn *find(u64 physical, CodeSize size, const Bytes &bytes) const noexcept {
        const Entry &entry = entries_[index(physical)];
        const bool same = entry.key == key(physical, size) &&
                          ((bytes.low ^ entry.low) & entry.low_mask) == 0 &&
                          ((bytes.high ^ entry.high) & entry.high_mask) == 0;
        return same ? &entry.insn : nullptr;
    }
    const Insn *insert(u64 physical, CodeSize size, const Bytes &bytes, const Insn &insn) noexcept {
        Entry &entry = entries_[index(physical)];
        entry.key = key(physical, size);
        entry.low = bytes.low;
        entry.high = bytes.high;
        entry.low_mask = insn.length >= 8 ? ~u64{0} : (u64{1} << (8 * insn.length)) - 1;
        entry.high_mask = insn.length <= 8 ? 0 : (u64{1} << (8 * (insn.length - 8))) - 1;
        entry.insn = insn;
        return &entry.insn;
    }

private:
    struct alignas(64) Entry {
        u64 key; // 0: empty
        u64 low, high, low_mask, high_mask;
        Insn insn;
    };
    static constexpr usize entry_count = 4096;

    static usize index(u64 physical) noexcept {
        return (physical ^ physical >> 12) & (entry_count - 1);
    }
    static u64 key(u64 physical, CodeSize size) noexcept { return physical << 2 | (u64(size) + 1); }

    std::array<Entry, entry_count> entries_{};
};

} // namespace rhea::dbt::x86
