#include "dm/mem/dispatcher.h"
#include "dm/core/bits.h"
#include "dm/core/endian.h"
#include "dm/core/trace.h"
#include <algorithm>
#include <cstring>

namespace rhea {

namespace {

TRACE_POINT(dispatch_read, "a device is read");
TRACE_POINT(dispatch_write, "a device is written");

constexpr const char *space_name[] = {"memory", "port", "PCI configuration"};
const char *name_of(Space s) noexcept {
    return space_name[static_cast<unsigned>(s)];
}

constexpr u64 wrap(Space space, u64 address) noexcept {
    switch (space) {
    case Space::memory: return address;
    case Space::port: return address & 0xffff;
    case Space::pci_config: return address & low_bits(44);
    }
    return address;
}

// One load or store of the whole item where the host can do that: other vCPUs and masters look at
// the same bytes.
u64 load(const u8 *from, unsigned size) noexcept {
    switch (size) {
    case 1: return *from;
    case 2: return load_le<u16>(from);
    case 4: return load_le<u32>(from);
    case 8: return load_le<u64>(from);
    default: return load_le(from, size);
    }
}
void store(u8 *to, unsigned size, u64 value) noexcept {
    switch (size) {
    case 1: *to = static_cast<u8>(value); break;
    case 2: store_le<u16>(to, static_cast<u16>(value)); break;
    case 4: store_le<u32>(to, static_cast<u32>(value)); break;
    case 8: store_le<u64>(to, value); break;
    default: store_le(to, size, value);
    }
}

// How much of an access a range takes in one piece: not beyond its end, and as the target's traits
// say.
unsigned piece_of(const Range &range, u64 address, unsigned size) noexcept {
    size = static_cast<unsigned>(std::min<u64>(size - 1, range.last - address) + 1);
    if (!range.target)
        return size;
    const Target::Traits traits = range.target->traits();
    size = std::min<unsigned>(size, traits.max_size);
    if (traits.unaligned)
        return size;
    const u64 at = range.offset + (address - range.first);
    while (!is_power_of_two(size) || !is_aligned(at, size))
        --size;
    return size;
}

} // namespace

Accessor::Accessor(AddressMap &map, ViewReader *reader)
    : map_(map), reader_(reader), view_(map.view()) {
    std::lock_guard guard(map_.readers_mutex_);
    map_.accessors_.push_back(this);
}

Accessor::~Accessor() {
    std::lock_guard guard(map_.readers_mutex_);
    std::erase(map_.accessors_, this);
}

const Range *Accessor::look_up(Space space, u64 address) noexcept {
    if (map_.generation() != view_->generation) [[unlikely]] {
        view_ = map_.view();
        last_ = {};
    }
    const Range *&last = last_[static_cast<unsigned>(space)];
    if (last && last->contains(address))
        return last;
    if (const Range *found = view_->find(space, address))
        return last = found;
    return nullptr;
}

// look_up, and for a target the announcement that we are in its device. An unmapper publishes first
// and then looks at inside_; we store inside_ and then look at the generation: either we see its
// new view or it sees us.
const Range *Accessor::enter(Space space, u64 address) noexcept {
    for (;;) {
        const Range *range = look_up(space, address);
        if (!range || !range->target)
            return range;
        inside_.store(range->owner, std::memory_order_seq_cst);
        if (map_.generation() == view_->generation)
            return range;
        inside_.store(nullptr, std::memory_order_release);
    }
}

void Accessor::leave() noexcept {
    inside_.store(nullptr, std::memory_order_release);
    const u64 now = map_.generation();
    if (now == view_->generation || Owner::any_held()) [[likely]]
        return;
    if (reader_)
        reader_->idle();
    map_.wait_seen(now);
    if (reader_)
        reader_->active();
}

// Reads the first `size` bytes or fewer; `size` is what was read.
u64 Accessor::read_piece(Space space, u64 address, unsigned &size) noexcept {
    const Range *range = enter(space, address);
    if (!range) {
        guest_error("%s read of 0x%lx: nothing there", name_of(space), address);
        size = 1;
        return 0xff;
    }
    if (range->ram) {
        // Flash reads directly. inside_ may be set; it is cleared by the same store as below.
        size = static_cast<unsigned>(std::min<u64>(size - 1, range->last - address) + 1);
        const u64 value = load(range->ram->host() + range->offset + (address - range->first), size);
        if (range->target)
            inside_.store(nullptr, std::memory_order_release);
        return value;
    }
    Target &target = *range->target;
    size = piece_of(*range, address, size);
    const u64 at = range->offset + (address - range->first);
    u64 value = 0;
    target.owner().enter([&] { value = target.read(at, size) & size_mask(size); });
    TRACE(dispatch_read, "%s %s+0x%lx size %u -> 0x%lx", name_of(space), target.name(), at, size,
          value);
    leave();
    return value;
}

void Accessor::write_piece(Space space, u64 address, unsigned &size, u64 value) noexcept {
    const Range *range = enter(space, address);
    if (!range) {
        guest_error("%s write of 0x%lx: nothing there", name_of(space), address);
        size = 1;
        return;
    }
    const u64 at = range->offset + (address - range->first);
    if (range->ram && range->writable) {
        size = static_cast<unsigned>(std::min<u64>(size - 1, range->last - address) + 1);
        store(range->ram->host() + at, size, value);
        range->ram->written(at, size);
        if (range->target)
            inside_.store(nullptr, std::memory_order_release);
        return;
    }
    if (!range->target) {
        size = static_cast<unsigned>(std::min<u64>(size - 1, range->last - address) + 1);
        guest_error("memory write of 0x%lx: read-only", address);
        return;
    }
    Target &target = *range->target;
    size = piece_of(*range, address, size);
    value &= size_mask(size);
    TRACE(dispatch_write, "%s %s+0x%lx size %u <- 0x%lx", name_of(space), target.name(), at, size,
          value);
    target.owner().enter([&] { target.write(at, size, value); });
    leave();
}

u64 Accessor::read(Space space, u64 address, unsigned size) noexcept {
    address = wrap(space, address);
    unsigned done = size;
    u64 value = read_piece(space, address, done);
    while (done < size)
        [[unlikely]] {
            unsigned n = size - done;
            const u64 more = read_piece(space, wrap(space, address + done), n);
            value |= more << 8 * done;
            done += n;
        }
    return value;
}

void Accessor::write(Space space, u64 address, unsigned size, u64 value) noexcept {
    for (unsigned done = 0; done < size;) {
        unsigned n = size - done;
        write_piece(space, wrap(space, address + done), n, value >> 8 * done);
        done += n;
    }
}

void Accessor::serve(Request &r) noexcept {
    if (r.size == 0 || r.size > 8) // an engine's mistake, or a hostile ring
        return;
    if (!r.data) {
        if (r.direction == Direction::read)
            r.value = read(r.space, r.address, r.size);
        else
            write(r.space, r.address, r.size, r.value);
        return;
    }
    if (serve_run_at_once(r))
        return;
    u8 *data = r.data;
    u64 address = r.address;
    for (u32 i = 0; i < r.count; ++i) {
        if (r.direction == Direction::read)
            store(data, r.size, read(r.space, address, r.size));
        else
            write(r.space, address, r.size, load(data, r.size));
        data += r.data_step;
        address += static_cast<u64>(i64{r.address_step});
    }
}

// A run at one address that the target takes as it is: one lock, one call for each stretch of it.
// The stretches keep the time for which the lock is held within bounds.
bool Accessor::serve_run_at_once(Request &r) noexcept {
    constexpr u32 stretch = 4096;
    if (r.address_step || r.count < 2)
        return false;
    u8 *data = r.data;
    for (u32 left = r.count; left;) {
        const Range *range = enter(r.space, wrap(r.space, r.address));
        if (!range || range->ram || piece_of(*range, wrap(r.space, r.address), r.size) != r.size) {
            inside_.store(nullptr, std::memory_order_release);
            if (left == r.count)
                return false;
            r.count = left; // the device has moved away in the middle of the run: item by item
            r.data = data;
            return false;
        }
        Target &target = *range->target;
        const u64 at = range->offset + (wrap(r.space, r.address) - range->first);
        const u32 n = std::min(left, stretch);
        target.owner().enter([&] {
            if (r.direction == Direction::read)
                target.read_run(at, r.size, data, n, r.data_step);
            else
                target.write_run(at, r.size, data, n, r.data_step);
        });
        leave();
        data += i64{r.data_step} * n;
        left -= n;
    }
    return true;
}

void Accessor::read_bytes(u64 address, std::span<u8> to) noexcept {
    while (!to.empty()) {
        const Range *range = look_up(Space::memory, address);
        std::size_t n = 1;
        if (range && range->ram) {
            n = static_cast<std::size_t>(std::min<u64>(to.size() - 1, range->last - address) + 1);
            std::memcpy(to.data(), range->ram->host() + range->offset + (address - range->first),
                        n);
        } else {
            to[0] = static_cast<u8>(read(Space::memory, address, 1));
        }
        to = to.subspan(n);
        address += n;
    }
}

void Accessor::write_bytes(u64 address, std::span<const u8> from) noexcept {
    while (!from.empty()) {
        const Range *range = look_up(Space::memory, address);
        std::size_t n = 1;
        if (range && range->ram && range->writable) {
            const u64 at = range->offset + (address - range->first);
            n = static_cast<std::size_t>(std::min<u64>(from.size() - 1, range->last - address) + 1);
            std::memcpy(range->ram->host() + at, from.data(), n);
            range->ram->written(at, n);
        } else {
            write(Space::memory, address, 1, from[0]);
        }
        from = from.subspan(n);
        address += n;
    }
}

} // namespace rhea
