// AddressMap: what is at which address, in the three spaces of a machine (memory, ports, PCI
// configuration).
//
// Owned by the machine. Mapping and unmapping: any thread, also from device code with its lock held
// (a BAR write); the writer lock is a leaf. Reading: through immutable, sorted, disjoint snapshots
// (View) that are swapped on change, so a reader takes no lock and writes nothing shared.
//
// Overlap: the mapping with the higher priority shows; of equal ones, the one mapped later.
// Addresses are inclusive
// (`last`), so that a mapping may end at 2^64 - 1.
//
// Who keeps a view between accesses (an engine's TLB, KVM's slots) is a ViewReader; who changes the
// map and must know that nobody uses the old one any more calls wait_seen() with no device lock
// held. The dispatcher does so on its way out of a device that changed the map. Before a device is
// destroyed, unmap it and call drain().
#pragma once
#include "dm/core/types.h"
#include "dm/mem/ram.h"
#include "dm/mem/request.h"
#include "dm/mem/target.h"
#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace rhea {

// One stretch of a space: RAM (ram, writable), ROM (ram, not writable, no target), a device (target
// only), or RAM that is read directly and written through a device (ram and target, not writable:
// flash).
struct Range {
    u64 first = 0;
    u64 last = 0;             // inclusive
    u64 offset = 0;           // of `first` in the RAM region or in the target's window
    RamRegion *ram = nullptr; // kept alive by the view
    Target *target = nullptr;
    Owner *owner = nullptr; // the target's; who looks must not touch the target before it is inside
    bool writable = false;
    u64 size() const noexcept { return last - first + 1; } // 0 means 2^64
    bool contains(u64 address) const noexcept { return address - first <= last - first; }
};

struct View {
    u64 generation = 0;
    std::array<std::vector<Range>, space_count> ranges; // sorted by address, disjoint
    std::vector<std::shared_ptr<RamRegion>> keep;       // every region that is shown

    const std::vector<Range> &operator[](Space s) const noexcept {
        return ranges[static_cast<unsigned>(s)];
    }
    const Range *find(Space space, u64 address) const noexcept; // null: nothing there
};
using ViewPtr = std::shared_ptr<const View>;

class AddressMap;

// The right to an address range; unmapped when destroyed. Moves keep the mapping where it is.
class [[nodiscard]] Mapping {
public:
    Mapping() = default;
    Mapping(Mapping &&other) noexcept
        : map_(std::exchange(other.map_, nullptr)), id_(std::exchange(other.id_, 0)) {}
    Mapping &operator=(Mapping &&other) noexcept {
        if (this != &other) {
            unmap();
            map_ = std::exchange(other.map_, nullptr);
            id_ = std::exchange(other.id_, 0);
        }
        return *this;
    }
    ~Mapping() { unmap(); }

    explicit operator bool() const noexcept { return map_; }
    void unmap() noexcept;
    // One new view each: at another address; shown or hidden; RAM made writable or read-only. A
    // base from which the mapping would not fit into its space hides it.
    void move(u64 base) noexcept;
    void show(bool shown) noexcept;
    void move_and_show(u64 base, bool shown) noexcept;
    void set_writable(bool writable) noexcept;

private:
    friend class AddressMap;
    Mapping(AddressMap &map, u64 id) noexcept : map_(&map), id_(id) {}
    AddressMap *map_ = nullptr;
    u64 id_ = 0;
};

// Learns of every change. Called under the writer lock, in order: it must not block, and not call
// the map.
class MapListener {
public:
    // The new view is in force for who looks now; an engine raises an exit request in its vCPUs
    // here.
    virtual void map_changed(const ViewPtr &before, const ViewPtr &now) noexcept = 0;

protected:
    ~MapListener() = default;
};

