#pragma once
// The translations: which code stands for which guest-physical bytes in which mode, how blocks are
// chained, and what goes when guest code is overwritten. Keyed by physical address, so one
// translation serves every address space that maps its page. Used by the vCPU's thread.

#include "accel/dbt/cache/code_memory.h"
#include "dm/core/types.h"

#include <deque>
#include <unordered_map>
#include <vector>

namespace rhea::dbt::cache {

struct Block;

// A direct jump out of a block, to an offset in the same page.
struct Link {
    Block *owner = nullptr;
    u8 *branch = nullptr;         // 4-byte displacement, writable alias
    const u8 *unlinked = nullptr; // where it goes while it has no target
    u16 target = 0;
    bool forward = false; // may enter the target behind its test for requests
    Block *to = nullptr;
    Link *next_incoming = nullptr;
};

inline constexpr u64 no_page = ~u64{0};

struct Block {
    u64 physical = 0; // of the first byte
    // An instruction that lies in two pages is a block of its own: where the second page is. Such a
    // block is reached through the jump cache only, because it depends on two mappings.
    u64 second_page = no_page;
    u32 mode = 0;
    u16 start = 0, end = 0; // page offsets; end is one past the last byte, above 4096 for two pages
    // Entries of the jump cache that lead here, so that they can be taken back one by one.
    u8 jump_count = 0;
    u16 jump_slot[3] = {};
    const u8 *entry = nullptr, *entry_unchecked = nullptr;
    Block *next_in_bucket = nullptr;
    std::vector<Link *> links;
    Link *incoming = nullptr;
};

struct Statistics {
    u64 blocks = 0, guest_bytes = 0, invalidated = 0, flushes = 0, links = 0;
};

class BlockCache {
public:
    explicit BlockCache(CodeMemory &memory) : memory_(memory), buckets_(bucket_count) {}

    Block *find(u64 physical, u32 mode, u64 second_page = no_page) noexcept {
        Block *b = buckets_[bucket(physical, mode)];
        while (b && (b->physical != physical || b->mode != mode || b->second_page != second_page))
            b = b->next_in_bucket;
        return b;
    }
    // A block that is not yet in the cache; its links are to be given to it before insert().
    Block &create();
    Link &create_link();
    void free_link(Link &link) noexcept {
        free_links_.push_back(&link);
    } // one that no block was given
    void insert(Block &block);
    void link(Link &from, Block &to) noexcept;

    // True if any of the bytes may be part of a translated instruction (64-byte granules).
    bool overlaps_code(u64 physical, u64 size) const noexcept;
    // Drops all blocks that overlap the bytes (which lie in one page), telling `gone` of each
    // before. True if there were any; `page_empty` if none is left on the page.
    template <class F>
    bool invalidate(u64 physical, u64 size, bool &page_empty, F &&gone) noexcept {
        page_empty = false;
        dead_.clear();
        collect(physical, size);
        for (Block *b : dead_) {
            gone(*b);
            remove(*b);
        }
        page_empty = !dead_.empty() && !pages_.contains(physical >> 12);
        return !dead_.empty();
    }
    // Forgets everything. The caller resets the code memory to where the blocks begin.
    void flush() noexcept;

    const Statistics &statistics() const noexcept { return statistics_; }
    // The pages that have blocks, for clearing their flags on a flush.
    template <class F> void each_page(F &&f) const {
        for (const auto &[number, page] : pages_)
            f(number << 12);
    }

private:
    struct Page {
        std::vector<Block *> blocks;
        u64 granules = 0;
    };
    static constexpr unsigned bucket_count = 1u << 16;
    static unsigned bucket(u64 physical, u32 mode) {
        return unsigned((physical ^ physical >> 16 ^ mode * 0x9e37u)) & (bucket_count - 1);
    }
    static u64 granules(unsigned start, unsigned end) { // [start, end) page offsets, not empty
        const unsigned first = start >> 6, last = (end - 1) >> 6;
        return (last == 63 ? ~u64{0} : (u64{2} << last) - 1) & ~((u64{1} << first) - 1);
    }
    void collect(u64 physical, u64 size) noexcept; // into dead_
    void remove(Block &block) noexcept;
    void enter_page(Block &block, u64 page, unsigned start, unsigned end);
    void leave_page(Block &block, u64 page) noexcept;
    void patch(Link &link, const u8 *target) noexcept;

    CodeMemory &memory_;
    std::vector<Block *> buckets_;
    std::unordered_map<u64, Page> pages_; // by guest-physical page number
    std::deque<Block> blocks_;            // stable addresses; freed as a whole by flush()
    std::deque<Link> links_;
    std::vector<Block *> free_blocks_;
    std::vector<Link *> free_links_;
    std::vector<Block *> dead_;
    Statistics statistics_;
};

} // namespace rhea::dbt::cache
