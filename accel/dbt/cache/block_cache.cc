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
    Page &page = pages_[block.physical >> 12];
    block.next_in_page = page.first;
    page.first = &block;
    page.granules |= granules(block.start, block.end);
    ++statistics_.blocks;
    statistics_.guest_bytes += u64(block.end - block.start);
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
    patch(from, to.entry);
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

bool BlockCache::invalidate(u64 physical, u64 size, bool &page_empty) noexcept {
    page_empty = false;
    const auto found = pages_.find(physical >> 12);
    if (found == pages_.end())
        return false;
    Page &page = found->second;
    const unsigned start = unsigned(physical & 4095),
                   end = unsigned(start + size > 4096 ? 4096 : start + size);
    if (!(page.granules & granules(start, end)))
        return false;
    bool any = false;
    u64 left = 0;
    for (Block **at = &page.first; *at;) {
        Block &b = **at;
        if (b.start < end && b.end > start) {
            *at = b.next_in_page;
            remove(b);
            any = true;
        } else {
            left |= granules(b.start, b.end);
            at = &b.next_in_page;
        }
    }
    page.granules = left;
    if (!page.first) {
        page_empty = true;
        pages_.erase(found);
    }
    return any;
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
