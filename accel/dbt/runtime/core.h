#pragma once
// The translator as a library: one virtual CPU over a map of physical memory. run() executes guest
// code, translated where it can be and interpreted elsewhere, until something outside must act; it
// never calls a device. Used by the vCPU's own thread; request() may be called by any.

#include "accel/dbt/cache/block_cache.h"
#include "accel/dbt/guest/x86/insn_cache.h"
#include "accel/dbt/guest/x86/memory.h"
#include "accel/dbt/host/x86_64/codegen.h"
#include "accel/dbt/mmu/physical_map.h"
#include "accel/dbt/runtime/slow_path.h"

#include <memory>

namespace rhea::dbt {

enum class Tier : u8 { interpreter, translator };

// Told of stores to pages that others watch (page flags other than `code`), on the vCPU's thread,
// after the store.
class StoreListener {
public:
    virtual void watched_page_stored(const mmu::PhysicalRange &range, u64 physical,
                                     u64 size) noexcept = 0;

protected:
    ~StoreListener() = default;
};

struct CoreConfig {
    StoreListener *listener = nullptr;
    Tier tier = Tier::translator;
    u64 code_cache_bytes = u64{128} << 20;
    unsigned block_limit = ir::max_instructions; // guest instructions in a block
    bool chain = true; // false: every block ends in the run loop (lock-step tests)
};

struct CoreStatistics {
    u64 blocks = 0, guest_bytes = 0, code_bytes = 0, invalidated = 0, cache_flushes = 0, links = 0;
    u64 entries = 0, interpreted = 0, lookups = 0, slow_accesses = 0, store_flushes = 0, exits = 0;
};

class Core final : private x86::StoreWatch {
public:
    explicit Core(const CoreConfig &config);
    ~Core();
    Core(const Core &) = delete;
    Core &operator=(const Core &) = delete;

    x86::Cpu &cpu() noexcept { return area_->cpu; }
    const x86::Cpu &cpu() const noexcept { return area_->cpu; }

    // The physical memory; replaces an earlier map. Not while run() is under way. `map` outlives
    // its use here.
    void set_map(const mmu::PhysicalMap &map) noexcept;

    // To be called on the thread that will call run(), once, before it.
    void attach_thread() noexcept;

    // Runs until cpu().exit asks for something, or a request stopped it (ExitKind::none). Call
    // again when it is served: for I/O through complete().
    const x86::Exit &run() noexcept;
    // Runs one block (or one instruction, where T0 must); with `chain` off.
    const x86::Exit &run_block() noexcept;
    // Runs exactly one instruction (or interrupt delivery) in T0, for tests and debuggers.
    const x86::Exit &step() noexcept;
    // The I/O of the last exit is done; `value` is what a read gave.
    void complete(u64 value) noexcept;
    // The same for an MSR; `ok` false: there is no such register or value, and the guest gets
    // #GP(0).
    void complete_msr(bool ok, u64 value) noexcept;
    // After ExitKind::interrupt_window and nmi_window.
    void deliver_interrupt(u8 vector) noexcept;
    void deliver_nmi() noexcept;

    // Any thread: makes run() look (at the next block). `bits` are x86::request:: ones.
    void request(u32 bits) noexcept {
        area_->cpu.requests.fetch_or(bits, std::memory_order_release);
    }

    // The vCPU's thread, outside run(): guest memory has been changed from outside: translations of
    // it are dropped.
    void memory_written(u64 physical, u64 size) noexcept;
    // Drops all translations, with the flags that they put on pages of the present map.
    void forget_translations() noexcept { flush_cache(); }
    // State was assigned from outside (reset, restore): derived fields and the TLB follow.
    void state_changed() noexcept;

    CoreStatistics statistics() const noexcept;

private:
    friend SlowResult slow_memory_access(Area *area, u64 linear, u32 descriptor) noexcept;

    friend int interpret_in_block(Area *area, u32 where) noexcept;

    void stored(u64 physical, unsigned size) noexcept override;
    int interpret_in_block(u32 where) noexcept;
    SlowResult access(u64 linear, u32 descriptor) noexcept;
    bool requests_pending() noexcept;
    bool translatable() const noexcept;
    bool ready_to_run() noexcept;
    bool run_once(cache::Link *&link) noexcept; // false: run() must return
    u32 block_mode() const noexcept;
    // False: cpu.exit is filled.
    bool interpret() noexcept;
    enum class Delivery : u8 { done, again_in_t0, shut_down };
    Delivery deliver(const x86::Fault &fault) noexcept;
    const u8 *find_code(cache::Link *link) noexcept;
    cache::Block *translate(u64 physical, const x86::Translation &page,
                            const x86::Translation *second, u32 mode) noexcept;
    void mark_code_page(u64 linear, const x86::Translation &page) noexcept;
    bool crosses_page(const u8 *page, u16 offset, u32 mode) const noexcept;
    void watch_code(u64 physical, const mmu::PhysicalRange &range) noexcept;
    void refresh_key() noexcept;
    void flush_cache() noexcept;
    void forget_jumps() noexcept;
    void forget_jumps_to(const cache::Block &block) noexcept;

    CoreConfig config_;
    Area *area_;
    int area_fd_ = -1;
    x86::Context context_;
    std::unique_ptr<x86::InsnCache> insn_cache_;
    cache::CodeMemory memory_;
    cache::BlockCache blocks_;
    host::Stubs stubs_{};
    host::HostFeatures features_;
    u64 stub_bytes_ = 0;
    std::unique_ptr<x86::LoweredBlock> lowered_;
    std::unique_ptr<host::Generated> generated_;
    CoreStatistics statistics_;
    bool shut_down_ = false; // outside run(): the next run() says so
};

} // namespace rhea::dbt
