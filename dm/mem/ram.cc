#include "dm/mem/ram.h"
#include "dm/mem/address_space.h"
#include <algorithm>
#include <cerrno>
#include <sys/mman.h>
#include <unistd.h>

namespace rhea {

namespace {
constexpr u8 mask_of(PageWatch w) {
    return static_cast<u8>(w);
}
constexpr u64 largest_region = u64{16} << 40;
} // namespace

Result<std::shared_ptr<RamRegion>> RamRegion::create(std::string name, u64 size) {
    if (size == 0 || size % page_size || size > largest_region)
        return fail(EINVAL, "memory '" + name + "': size " + std::to_string(size) +
                                " is not a multiple of 4096 bytes up to 16 TiB");
    std::shared_ptr<RamRegion> r(new RamRegion);
    r->name_ = std::move(name);
    r->fd_ = memfd_create(r->name_.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (r->fd_ < 0)
        return fail_errno("memory '" + r->name_ + "'");
    if (ftruncate(r->fd_, static_cast<off_t>(size)) < 0)
        return fail_errno("memory '" + r->name_ + "' of " + std::to_string(size) + " bytes");
    void *p = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, r->fd_, 0);
    if (p == MAP_FAILED)
        return fail_errno("memory '" + r->name_ + "' of " + std::to_string(size) + " bytes");
    r->host_ = static_cast<u8 *>(p);
    r->size_ = size;
    void *f = mmap(nullptr, r->pages(), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f == MAP_FAILED)
        return fail_errno("page flags of memory '" + r->name_ + "'");
    static_assert(sizeof(std::atomic<u8>) == 1 && std::atomic<u8>::is_always_lock_free);
    r->flags_ = static_cast<std::atomic<u8> *>(f);
    return r;
}

RamRegion::~RamRegion() {
    if (flags_)
        munmap(flags_, pages());
    if (host_)
        munmap(host_, size_);
    if (fd_ >= 0)
        close(fd_);
}

void RamRegion::written_slow(u64 offset, u64 size) noexcept {
    constexpr u8 dirty = mask_of(PageWatch::display) | mask_of(PageWatch::migration);
    bool code = false;
    for (u64 page = offset / page_size, last = (offset + size - 1) / page_size; page <= last;
         ++page) {
        const u8 flags = flags_[page].load(std::memory_order_relaxed);
        if (flags & dirty)
            flags_[page].fetch_and(static_cast<u8>(~dirty), std::memory_order_seq_cst);
        code |= flags & mask_of(PageWatch::code);
    }
    if (!code)
        return;
    std::lock_guard guard(listeners_mutex_);
    for (RamListener *l : listeners_)
        l->code_written(*this, offset, size);
}

void RamRegion::watch(PageWatch client, u64 first, u64 count) noexcept {
    VERIFY(first <= pages() && count <= pages() - first);
    for (u64 page = first; page < first + count; ++page)
        flags_[page].fetch_or(mask_of(client), std::memory_order_seq_cst);
    std::lock_guard guard(listeners_mutex_);
    for (RamListener *l : listeners_)
        l->pages_watched(*this, first, count);
}

void RamRegion::unwatch(PageWatch client, u64 first, u64 count) noexcept {
    VERIFY(first <= pages() && count <= pages() - first);
    for (u64 page = first; page < first + count; ++page)
        flags_[page].fetch_and(static_cast<u8>(~mask_of(client)), std::memory_order_seq_cst);
}

void RamRegion::add_listener(RamListener &listener) {
    std::lock_guard guard(listeners_mutex_);
    listeners_.push_back(&listener);
}

void RamRegion::remove_listener(RamListener &listener) noexcept {
    std::lock_guard guard(listeners_mutex_);
    std::erase(listeners_, &listener);
}

void RamRegion::collect_writes(u64 first, u64 count) noexcept {
    // Not under the lock: the listener calls written(), which takes it for translated code.
    std::vector<RamListener *> listeners;
    {
        std::lock_guard guard(listeners_mutex_);
        listeners = listeners_;
    }
    for (RamListener *l : listeners)
        l->collect_writes(*this, first, count);
}

DirtyLog::DirtyLog(AddressMap &map, std::shared_ptr<RamRegion> region, PageWatch client,
                   Start start)
    : map_(map), region_(std::move(region)), client_(client) {
    VERIFY(client == PageWatch::display || client == PageWatch::migration);
    if (start == Start::clean)
        watch({{0, region_->pages()}});
}

DirtyLog::~DirtyLog() {
    region_->unwatch(client_, 0, region_->pages());
}

std::vector<PageRun> DirtyLog::take_pages(u64 first, u64 count) {
    VERIFY(first <= region_->pages() && count <= region_->pages() - first);
    region_->collect_writes(first, count);
    std::vector<PageRun> runs;
    const std::atomic<u8> *flags = region_->page_flags();
    for (u64 page = first; page < first + count; ++page) {
        if (flags[page].load(std::memory_order_relaxed) & mask_of(client_))
            continue;
        if (!runs.empty() && runs.back().first + runs.back().count == page)
            ++runs.back().count;
        else
            runs.push_back({page, 1});
    }
    watch(runs);
    return runs;
}

bool DirtyLog::take(u64 offset, u64 size) {
    if (!size || offset >= region_->size())
        return false;
    const u64 first = offset / page_size;
    const u64 last = (offset + std::min(size, region_->size() - offset) - 1) / page_size;
    return !take_pages(first, last - first + 1).empty();
}

void DirtyLog::watch(const std::vector<PageRun> &runs) {
    if (runs.empty())
        return;
    for (const PageRun &r : runs)
        region_->watch(client_, r.first, r.count);
    map_.wait_seen(map_.renew());
}

} // namespace rhea
