#include "accel/dbt/cache/block_cache.h"

#include <atomic>

namespace rhea::dbt::cache {

Block &BlockCache::create() {
    if (free_blocks_.empty())
        return blocks_.emplace_back();
    Block *const b = free_blocks_.back();
    free_blocks_.pop_back();
    *b = {};
    return *b;
}

Link &BlockCache::create_link() {
    if (free_links_.empty())
        return links_.emplace_back();
    Link *const l = free_links_.back();
    free_links_.pop_back();
    *l = {};
    return *l;
}

void BlockCache::insert(Block &block) {
    Block *&head = buckets_[bucket(block.physical, block.mode)];
    block.next_in_bucket = head;
    head = &block;
    enter_page(block, block.physical >> 12, block.start, block.end > 4096 ? 4096 : block.end);
    if (block.second_page != no_page)
        enter_page(block, block.second_page >> 12, 0, unsigned(block.end) - 4096);
    ++statistics_.blocks;
    statistics_.guest_bytes += u64(block.end - block.start);
}

void BlockCache::enter_page(Block &block, u64 number, unsigned start, unsigned end) {
    Page &page = pages_[number];
    page.blocks.push_back(&block);
    page.granules |= granules(start, end);
}

void BlockCache::leave_page(Block &block, u64 number) noexcept {
    const auto page = pages_.find(number);
    std::erase(page->second.blocks, &block);
    if (page->second.blocks.empty()) {
        pages_.erase(page);
        return;
    }
    u64 left = 0;
    for (const Block *b : page->second.blocks)
        left |= b->physical >> 12 == number ? granules(b->start, b->end > 4096 ? 4096 : b->end)
                                            : granules(0, unsigned(b->end) - 4096);
    page->second.granules = left;
}

void BlockCache::patch(Link &link, const u8 *target) noexcept {
    const u8 *const after = link.branch + 4 + memory_.executable_delta();
    // One aligned store: another thread that executes the jump sees the old target or the new one.
    std::atomic_ref<i32>(*reinterpret_cast<i32 *>(link.branch))
        .store(i32(target - after), std::memory_order_release);
}

void BlockCache::link(Link &from, Block &to) noexcept {
    if (from.to)
        return;
    from.to = &to;
    from.next_incoming = to.incoming;
    to.incoming = &from;
    patch(from, from.forward ? to.entry_unchecked : to.entry);
    ++statistics_.links;
}

bool BlockCache::overlaps_code(u64 physical, u64 size) const noexcept {
    const auto page = pages_.find(physical >> 12);
    const unsigned start = unsigned(physical & 4095);
    return page != pages_.end() &&
           (page->second.granules &
            granules(start, unsigned(start + size > 4096 ? 4096 : start + size)));
}

void BlockCache::remove(Block &block) noexcept {
    Block **at = &buckets_[bucket(block.physical, block.mode)];
    while (*at != &block)
        at = &(*at)->next_in_bucket;
    *at = block.next_in_bucket;
    leave_page(block, block.physical >> 12);
    if (block.second_page != no_page && block.second_page >> 12 != block.physical >> 12)
        leave_page(block, block.second_page >> 12);
    for (Link *l = block.incoming; l;) {
        Link *const next = l->next_incoming;
        patch(*l, l->unlinked);
        l->to = nullptr;
        l->next_incoming = nullptr;
        l = next;
    }
    for (Link *l : block.links) {
        if (l->to) {
            Link **in = &l->to->incoming;
            while (*in != l)
                in = &(*in)->next_incoming;
            *in = l->next_incoming;
        }
        free_links_.push_back(l);
    }
    block.links.clear();
    free_blocks_.push_back(&block);
    ++statistics_.invalidated;
}

void BlockCache::collect(u64 physical, u64 size) noexcept {
    const auto found = pages_.find(physical >> 12);
    if (found == pages_.end())
        return;
    const unsigned start = unsigned(physical & 4095),
                   end = unsigned(start + size > 4096 ? 4096 : start + size);
    if (!(found->second.granules & granules(start, end)))
        return;
    for (Block *b : found->second.blocks) {
        const bool in_first =
            b->physical >> 12 == physical >> 12 && b->start < end && b->end > start;
        const bool in_second = b->second_page != no_page &&
                               b->second_page >> 12 == physical >> 12 &&
                               unsigned(b->end) - 4096 > start;
        if (in_first || in_second)
            dead_.push_back(b);
    }
}

void BlockCache::flush() noexcept {
    for (Block *&b : buckets_)
        b = nullptr;
    pages_.clear();
    blocks_.clear();
    links_.clear();
    free_blocks_.clear();
    free_links_.clear();
    ++statistics_.flushes;
}

} // namespace rhea::dbt::cache
