#include "accel/dbt/adapter.h"

#include "accel/dbt/cpu_state.h"
#include "accel/dbt/guest/x86/cpuid.h"
#include "accel/dbt/guest/x86/system.h"
#include "accel/dbt/runtime/core.h"
#include "dm/core/config_error.h"
#include "dm/core/trace.h"
#include "dm/mem/dispatcher.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace rhea::dbt {
namespace {

TRACE_POINT(dbt_exit, "the translator's core asks for something: kind, address, size, value");
TRACE_POINT(dbt_map, "the translator takes over a new memory map");

using x86::ExitKind;

class DbtVcpu final : public accel::Vcpu, MapListener, RamListener, StoreListener {
public:
    DbtVcpu(AddressMap &map, const DbtOptions &options, const accel::VcpuConfig &config,
            accel::VcpuClient &client);
    ~DbtVcpu() override;

    unsigned index() const noexcept override { return index_; }
    void run() override;
    void pause() override;
    void kick() noexcept override { interrupt_run(x86::request::stop); }
    void set_interrupt(bool level) noexcept override;
    void raise_nmi() noexcept override { interrupt_run(x86::request::nmi); }
    void raise_init() noexcept override;
    void raise_startup(u8 page) noexcept override;
    void reset() override;
    accel::X86State state() const override;
    void set_state(const accel::X86State &state) override;

private:
    struct Written {
        RamRegion *region;
        u64 offset, size;
    };

    void map_changed(const ViewPtr &before, const ViewPtr &now) noexcept override;
    void pages_watched(RamRegion &region, u64 first, u64 count) noexcept override;
    void code_written(RamRegion &region, u64 offset, u64 size) noexcept override;
    void watched_page_stored(const mmu::PhysicalRange &range, u64 physical,
                             u64 size) noexcept override;

    void interrupt_run(u32 bits) noexcept;
    void thread_main();
    void execute();
    void catch_up() noexcept;
    void take_map(const ViewPtr &view);
    void drop_written() noexcept;
    void serve(const x86::Exit &exit) noexcept;
    void access(Space space, Direction direction, const x86::Exit &exit) noexcept;
    void take_interrupt() noexcept;
    void idle();
    void initialise(bool startup, u8 page) noexcept;

    AddressMap &map_;
    accel::VcpuClient &client_;
    const unsigned index_;
    Core core_;
    ViewReader reader_;
    Accessor accessor_;
    ViewPtr view_; // what physical_map_ was made from; keeps its regions
    mmu::PhysicalMap physical_map_;
    std::vector<RamRegion *> listened_;

    // What other threads ask for, besides Core's request word.
    std::atomic<bool> interrupt_level_{false}, map_stale_{true}, tlb_stale_{false}, init_{false};
    std::atomic<int> startup_{-1};
    std::mutex written_mutex_; // leaf
    std::vector<Written> written_;
    bool written_overflow_ = false;

