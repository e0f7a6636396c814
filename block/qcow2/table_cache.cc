#include "block/qcow2/table_cache.h"

#include <algorithm>
#include <cstring>

namespace rhea::block::qcow2 {

Task<> read_padded(Node &file, u64 at, std::span<u8> into) {
    const u64 there = at < file.length() ? std::min<u64>(file.length() - at, into.size()) : 0;
    if (there)
        co_await file.read(at, into.first(there));
    if (there < into.size())
        std::memset(into.data() + there, 0, into.size() - there);
}

u8 *TableCache::find(u64 offset) noexcept {
    const u64 begin = begin_of(offset);
    if (begin != last_offset_) {
        const auto i = slices_.find(begin);
        if (i == slices_.end())
            return nullptr;
        last_offset_ = begin;
        last_ = i->second;
        order_.splice(order_.begin(), order_, last_);
    }
    return last_->data.data() + (offset - begin);
}

void TableCache::evict() noexcept {
    for (auto i = order_.end(); slices_.size() >= max_ && i != order_.begin();) {
        --i;
        if (i->dirty)
            continue;
        if (i->offset == last_offset_)
            last_offset_ = ~u64{0};
        slices_.erase(i->offset);
        i = order_.erase(i);
    }
}

Task<> TableCache::load(u64 offset) {
    if (find(offset))
        co_return; // somebody else was first
    const u64 begin = begin_of(offset);
    Buffer data(slice_bytes_);
    co_await read_padded(file_, begin, data.span());
    evict();
    order_.push_front(Slice{begin, std::move(data), false});
    slices_[begin] = order_.begin();
}

void TableCache::mark_dirty(u64 offset) noexcept {
    Slice &s = *slices_.at(begin_of(offset));
    dirty_ += !s.dirty;
    s.dirty = true;
}

Task<> TableCache::write_dirty() {
    std::vector<Slice *> list;
    for (Slice &s : order_)
        if (s.dirty)
            list.push_back(&s);
    std::ranges::sort(list, {}, &Slice::offset);
    for (Slice *s : list) {
        co_await file_.write(s->offset, std::span<const u8>(s->data.span()));
        s->dirty = false;
        --dirty_;
    }
}

void TableCache::drop(u64 offset, u64 length) noexcept {
    for (u64 at = begin_of(offset); at < offset + length; at += slice_bytes_)
        if (const auto i = slices_.find(at); i != slices_.end()) {
            dirty_ -= i->second->dirty;
            order_.erase(i->second);
            slices_.erase(i);
        }
    last_offset_ = ~u64{0};
}

void TableCache::drop_all() noexcept {
    order_.clear();
    slices_.clear();
    dirty_ = 0;
    last_offset_ = ~u64{0};
}

} // namespace rhea::block::qcow2
