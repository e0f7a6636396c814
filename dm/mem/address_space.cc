#include "dm/mem/address_space.h"
#include "dm/mem/dispatcher.h"
#include <algorithm>
#include <chrono>
#include <thread>

namespace rhea {

namespace {

constexpr u64 last_address(Space space) noexcept {
    switch (space) {
    case Space::memory: return ~u64{0};
    case Space::port: return 0xffff;
    case Space::pci_config: return (u64{1} << 44) - 1; // 65,536 segments of 256 MiB
    }
    return 0;
}

constexpr bool fits(Space space, u64 base, u64 size) noexcept {
    const u64 last = last_address(space);
    return size && base <= last && size - 1 <= last - base;
}

} // namespace

struct AddressMap::Layer {
    u64 id = 0;
    Space space = Space::memory;
    u64 base = 0;
    u64 size = 0;
    int priority = 0;
    bool shown = true;
    bool writable = false;
    Target *target = nullptr; // not looked into after map(): it may be gone before its mapping
    Owner *owner = nullptr;
    std::shared_ptr<RamRegion> ram;
    u64 offset = 0;

    u64 last() const noexcept { return base + (size - 1); }
    bool covers(u64 address) const noexcept { return address - base <= size - 1; }
};

const Range *View::find(Space space, u64 address) const noexcept {
    const auto &list = (*this)[space];
    auto i = std::ranges::upper_bound(list, address, {}, &Range::first);
    if (i == list.begin())
        return nullptr;
    --i;
    return i->contains(address) ? &*i : nullptr;
}

AddressMap::AddressMap() {
    ViewPtr none;
    std::lock_guard guard(mutex_);
    publish(Space::memory, none);
}

AddressMap::~AddressMap() {
    VERIFY(readers_.empty() && accessors_.empty());
    VERIFY(layers_.empty());
}

// The layers of one space, flattened: between two neighbouring borders the top layer shows.
static void flatten(Space space, const auto &layers, std::vector<Range> &out) {
    using Layer = std::remove_cvref_t<decltype(layers[0])>;
    std::vector<const Layer *> shown;
    std::vector<u64> borders;
    for (const Layer &l : layers)
        if (l.space == space && l.shown) {
            shown.push_back(&l);
            borders.push_back(l.base);
            if (l.last() != ~u64{0})
                borders.push_back(l.last() + 1);
        }
    std::ranges::sort(borders);
    const auto repeated = std::ranges::unique(borders);
    borders.erase(repeated.begin(), repeated.end());

    const Layer *before = nullptr;
    for (std::size_t i = 0; i < borders.size(); ++i) {
        const u64 first = borders[i];
        const u64 last = i + 1 < borders.size() ? borders[i + 1] - 1 : ~u64{0};
        const Layer *top = nullptr;
        for (const Layer *l : shown)
            if (l->covers(first) && (!top || l->priority >= top->priority))
                top = l;
        if (top && top == before) {
            out.back().last = last;
        } else if (top) {
            out.push_back({.first = first,
                           .last = last,
                           .offset = top->offset + (first - top->base),
                           .ram = top->ram.get(),
                           .target = top->target,
                           .owner = top->owner,
                           .writable = top->writable});
        }
        before = top;
    }
}

void AddressMap::publish(Space changed, ViewPtr &old) noexcept {
    auto view = std::make_shared<View>();
    if (view_)
        view->ranges = view_->ranges;
    auto &ranges = view->ranges[static_cast<unsigned>(changed)];
    ranges.clear();
    flatten(changed, layers_, ranges);
    for (const Layer &l : layers_)
        if (l.ram && l.shown)
            view->keep.push_back(l.ram);
    put_in_force(std::move(view), old);
}

u64 AddressMap::renew() noexcept {
    ViewPtr old;
    std::lock_guard guard(mutex_);
    put_in_force(std::make_shared<View>(*view_), old);
    return view_->generation;
}

void AddressMap::put_in_force(std::shared_ptr<View> view, ViewPtr &old) noexcept {
    view->generation = generation_.load(std::memory_order_relaxed) + 1;
    old = std::move(view_);
    view_ = std::move(view);
    generation_.store(view_->generation, std::memory_order_seq_cst);
    for (MapListener *l : listeners_)
        l->map_changed(old, view_);
}

Mapping AddressMap::add(Layer &&layer) noexcept {
    VERIFY(fits(layer.space, layer.base, layer.size));
    ViewPtr old;
    std::lock_guard guard(mutex_);
    layer.id = next_id_++;
    const Space space = layer.space;
    layers_.push_back(std::move(layer));
    if (layers_.back().shown)
        publish(space, old);
    return {*this, layers_.back().id};
}

Mapping AddressMap::map(Space space, u64 base, u64 size, Target &target, int priority, bool shown) {
    return add({.space = space,
                .base = base,
                .size = size,
                .priority = priority,
                .shown = shown,
                .target = &target,
                .owner = &target.owner(),
                .ram = nullptr});
}

Mapping AddressMap::map_ram(u64 base, std::shared_ptr<RamRegion> ram, u64 offset, u64 size,
                            int priority, bool shown) {
    VERIFY(offset <= ram->size() && size <= ram->size() - offset);
    return add({.base = base,
                .size = size,
                .priority = priority,
                .shown = shown,
                .writable = true,
                .ram = std::move(ram),
                .offset = offset});
}

Mapping AddressMap::map_rom(u64 base, std::shared_ptr<RamRegion> ram, u64 offset, u64 size,
                            int priority, bool shown, Target *target) {
    VERIFY(offset <= ram->size() && size <= ram->size() - offset);
    return add({.base = base,
                .size = size,
                .priority = priority,
                .shown = shown,
                .target = target,
                .owner = target ? &target->owner() : nullptr,
                .ram = std::move(ram),
                .offset = offset});
}

// fn(layer) says whether what the guest sees has changed.
template <class Fn> void AddressMap::change(u64 id, Fn &&fn) noexcept {
    ViewPtr old;
    std::lock_guard guard(mutex_);
    const auto i = std::ranges::find(layers_, id, &Layer::id);
    VERIFY(i != layers_.end());
    if (fn(*i))
        publish(i->space, old);
}

void AddressMap::remove(u64 id) noexcept {
    ViewPtr old; // declared before the guard: regions are unmapped after the lock is dropped
    Layer gone;
    std::lock_guard guard(mutex_);
    const auto i = std::ranges::find(layers_, id, &Layer::id);
    VERIFY(i != layers_.end());
    gone = std::move(*i);
    layers_.erase(i);
    if (gone.shown)
        publish(gone.space, old);
}

void Mapping::unmap() noexcept {
    if (AddressMap *map = std::exchange(map_, nullptr))
        map->remove(id_);
}

void Mapping::move_and_show(u64 base, bool shown) noexcept {
    if (!map_)
        return;
    map_->change(id_, [&](AddressMap::Layer &l) {
        const bool show = shown && fits(l.space, base, l.size);
        const bool visible = show != l.shown || (show && base != l.base);
        if (fits(l.space, base, l.size))
            l.base = base;
        l.shown = show;
        return visible;
    });
}

void Mapping::move(u64 base) noexcept {
    if (!map_)
        return;
    map_->change(id_, [&](AddressMap::Layer &l) {
        const bool visible = l.shown && base != l.base;
        if (fits(l.space, base, l.size))
            l.base = base;
        else
            l.shown = false;
        return visible;
    });
}

void Mapping::show(bool shown) noexcept {
    if (map_)
        map_->change(id_,
                     [&](AddressMap::Layer &l) { return std::exchange(l.shown, shown) != shown; });
}

void Mapping::set_writable(bool writable) noexcept {
    if (map_)
        map_->change(id_, [&](AddressMap::Layer &l) {
            return l.ram && std::exchange(l.writable, writable) != writable && l.shown;
        });
}

ViewPtr AddressMap::view() const {
    std::lock_guard guard(mutex_);
    return view_;
}

void AddressMap::add_listener(MapListener &listener) {
    std::lock_guard guard(mutex_);
    listeners_.push_back(&listener);
    listener.map_changed(std::make_shared<const View>(), view_);
}

void AddressMap::remove_listener(MapListener &listener) noexcept {
    std::lock_guard guard(mutex_);
    std::erase(listeners_, &listener);
}

void AddressMap::wait_seen(u64 generation) noexcept {
    VERIFY(!Owner::any_held());
    // The reader stores seen_ and then looks at waiting_; we store waiting_ and then look at seen_:
    // one of the two sees the other.
    waiting_.fetch_add(1, std::memory_order_seq_cst);
    {
        std::unique_lock lock(readers_mutex_);
        readers_changed_.wait(lock, [&] {
            return std::ranges::all_of(readers_, [&](const ViewReader *r) {
                return r->seen_.load(std::memory_order_seq_cst) >= generation;
            });
        });
    }
    waiting_.fetch_sub(1, std::memory_order_seq_cst);
}

void AddressMap::reader_changed() noexcept {
    if (waiting_.load(std::memory_order_seq_cst)) [[unlikely]] {
        std::lock_guard guard(readers_mutex_);
        readers_changed_.notify_all();
    }
}

void AddressMap::drain(const Owner &device) noexcept {
    VERIFY(!Owner::any_held());
    // Rare (unplug), and device calls are short: look again instead of making every access pay for
    // a wake-up.
    for (;;) {
        bool inside = false;
        {
            std::lock_guard guard(readers_mutex_);
            for (const Accessor *a : accessors_)
                inside |= a->inside_.load(std::memory_order_seq_cst) == &device;
        }
        if (!inside)
            return;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
}

ViewReader::ViewReader(AddressMap &map) : map_(map) {
    std::lock_guard guard(map_.readers_mutex_);
    map_.readers_.push_back(this);
}

ViewReader::~ViewReader() {
    idle();
    std::lock_guard guard(map_.readers_mutex_);
    std::erase(map_.readers_, this);
}

void ViewReader::seen(u64 generation) noexcept {
    seen_.store(generation, std::memory_order_seq_cst);
    map_.reader_changed();
}

u64 ViewReader::active() noexcept {
    for (;;) {
        const u64 generation = map_.generation();
        seen(generation);
        if (map_.generation() == generation)
            return generation;
    }
}

} // namespace rhea
