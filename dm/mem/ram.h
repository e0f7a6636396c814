// RamRegion: one piece of guest RAM (or ROM, or video memory), a memfd mapped into this process.
//
// Owned through shared_ptr: by the machine and by every published view that shows it, so a pinned
// span outlives an unplug. The bytes are read and written by any thread at any time, as RAM is.
//
// Each 4 KiB page has one byte of flags: a bit per client that wants to know of the next write to
// the page. A zero byte means that a plain store needs nothing else, which is what an engine caches
// in its write TLB. Everybody else stores first and calls written(), which takes the display and
// migration bits away (that is what makes a page dirty) and reports a write to translated code to
// the listener.
#pragma once
#include "dm/core/fence.h"
#include "dm/core/result.h"
#include "dm/core/types.h"
#include <atomic>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace rhea {

inline constexpr u64 page_size = 4096;

enum class PageWatch : u8 {
    code = 1,       // the page has translated code
    display = 2,    // a screen is drawn from it
    migration = 4,  // its content has been sent
    page_table = 8, // an engine shadows what it says; nobody but the engine looks at this bit
};

class AddressMap;
class RamRegion;

// An engine that caches "this page may be stored to freely". Called on any thread, must not block
// or call back.
class RamListener {
public:
    // Pages [first, first + count) have become watched: forget that they may be stored to freely.
    // Who must know that it is forgotten calls AddressMap::renew() and waits for that generation.
    virtual void pages_watched(RamRegion &region, u64 first, u64 count) noexcept = 0;
    // A dirty log is about to look at these pages: an engine whose stores are recorded elsewhere
    // (KVM's dirty bitmap) calls written() for them now.
    virtual void collect_writes(RamRegion &, u64 /*first*/, u64 /*count*/) noexcept {}
    // Bytes [offset, offset + size) of pages with translated code have been written by a device or
    // another engine.
    virtual void code_written(RamRegion &region, u64 offset, u64 size) noexcept = 0;

protected:
    ~RamListener() = default;
};

class RamRegion {
public:
    // `size` bytes, a non-zero multiple of 4 KiB, at most 16 TiB; zero-filled; fails as mmap and
    // memfd_create do.
    static Result<std::shared_ptr<RamRegion>> create(std::string name, u64 size);
    ~RamRegion();
    RamRegion(const RamRegion &) = delete;
    RamRegion &operator=(const RamRegion &) = delete;

    const std::string &name() const noexcept { return name_; }
    u64 size() const noexcept { return size_; }
    u8 *host() const noexcept { return host_; } // host-virtual address of offset 0
    int fd() const noexcept { return fd_; } // the memfd; offset in the file = offset in the region
    std::span<u8> bytes() const noexcept { return {host_, size_}; }

    u64 pages() const noexcept { return size_ / page_size; }
    // One byte a page; the array lives as long as the region.
    std::atomic<u8> *page_flags() const noexcept { return flags_; }

    // To be called after a store to [offset, offset + size) that did not go through a free page.
    void written(u64 offset, u64 size) noexcept {
        full_fence();
        if (!size)
            return;
        for (u64 page = offset / page_size, last = (offset + size - 1) / page_size; page <= last;
             ++page)
            if (flags_[page].load(std::memory_order_relaxed)) [[unlikely]] {
                written_slow(offset, size);
                return;
            }
    }

    // Sets or takes away one client's watch on pages [first, first + count). Setting tells the
    // listeners.
    // Whoever then needs every store seen waits for the engines (see RamListener).
    void watch(PageWatch client, u64 first, u64 count) noexcept;
    void unwatch(PageWatch client, u64 first, u64 count) noexcept;

    void add_listener(RamListener &listener);
    void remove_listener(RamListener &listener) noexcept;

private:
    RamRegion() = default;
    friend class DirtyLog;
    void written_slow(u64 offset, u64 size) noexcept;
    void collect_writes(u64 first, u64 count) noexcept;

    std::string name_;
    u64 size_ = 0;
    int fd_ = -1;
    u8 *host_ = nullptr;
    std::atomic<u8> *flags_ = nullptr;
    std::mutex listeners_mutex_; // leaf
    std::vector<RamListener *> listeners_;
};

struct PageRun {
    u64 first = 0, count = 0; // pages
    bool operator==(const PageRun &) const = default;
};

// DirtyLog: which pages of a region have been written since the last look, for one client.
//
// One log at a time for each client and region. A page is dirty when the client's watch bit is
// gone. Looking waits until every engine has noticed, so no device lock may be held: look first,
// then enter the device with the answer.
class DirtyLog {
public:
    enum class Start : u8 { clean, dirty };
    // `client` is display or migration; `map` is where the region's engines are, and outlives the
    // log.
    DirtyLog(AddressMap &map, std::shared_ptr<RamRegion> region, PageWatch client,
             Start start = Start::dirty);
    ~DirtyLog();
    DirtyLog(const DirtyLog &) = delete;
    DirtyLog &operator=(const DirtyLog &) = delete;

    // The dirty pages of [first, first + count), in order and maximal. They are clean from now on:
    // read their content after the call.
    std::vector<PageRun> take_pages(u64 first, u64 count);
    std::vector<PageRun> take_pages() { return take_pages(0, region_->pages()); }
    // Is a page of the bytes [offset, offset + size) dirty? Clean afterwards.
    bool take(u64 offset, u64 size);

private:
    void watch(const std::vector<PageRun> &runs);

    AddressMap &map_;
    std::shared_ptr<RamRegion> region_;
    PageWatch client_;
};

} // namespace rhea