    std::mutex mutex_; // run state; a leaf as well
    std::condition_variable changed_;
    bool wanted_ = false, running_ = false, quit_ = false, shut_down_ = false;
    u64 wakes_ = 0;
    std::thread thread_;
};

DbtVcpu::DbtVcpu(AddressMap &map, const DbtOptions &options, const accel::VcpuConfig &config,
                 accel::VcpuClient &client)
    : map_(map), client_(client), index_(config.index),
      core_({.listener = this,
             .tier = options.interpret_only ? Tier::interpreter : Tier::translator,
             .code_cache_bytes = options.code_cache_bytes}),
      reader_(map), accessor_(map, &reader_) {
    const std::string problem =
        x86::set_cpu_model(core_.cpu(), config.model, {.apic_id = index_, .count = 1});
    if (!problem.empty())
        throw ConfigError("-cpu " + config.model + ": " + problem);
    core_.set_map(physical_map_);
    x86::reset(core_.cpu(), false);
    core_.state_changed();
    map_.add_listener(*this);
    thread_ = std::thread([this] { thread_main(); });
}

DbtVcpu::~DbtVcpu() {
    {
        std::lock_guard guard(mutex_);
        quit_ = true;
        wanted_ = false;
    }
    interrupt_run(x86::request::stop);
    thread_.join();
    map_.remove_listener(*this);
    for (RamRegion *region : listened_)
        region->remove_listener(*this);
}

// --- any thread

void DbtVcpu::interrupt_run(u32 bits) noexcept {
    core_.request(bits);
    std::lock_guard guard(mutex_);
    ++wakes_;
    changed_.notify_all();
}

void DbtVcpu::set_interrupt(bool level) noexcept {
    interrupt_level_.store(level, std::memory_order_release);
    if (level)
        interrupt_run(x86::request::interrupt);
}

void DbtVcpu::raise_init() noexcept {
    init_.store(true);
    interrupt_run(x86::request::init);
}

void DbtVcpu::raise_startup(u8 page) noexcept {
    startup_.store(page);
    interrupt_run(x86::request::sipi);
}

void DbtVcpu::map_changed(const ViewPtr &, const ViewPtr &) noexcept {
    map_stale_.store(true, std::memory_order_release);
    interrupt_run(x86::request::map_changed);
}

void DbtVcpu::pages_watched(RamRegion &, u64, u64) noexcept {
    tlb_stale_.store(true, std::memory_order_release);
    interrupt_run(x86::request::flush_tlb);
}

void DbtVcpu::code_written(RamRegion &region, u64 offset, u64 size) noexcept {
    constexpr usize most = 4096;
    {
        std::lock_guard guard(written_mutex_);
        if (written_.size() < most)
            written_.push_back({&region, offset, size});
        else
            written_overflow_ = true;
    }
    interrupt_run(x86::request::code_written);
}

void DbtVcpu::run() {
    std::lock_guard guard(mutex_);
    wanted_ = true;
    ++wakes_;
    changed_.notify_all();
}

void DbtVcpu::pause() {
    {
        std::lock_guard guard(mutex_);
        wanted_ = false;
    }
    interrupt_run(x86::request::stop);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !running_; });
}

// --- while paused

void DbtVcpu::reset() {
    x86::reset(core_.cpu(), false);
    core_.state_changed();
    shut_down_ = false;
}

accel::X86State DbtVcpu::state() const {
    return export_state(core_.cpu(), client_.task_priority());
}

void DbtVcpu::set_state(const accel::X86State &state) {
    import_state(core_.cpu(), state);
    core_.state_changed();
    client_.set_task_priority(state.cr8);
    shut_down_ = false;
}

// --- the vCPU's thread

void DbtVcpu::thread_main() {
    core_.attach_thread();
    for (;;) {
        {
            std::unique_lock lock(mutex_);
            running_ = false;
            changed_.notify_all();
            changed_.wait(lock, [&] { return wanted_ || quit_; });
            if (quit_)
                return;
            running_ = true;
        }
        execute();
    }
}

void DbtVcpu::execute() {
    map_stale_.store(true, std::memory_order_relaxed); // may have changed unseen while we were idle
    if (interrupt_level_.load(std::memory_order_acquire))
        core_.request(x86::request::interrupt);
    for (;;) {
        {
            std::lock_guard guard(mutex_);
            if (!wanted_)
                break;
        }
        catch_up();
        if (core_.cpu().halted || core_.cpu().wait_for_sipi || shut_down_) {
            idle();
            continue;
        }
        // Exits that change nothing of the run state need not look at it again.
        for (;;) {
            const x86::Exit &exit = core_.run();
            TRACE(dbt_exit, "kind %u address %llx size %u value %llx", unsigned(exit.kind),
                  (unsigned long long)exit.address, exit.size, (unsigned long long)exit.value);
            if (exit.kind == ExitKind::none)
                break;
            serve(exit);
            if (core_.cpu().halted || shut_down_)
                break;
            if (map_stale_.load(std::memory_order_acquire)) [[unlikely]]
                catch_up();
        }
    }
    reader_.idle();
}

