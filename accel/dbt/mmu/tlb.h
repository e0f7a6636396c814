#pragma once
// The software TLB that both tiers and translated code probe. Plain data inside a vCPU's state;
// only that vCPU's thread uses it. Two tables of 4096 entries: one for code running at CPL 3 and
// one for supervisor code, chosen when code is translated, so a probe needs no privilege test.
//
// A probe XORs the linear address with the entry's tag: the result is the offset in the page if the
// entry is for this page, and is larger than a page otherwise. An entry that allows nothing holds a
// tag whose set bits name another entry, so no address that reaches it can match (see
// invalid_tag()).

#include "dm/core/types.h"

namespace rhea::dbt::mmu {

inline constexpr unsigned page_shift = 12;
inline constexpr u64 page_size = u64{1} << page_shift, page_mask = ~(page_size - 1);

struct TlbEntry {
    u64 read;  // tag of a readable page: its linear address, page aligned
    u64 write; // the same if stores may go straight to memory: writable, dirty, holds no translated
               // code, not logged
    u64 addend; // host address = linear address + addend
    u64 info;   // guest-physical page address | entry_ bits below
};
inline constexpr u64 entry_global = 1, entry_ram = 2,
                     entry_journaled = 4; // journaled: its index is in the journal

struct FetchEntry {
    u64 tag;      // linear page address
    u64 physical; // guest-physical page address | entry_ bits
    u8 *host;     // the page's bytes; null if it is not RAM or ROM
};

// The tag of a fetch entry that holds nothing (not page aligned, so that no page has it).
inline constexpr u64 invalid_fetch_tag = ~u64{0};

// What a walk learnt about the last-level page table of a 2 MiB region (SDM volume 3, 4.10.3:
// paging-structure caches).
struct WalkEntry {
    u64 key;      // generation and region, see paging.cc
    u8 *table;    // host address of the page table
    u64 physical; // guest-physical address of it | rights of the levels above: 1 writable, 2 user,
                  // 4 no-execute
};

inline constexpr unsigned tlb_bits = 12, tlb_size = 1u << tlb_bits, fetch_size = 256,
                          walk_size = 64;

class PhysicalMap;
struct PhysicalRange;

struct Tlb {
    TlbEntry data[2][tlb_size]; // [0] supervisor, [1] user
    FetchEntry fetch[2][fetch_size];
    // Indices of entries filled since the last flush that are not global: a flush visits these and
    // not the table.
    u32 journal_length[2];
    u16 journal[2][tlb_size];
    u64 flushes, misses;
    u32 fetch_journal_length[2]; // the same for fetch entries
    u16 fetch_journal[2][fetch_size];
    // Which 4 MiB and 1 GiB regions (modulo the table) had entries from pages larger than 4 KiB
    // since the last full flush: INVLPG of one address in a large page must drop them all.
    u64 large_4m[64], large_1g;
    // What jumps found by linear address depend on ([0] supervisor, [1] user): a number changes
    // when code of that kind may be mapped elsewhere. code_pages: which pages (hashed) code has
    // been found in; nonglobal_code: supervisor code was found in a page that is not global.
    u32 code_generation[2];
    u64 code_pages[64];
    bool nonglobal_code;
    u64 walk_generation; // incremented to forget all walk entries
    WalkEntry walk[walk_size];
    const PhysicalMap *range_map; // the map that last_range belongs to; whoever swaps maps flushes
    const PhysicalRange *last_range;
};

inline constexpr unsigned tlb_index(u64 linear) {
    return unsigned(linear >> page_shift) & (tlb_size - 1);
}
inline constexpr unsigned code_page_hash(u64 linear) {
    return unsigned(linear >> page_shift) & 4095;
}
inline constexpr u64 invalid_tag(unsigned index) {
    return u64(index ^ 1) << page_shift;
}

} // namespace rhea::dbt::mmu