// A thread that keeps translations of the view between its accesses (one vCPU of an engine).
//
// The owner calls seen(generation) when it uses nothing older than that generation, and idle()
// while it uses nothing at all (halted, stopped, inside a device call). After idle(), before it
// uses translations again, it calls active() and compares the answer with the generation of its
// translations.
class ViewReader {
public:
    explicit ViewReader(AddressMap &map); // starts idle
    ~ViewReader();
    ViewReader(const ViewReader &) = delete;
    ViewReader &operator=(const ViewReader &) = delete;

    void seen(u64 generation) noexcept;
    void idle() noexcept { seen(never); }
    u64 active() noexcept; // the generation in force, announced as seen
    bool is_idle() const noexcept { return seen_.load(std::memory_order_relaxed) == never; }

private:
    friend class AddressMap;
    static constexpr u64 never = ~u64{0};
    AddressMap &map_;
    std::atomic<u64> seen_{never};
};

class Accessor;

class AddressMap {
public:
    AddressMap();
    ~AddressMap(); // all mappings, readers and accessors are gone by then
    AddressMap(const AddressMap &) = delete;
    AddressMap &operator=(const AddressMap &) = delete;

    // A device's window at [base, base + size). `size` is not 0 and base + size - 1 must fit into
    // the space; where the base comes from the guest, map it hidden and use Mapping::move_and_show.
    Mapping map(Space space, u64 base, u64 size, Target &target, int priority = 0,
                bool shown = true);
    // RAM: [offset, offset + size) of the region. Several mappings may show the same bytes.
    Mapping map_ram(u64 base, std::shared_ptr<RamRegion> ram, u64 offset, u64 size,
                    int priority = 0, bool shown = true);
    Mapping map_ram(u64 base, std::shared_ptr<RamRegion> ram, int priority = 0, bool shown = true) {
        const u64 size = ram->size();
        return map_ram(base, std::move(ram), 0, size, priority, shown);
    }
    // Reads come from RAM; writes are ignored, or go to `target` at the same offset.
    Mapping map_rom(u64 base, std::shared_ptr<RamRegion> ram, u64 offset, u64 size,
                    int priority = 0, bool shown = true, Target *target = nullptr);

    // Changed by every new view, from 1. One acquire load.
    u64 generation() const noexcept { return generation_.load(std::memory_order_seq_cst); }
    ViewPtr view() const; // the one in force

    // The same view under a new generation, which is the answer: what engines have cached about
    // pages (not addresses) is out of date.
    u64 renew() noexcept;

    // It is told of the present view at once, with an empty `before`.
    void add_listener(MapListener &listener);
    void remove_listener(MapListener &listener) noexcept;

    // Blocks until every ViewReader has seen `generation` or is idle. No device lock may be held,
    // and the calling thread's own reader must be idle.
    void wait_seen(u64 generation) noexcept;
    // Blocks until no access is inside the device, or on its way in, through any Accessor. Its
    // targets must be unmapped, and no device lock held by the caller.
    void drain(const Owner &device) noexcept;

private:
    friend class Mapping;
    friend class ViewReader;
    friend class Accessor;
    struct Layer;
    template <class Fn> void change(u64 id, Fn &&fn) noexcept;
    Mapping add(Layer &&layer) noexcept;
    void remove(u64 id) noexcept;
    // With the writer lock held; the old view dies after it is dropped.
    void publish(Space changed, ViewPtr &old) noexcept;
    void put_in_force(std::shared_ptr<View> view, ViewPtr &old) noexcept;
    void reader_changed() noexcept;

    mutable std::mutex mutex_; // the writer lock
    std::vector<Layer> layers_;
    std::vector<MapListener *> listeners_;
    ViewPtr view_;
    std::atomic<u64> generation_{0};
    u64 next_id_ = 1;

    std::mutex readers_mutex_; // leaf
    std::condition_variable readers_changed_;
    std::atomic<u32> waiting_{0};
    std::vector<ViewReader *> readers_;
    std::vector<Accessor *> accessors_;
};

} // namespace rhea