// Takes over what other threads have changed.
void DbtVcpu::catch_up() noexcept {
    if (reader_.is_idle() || map_stale_.load(std::memory_order_acquire)) {
        map_stale_.store(false, std::memory_order_relaxed);
        const u64 generation = reader_.active();
        if (!view_ || view_->generation != generation)
            take_map(map_.view());
        reader_.seen(view_->generation);
    }
    if (tlb_stale_.exchange(false, std::memory_order_acq_rel))
        x86::flush_tlb(core_.cpu(), true);
    drop_written();
    if (init_.exchange(false))
        initialise(false, 0);
    if (const int page = startup_.exchange(-1); page >= 0)
        initialise(true, u8(page));
}

void DbtVcpu::take_map(const ViewPtr &view) {
    std::vector<mmu::PhysicalRange> ranges;
    for (const Range &r : (*view)[Space::memory]) {
        if (!r.ram)
            continue;
        // The core maps whole pages; what shares a page with something else goes through the
        // dispatcher.
        const u64 skip = (page_size - r.first % page_size) % page_size;
        if (r.last - r.first < skip)
            continue;
        const u64 size = (r.last - (r.first + skip) + 1) & ~(page_size - 1),
                  offset = r.offset + skip;
        if (size == 0 || offset % page_size)
            continue;
        ranges.push_back(
            {.base = r.first + skip,
             .size = size,
             .host = r.ram->host() + offset,
             .writable = r.writable,
             .page_flags = r.writable ? r.ram->page_flags() + offset / page_size : nullptr,
             .owner = r.ram,
             .owner_offset = offset});
    }
    for (const std::shared_ptr<RamRegion> &region : view->keep)
        if (std::find(listened_.begin(), listened_.end(), region.get()) == listened_.end()) {
            region->add_listener(*this);
            listened_.push_back(region.get());
        }
    const std::span<const mmu::PhysicalRange> old = physical_map_.ranges();
    if (!std::equal(ranges.begin(), ranges.end(), old.begin(), old.end())) {
        TRACE(dbt_map, "%zu ranges", ranges.size());
        mmu::PhysicalMap next(std::move(ranges));
        core_.forget_translations(); // while the old map can still find their pages
        physical_map_ = std::move(next);
        core_.set_map(physical_map_);
    }
    // Regions that have gone: nothing of ours points to them any more.
    std::erase_if(listened_, [&](RamRegion *region) {
        const bool kept = std::any_of(view->keep.begin(), view->keep.end(),
                                      [&](const auto &k) { return k.get() == region; });
        if (!kept)
            region->remove_listener(*this);
        return !kept;
    });
    view_ = view;
}

void DbtVcpu::drop_written() noexcept {
    std::vector<Written> written;
    bool all = false;
    {
        std::lock_guard guard(written_mutex_);
        if (written_.empty())
            return;
        written.swap(written_);
        all = std::exchange(written_overflow_, false);
    }
    if (all) {
        core_.forget_translations();
        return;
    }
    for (const Written &w : written)
        for (const mmu::PhysicalRange &r : physical_map_.ranges()) {
            if (r.owner != w.region || w.offset >= r.owner_offset + r.size ||
                w.offset + w.size <= r.owner_offset)
                continue;
            const u64 first = std::max(w.offset, r.owner_offset),
                      end = std::min(w.offset + w.size, r.owner_offset + r.size);
            core_.memory_written(r.base + (first - r.owner_offset), end - first);
        }
}

void DbtVcpu::watched_page_stored(const mmu::PhysicalRange &range, u64 physical,
                                  u64 size) noexcept {
    static_cast<RamRegion *>(range.owner)
        ->written(range.owner_offset + (physical - range.base), size);
}

void DbtVcpu::access(Space space, Direction direction, const x86::Exit &exit) noexcept {
    Request request{.space = space,
                    .direction = direction,
                    .size = exit.size,
                    .address = exit.address,
                    .value = exit.value};
    if (!client_.serve_local(request))
        accessor_.serve(request);
    core_.complete(request.value);
}

