#include "dm/mem/ram.h"
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

DirtyLog::DirtyLog(std::shared_ptr<RamRegion> region, PageWatch client, Start start)
    : region_(std::move(region)), client_(client) {
    VERIFY(client != PageWatch::code);
    if (start == Start::clean)
        clean(0, region_->pages());
}

DirtyLog::~DirtyLog() {
    region_->unwatch(client_, 0, region_->pages());
}

bool DirtyLog::take(u64 offset, u64 size) noexcept {
    bool dirty = false;
    if (size && offset < region_->size()) {
        const u64 first = offset / page_size;
        const u64 last = (offset + std::min(size, region_->size() - offset) - 1) / page_size;
        harvest(first, last - first + 1, [&](u64, u64) { dirty = true; });
    }
    return dirty;
}

u64 DirtyLog::dirty_run(u64 first, u64 end) const noexcept {
    u64 page = first;
    while (page < end &&
           !(region_->page_flags()[page].load(std::memory_order_relaxed) & mask_of(client_)))
        ++page;
    return page - first;
}

void DirtyLog::clean(u64 first, u64 count) noexcept {
    region_->watch(client_, first, count);
    full_fence();
}

} // namespace rhea