void DbtVcpu::serve(const x86::Exit &exit) noexcept {
    switch (exit.kind) {
    case ExitKind::none:
    case ExitKind::halt: // cpu.halted says it
        break;
    case ExitKind::port_read: access(Space::port, Direction::read, exit); break;
    case ExitKind::port_write: access(Space::port, Direction::write, exit); break;
    case ExitKind::memory_read: access(Space::memory, Direction::read, exit); break;
    case ExitKind::memory_write: access(Space::memory, Direction::write, exit); break;
    case ExitKind::msr_read: {
        u64 value = 0;
        const bool ok = client_.read_msr(u32(exit.address), value);
        core_.complete_msr(ok, value);
        break;
    }
    case ExitKind::msr_write:
        core_.complete_msr(client_.write_msr(u32(exit.address), exit.value), 0);
        break;
    case ExitKind::task_priority_read: core_.complete(client_.task_priority()); break;
    case ExitKind::task_priority_write:
        client_.set_task_priority(exit.value);
        core_.complete(0);
        break;
    case ExitKind::shutdown:
        shut_down_ = true;
        client_.cpu_shut_down();
        break;
    case ExitKind::interrupt_window: take_interrupt(); break;
    case ExitKind::nmi_window:
        core_.cpu().halted = false;
        core_.deliver_nmi();
        break;
    }
}

void DbtVcpu::take_interrupt() noexcept {
    const int vector = client_.acknowledge_interrupt();
    if (vector < 0)
        return;
    core_.cpu().halted = false;
    core_.deliver_interrupt(u8(vector));
    if (interrupt_level_.load(std::memory_order_acquire))
        core_.request(x86::request::interrupt);
}

// HLT, wait-for-SIPI or shutdown: sleeps until something could change that.
void DbtVcpu::idle() {
    x86::Cpu &cpu = core_.cpu();
    u64 wakes = 0;
    {
        std::lock_guard guard(mutex_);
        wakes = wakes_;
    }
    if (!shut_down_ && !cpu.wait_for_sipi) {
        if (cpu.requests.load() & x86::request::nmi && !cpu.nmi_blocked) {
            cpu.requests.fetch_and(~x86::request::nmi);
            cpu.halted = false;
            core_.deliver_nmi();
            return;
        }
        const u32 pending = cpu.requests.fetch_and(~x86::request::interrupt) |
                            cpu.deferred_requests | cpu.local_requests;
        if (pending & x86::request::interrupt) {
            if (x86::interrupts_enabled(cpu)) {
                cpu.deferred_requests &= ~x86::request::interrupt;
                cpu.local_requests &= ~x86::request::interrupt;
                take_interrupt();
                if (!cpu.halted)
                    return;
            } else {
                cpu.deferred_requests |= x86::request::interrupt;
            }
        }
    }
    cpu.requests.fetch_and(~(x86::request::stop | x86::request::map_changed |
                             x86::request::flush_tlb | x86::request::code_written |
                             x86::request::init | x86::request::sipi));
    reader_.idle();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return wakes_ != wakes || !wanted_ || quit_; });
}

// INIT, and the start-up IPI that ends its wait (SDM volume 3, 8.4.3).
void DbtVcpu::initialise(bool startup, u8 page) noexcept {
    x86::Cpu &cpu = core_.cpu();
    if (!startup) {
        x86::reset(cpu, true);
        cpu.wait_for_sipi = index_ != 0;
        core_.state_changed();
        return;
    }
    if (!cpu.wait_for_sipi)
        return;
    cpu.wait_for_sipi = false;
    cpu.seg[x86::cs].selector = u16(page << 8);
    cpu.seg[x86::cs].base = u64(page) << 12;
    cpu.rip = 0;
    core_.state_changed();
}

class Dbt final : public accel::Accelerator {
public:
    Dbt(AddressMap &map, const DbtOptions &options) : map_(map), options_(options) {}
    std::string_view name() const noexcept override { return "dbt"; }
    std::unique_ptr<accel::Vcpu> create_vcpu(const accel::VcpuConfig &config,
                                             accel::VcpuClient &client) override {
        return std::make_unique<DbtVcpu>(map_, options_, config, client);
    }

private:
    AddressMap &map_;
    const DbtOptions options_;
};

} // namespace

std::unique_ptr<accel::Accelerator> make_dbt(AddressMap &map, const DbtOptions &options) {
    return std::make_unique<Dbt>(map, options);
}

} // namespace rhea::dbt
