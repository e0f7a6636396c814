#include "accel/dbt/runtime/core.h"

#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/flags.h"
#include "accel/dbt/guest/x86/memory.h"
#include "accel/dbt/guest/x86/system.h"
#include "accel/dbt/runtime/slow_path.h"

#include <asm/prctl.h>
#include <cstring>
#include <iterator>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

namespace rhea::dbt {

using x86::ExitKind;
using x86::Outcome;
using x86::Step;

namespace {

constexpr u64 room_for_block = u64{256} << 10; // more than max_instructions can need

// Shared memory, so that a later tier can see it from other processes.
Area *map_area(int &fd) {
    const u64 size = (sizeof(Area) + 4095) & ~u64{4095};
    fd = memfd_create("rhea-vcpu", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, i64(size)) != 0)
        return nullptr;
    void *const at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? nullptr : static_cast<Area *>(at);
}

} // namespace

Core::Core(const CoreConfig &config)
    : config_(config), area_(map_area(area_fd_)), context_{area_->cpu, nullptr, this},
      insn_cache_(std::make_unique<x86::InsnCache>()),
      memory_(config.tier == Tier::translator ? config.code_cache_bytes : 0), blocks_(memory_),
      features_(host::detect_host_features()), lowered_(std::make_unique<x86::LoweredBlock>()),
      generated_(std::make_unique<host::Generated>()) {
    area_->self = area_;
    area_->owner = this;
    context_.insn_cache = insn_cache_.get();
    if (config.tier == Tier::translator && memory_.valid()) {
        u32 size = 0;
        host::write_stubs({memory_.here(), memory_.end(), memory_.executable_delta()}, stubs_,
                          size);
        memory_.take(size);
        stub_bytes_ = memory_.used();
    } else {
        config_.tier = Tier::interpreter;
    }
}

Core::~Core() {
    munmap(area_, (sizeof(Area) + 4095) & ~u64{4095});
    close(area_fd_);
}

void Core::set_map(const mmu::PhysicalMap &map) noexcept {
    // Translations are keyed by physical address; what lies there may be something else now.
    flush_cache();
    context_.map = &map;
    x86::flush_tlb(cpu(), true);
}

void Core::attach_thread() noexcept {
    syscall(SYS_arch_prctl, ARCH_SET_GS, area_);
}

void Core::state_changed() noexcept {
    shut_down_ = false;
    x86::flush_tlb(cpu(), true);
    x86::update_mode(cpu());
}

// What the code cache is keyed with: only what translation depends on.
u32 Core::block_mode() const noexcept {
    u32 mode = cpu().mode;
    constexpr u16 x87_masks = 0x3f, x87_error = 0x80;
    if ((cpu().fpu.control & x87_masks) != x87_masks || (cpu().fpu.status & x87_error))
        mode &= ~x86::mode::x87;
    // Unmasked x87 and SSE exceptions are delivered precisely by T0; MXCSR changes only there.
    constexpr u32 all_masked = 0x1f80;
    if ((cpu().mxcsr & all_masked) != all_masked)
        mode &= ~x86::mode::sse;
    return mode;
}

bool Core::translatable() const noexcept {
    const x86::Cpu &c = cpu();
    constexpr u32 needed = x86::mode::flat | x86::mode::protected_,
                  refused = x86::mode::trap | x86::mode::vm86;
    return config_.tier == Tier::translator && (c.mode & (needed | refused)) == needed &&
           (c.mode & x86::mode::code_mask) != x86::mode::code16 && (c.mode & x86::mode::stack32) &&
           !c.interrupt_shadow && c.io.served == 0 && !c.single_step_pending && !c.pending.valid &&
           !(c.rflags & x86::flag::rf);
}

void Core::refresh_key() noexcept {
    const bool user = (cpu().mode & x86::mode::user) != 0;
    area_->dispatch_key = u64{block_mode()} | u64{cpu().tlb.code_generation[user]} << 32;
}

void Core::forget_jumps() noexcept {
    ++cpu().tlb.code_generation[0];
    ++cpu().tlb.code_generation[1];
}

void Core::forget_jumps_to(const cache::Block &block) noexcept {
    if (block.jump_count > std::size(block.jump_slot)) {
        forget_jumps();
        return;
    }
    for (unsigned i = 0; i < block.jump_count; ++i)
        if (JumpEntry &jump = area_->jump[block.jump_slot[i]]; jump.code == block.entry)
            jump = {};
}

// True: run() must return, cpu.exit says why.
bool Core::requests_pending() noexcept {
    x86::Cpu &c = cpu();
    if (c.deferred_requests && x86::interrupts_enabled(c))
        c.local_requests |= c.deferred_requests;
    const u32 pending = c.requests.load(std::memory_order_acquire) | c.local_requests;
    if (pending == 0)
        return false;
    auto take = [&](u32 bits) {
        c.requests.fetch_and(~bits, std::memory_order_acq_rel);
        c.local_requests &= ~bits;
    };
    if (pending & ~(x86::request::interrupt | x86::request::nmi)) {
        take(~(x86::request::interrupt | x86::request::nmi));
        c.exit.kind = ExitKind::none;
        return true;
    }
    if (c.io.served) // in the middle of an instruction
        return false;
    if (pending & x86::request::nmi) {
        take(x86::request::nmi);
        if (!c.nmi_blocked && !c.interrupt_shadow) {
            c.exit.kind = ExitKind::nmi_window;
            return true;
        }
        c.nmi_pending = true; // IRET will end the blocking
    }
    if (pending & x86::request::interrupt) {
        take(x86::request::interrupt);
        c.deferred_requests &= ~x86::request::interrupt;
        if (x86::interrupts_enabled(c)) {
            c.exit.kind = ExitKind::interrupt_window;
            return true;
        }
        c.deferred_requests |= x86::request::interrupt;
    }
    return false;
}

bool Core::interpret() noexcept {
    ++statistics_.interpreted;
    x86::Cpu &c = cpu();
    Step step = Step::repeat;
    while (step == Step::repeat) { // REP: piece by piece, until somebody asks for something
        step = x86::step(context_);
        if (c.requests.load(std::memory_order_relaxed) | c.local_requests)
            break;
    }
    if (step == Step::exit)
        return false;
    if (c.nmi_pending && !c.nmi_blocked) {
        c.nmi_pending = false;
        c.local_requests |= x86::request::nmi;
    }
    return true;
}

const x86::Exit &Core::step() noexcept {
    cpu().exit.kind = ExitKind::none;
    x86::materialise_flags(cpu());
    interpret();
    return cpu().exit;
}

Core::Delivery Core::deliver(const x86::Fault &fault) noexcept {
    x86::materialise_flags(cpu());
    if (fault.vector == x86::vector::pf)
        cpu().cr2 = fault.address;
    if (x86::deliver_exception(context_, fault.vector, fault.has_error_code, fault.error_code) !=
        Step::exit)
        return Delivery::done;
    if (cpu().exit.kind == ExitKind::shutdown)
        return Delivery::shut_down;
    // The IDT, GDT or stack is a device. Nothing has changed yet: T0 can run the instruction again,
    // fault again and find the device's answers in the log.
    cpu().io.served = cpu().io.cursor = 0;
    return Delivery::again_in_t0;
}

// A delivery that needs I/O first stays in cpu.pending, and T0 takes it up again in run().
void Core::deliver_interrupt(u8 vector) noexcept {
    x86::materialise_flags(cpu());
    shut_down_ = x86::deliver_interrupt(context_, vector) == Step::exit &&
                 cpu().exit.kind == ExitKind::shutdown;
}

void Core::deliver_nmi() noexcept {
    x86::materialise_flags(cpu());
    shut_down_ = x86::deliver_nmi(context_) == Step::exit && cpu().exit.kind == ExitKind::shutdown;
}

void Core::complete(u64 value) noexcept {
    x86::IoLog &io = cpu().io;
    if (io.served < x86::IoLog::capacity)
        io.value[io.served++] = value;
}

void Core::complete_msr(bool ok, u64 value) noexcept {
    if (ok) {
        complete(value);
        return;
    }
    cpu().io.served = cpu().io.cursor = 0;
    if (deliver({x86::vector::gp, true, 0, 0}) == Delivery::shut_down)
        shut_down_ = true;
}

// One round of the run loop: translated code until it leaves, or one step of T0.
bool Core::run_once(cache::Link *&link) noexcept {
    x86::Cpu &c = cpu();
    cache::Link *const from = std::exchange(link, nullptr);
    if (c.halted) { // HLT has retired
        c.exit.kind = ExitKind::halt;
        return false;
    }
    if (requests_pending())
        return false;
    if (!translatable())
        return interpret();
    const u8 *const code = find_code(from);
    if (!code)
        return c.exit.kind == ExitKind::none;
    ++statistics_.entries;
    using Enter = u32 (*)(Area *, const u8 *);
    const auto enter = reinterpret_cast<Enter>(reinterpret_cast<u64>(stubs_.enter));
    switch (Leave(enter(area_, code))) {
    case Leave::request:
    case Leave::lookup:
    case Leave::resume: break;
    case Leave::link: link = static_cast<cache::Link *>(area_->link); break;
    case Leave::interpret: return interpret();
    case Leave::exit: return false;
    }
    return true;
}

bool Core::ready_to_run() noexcept {
    cpu().exit.kind = shut_down_ ? ExitKind::shutdown : ExitKind::none;
    return !shut_down_;
}

const x86::Exit &Core::run() noexcept {
    if (!ready_to_run())
        return cpu().exit;
    cache::Link *link = nullptr;
    while (run_once(link)) {
    }
    ++statistics_.exits;
    return cpu().exit;
}

const x86::Exit &Core::run_block() noexcept {
    if (!ready_to_run())
        return cpu().exit;
    cache::Link *link = nullptr;
    run_once(link);
    return cpu().exit;
}

// The translation of the code at RIP. Null: a fault was delivered, T0 ran something in its place,
// or (exit.kind is set) run() must return.
const u8 *Core::find_code(cache::Link *link) noexcept {
    x86::Cpu &c = cpu();
    refresh_key();
    const u64 linear = c.rip;
    c.page_base = linear & mmu::page_mask;
    JumpEntry &jump = area_->jump[jump_index(linear)];
    if (!link && jump.linear == linear && jump.key == area_->dispatch_key)
        return jump.code;
    ++statistics_.lookups;
    x86::Translation page{};
    x86::Fault fault{};
    const Outcome outcome = x86::translate_fetch(context_, linear, page, fault);
    if (outcome == Outcome::fault) {
        if (deliver(fault) == Delivery::again_in_t0)
            interpret();
        return nullptr;
    }
    if (outcome == Outcome::exit || !page.host) {
        interpret();
        return nullptr;
    }
    const u64 physical = page.physical | (linear & ~mmu::page_mask);
    const u32 mode = block_mode();
    const u64 epoch = blocks_.statistics().flushes + blocks_.statistics().invalidated;
    cache::Block *block = blocks_.find(physical, mode);
    if (!block && crosses_page(page.host, u16(physical & ~mmu::page_mask), mode)) {
        x86::Translation second{};
        const Outcome more =
            x86::translate_fetch(context_, c.page_base + mmu::page_size, second, fault);
        if (more == Outcome::ok && second.host) {
            block = blocks_.find(physical, mode, second.physical);
            if (!block)
                block = translate(physical, page, &second, mode);
            if (block)
                mark_code_page(c.page_base + mmu::page_size, second);
        }
    } else if (!block) {
        block = translate(physical, page, nullptr, mode);
    }
    if (!block) { // T0 knows all cases, and all faults
        interpret();
        return nullptr;
    }
    const bool link_valid =
        link && epoch == blocks_.statistics().flushes + blocks_.statistics().invalidated;
    if (link_valid && link->target == (linear & ~mmu::page_mask) && link->owner->mode == mode &&
        (link->owner->physical ^ physical) >> mmu::page_shift == 0 &&
        block->second_page == cache::no_page)
        blocks_.link(*link, *block);
    mark_code_page(linear, page);
    if (block->jump_count < std::size(block->jump_slot))
        block->jump_slot[block->jump_count] = u16(jump_index(linear));
    if (block->jump_count <= std::size(block->jump_slot))
        ++block->jump_count;
    jump = {linear, area_->dispatch_key, block->entry, 0};
    return block->entry;
}

// Jumps found by linear address depend on this page's mapping.
void Core::mark_code_page(u64 linear, const x86::Translation &page) noexcept {
    x86::Cpu &c = cpu();
    const unsigned hash = mmu::code_page_hash(linear);
    c.tlb.code_pages[hash >> 6] |= u64{1} << (hash & 63);
    if (!page.global && !(c.mode & x86::mode::user))
        c.tlb.nonglobal_code = true;
}

// The instruction at `offset` goes on in the next page.
bool Core::crosses_page(const u8 *page, u16 offset, u32 mode) const noexcept {
    if (offset <= mmu::page_size - 15)
        return false;
    x86::Insn insn;
    return x86::decode({page + offset, mmu::page_size - offset},
                       x86::CodeSize(mode & x86::mode::code_mask),
                       insn) == x86::DecodeStatus::truncated;
}

// Stores to a page that holds translated code take the slow path from now on.
void Core::watch_code(u64 physical, const mmu::PhysicalRange &range) noexcept {
    if (!range.page_flags)
        return;
    std::atomic<u8> &flags = range.page_flags[(physical - range.base) >> mmu::page_shift];
    if (!(flags.load(std::memory_order_relaxed) & mmu::page_flag::code)) {
        flags.fetch_or(mmu::page_flag::code);
        x86::protect_page(cpu(), physical & mmu::page_mask);
    }
}

cache::Block *Core::translate(u64 physical, const x86::Translation &page,
                              const x86::Translation *second, u32 mode) noexcept {
    if (memory_.here() + room_for_block > memory_.end())
        flush_cache();
    const u16 offset = u16(physical & ~mmu::page_mask);
    if (second) {
        constexpr unsigned longest = 15;
        u8 bytes[2 * longest];
        const unsigned first = unsigned(mmu::page_size - offset);
        std::memcpy(bytes, page.host + offset, first);
        std::memcpy(bytes + first, second->host, longest);
        x86::lower_one({bytes, first + longest}, offset, mode, cpu(), *lowered_);
    } else {
        x86::lower_block({page.host, mmu::page_size}, offset, mode, cpu(), config_.block_limit,
                         *lowered_);
    }
    cache::Link *links[host::max_links];
    void *handles[host::max_links];
    unsigned wanted = 1; // one a branch, and the end
    for (unsigned i = 0; i < lowered_->ir.count; ++i)
        wanted += lowered_->ir.op[i].kind == ir::Kind::branch ||
                  lowered_->ir.op[i].kind == ir::Kind::branch_count_zero;
    if (wanted > host::max_links)
        wanted = host::max_links;
    for (unsigned i = 0; i < wanted; ++i)
        handles[i] = links[i] = &blocks_.create_link();
    host::generate(*lowered_, mode,
                   {memory_.here(), memory_.here() + room_for_block, memory_.executable_delta()},
                   stubs_, features_, {handles, wanted}, *generated_);
    const unsigned used = generated_->overflow ? 0 : generated_->link_count;
    for (unsigned i = used; i < wanted; ++i)
        blocks_.free_link(*links[i]);
    if (generated_->overflow)
        return nullptr;
    memory_.take(generated_->size);
    cache::Block &block = blocks_.create();
    block.physical = physical;
    block.mode = mode;
    block.start = offset;
    // An empty block stands for the instruction that it leaves to T0: at least its first byte.
    block.end = lowered_->ir.end > offset ? lowered_->ir.end : u16(offset + 1);
    block.entry = generated_->entry;
    block.entry_unchecked = generated_->entry_unchecked;
    for (unsigned i = 0; i < used; ++i) {
        const host::LinkSite &site = generated_->link[i];
        *links[i] = {.owner = &block,
                     .branch = site.branch,
                     .unlinked = site.unlinked,
                     .target = site.target,
                     .forward = site.forward};
        block.links.push_back(links[i]);
    }
    watch_code(physical, *page.range);
    if (second && block.end > mmu::page_size) {
        block.second_page = second->physical;
        watch_code(second->physical, *second->range);
    }
    blocks_.insert(block);
    return &block;
}

// Drops every translation; page flags too, so that stores to what was code are plain again.
void Core::flush_cache() noexcept {
    blocks_.each_page([&](u64 physical) {
        if (const mmu::PhysicalRange *range = context_.map ? context_.map->find(physical) : nullptr;
            range && range->page_flags)
            range->page_flags[(physical - range->base) >> mmu::page_shift].fetch_and(
                u8(~mmu::page_flag::code));
    });
    blocks_.flush();
    memory_.rewind(stub_bytes_);
    forget_jumps();
}

// StoreWatch: T0 has stored to a page that has flags.
void Core::stored(u64 physical, unsigned size) noexcept {
    memory_written(physical, size);
    const mmu::PhysicalRange *const range =
        config_.listener ? context_.map->find(physical) : nullptr;
    if (range && range->page_flags &&
        (range->page_flags[(physical - range->base) >> mmu::page_shift].load() &
         ~mmu::page_flag::code))
        config_.listener->watched_page_stored(*range, physical, size);
}

void Core::memory_written(u64 physical, u64 size) noexcept {
    while (size > 0) {
        const u64 in_page = mmu::page_size - (physical & ~mmu::page_mask);
        const u64 part = size < in_page ? size : in_page;
        bool empty = false;
        if (blocks_.invalidate(physical, part, empty,
                               [this](cache::Block &b) { forget_jumps_to(b); })) {
            ++statistics_.store_flushes;
            const mmu::PhysicalRange *const range = context_.map->find(physical);
            if (empty && range && range->page_flags)
                range->page_flags[(physical - range->base) >> mmu::page_shift].fetch_and(
                    u8(~mmu::page_flag::code));
        }
        physical += part;
        size -= part;
    }
}

// The slow path of one access of translated code: fills the TLB, or finds what else is to be done.
SlowResult Core::access(u64 linear, u32 descriptor) noexcept {
    x86::Cpu &c = cpu();
    ++statistics_.slow_accesses;
    const unsigned size = descriptor >> 12 & 0xff;
    const bool write = (descriptor >> 20 & 1) != 0;
    const bool user = (c.mode & x86::mode::user) != 0;
    c.rip = c.page_base + (descriptor & 0xfff);
    if (!x86::mode_64(c))
        c.rip = u32(c.rip);
    const SlowResult by_interpreter{nullptr, u64(Leave::interpret)};
    const u64 offset = linear & ~mmu::page_mask;
    x86::Fault fault{};
    auto faulted = [&]() -> SlowResult {
        // Not canonical: #SS(0) instead of #GP(0) if the operand is based on RSP or RBP, which T0
        // sees.
        if (fault.vector == x86::vector::gp)
            return by_interpreter;
        switch (deliver(fault)) {
        case Delivery::done: return {nullptr, u64(Leave::resume)};
        case Delivery::again_in_t0: return by_interpreter;
        case Delivery::shut_down: break;
        }
        return {nullptr, u64(Leave::exit)};
    };
    if (offset + size > mmu::page_size) {
        if (write)
            return by_interpreter;
        switch (x86::read_memory(context_, linear, area_->bounce, size, x86::Privilege::current,
                                 fault)) {
        case Outcome::ok: return {area_->bounce, 0};
        case Outcome::fault: return faulted();
        case Outcome::exit: return by_interpreter;
        }
    }
    x86::Translation page{};
    const Outcome outcome =
        x86::translate(context_, linear, write ? x86::AccessType::write : x86::AccessType::read,
                       user, page, fault);
    if (outcome == Outcome::fault)
        return faulted();
    if (outcome == Outcome::exit || !page.host)
        return by_interpreter;
    if (!write || page.writable_ram)
        return {page.host + offset, 0};
    if (!page.range->writable)
        return by_interpreter; // ROM
    // Watched pages: data beside translated code is stored to directly; everything else T0 knows.
    const u8 flags = page.range->page_flags[(page.physical - page.range->base) >> mmu::page_shift];
    if ((flags & ~mmu::page_flag::code) == 0 &&
        !blocks_.overlaps_code(page.physical | offset, size))
        return {page.host + offset, 0};
    return by_interpreter;
}

SlowResult slow_memory_access(Area *area, u64 linear, u32 descriptor) noexcept {
    return static_cast<Core *>(area->owner)->access(linear, descriptor);
}

int Core::interpret_in_block(u32 where) noexcept {
    x86::Cpu &c = cpu();
    auto cut = [&](u64 linear) { return x86::mode_64(c) ? linear : u64{u32(linear)}; };
    const u64 page_base = c.page_base, key = area_->dispatch_key;
    const u64 epoch = blocks_.statistics().flushes + blocks_.statistics().invalidated;
    c.rip = cut(page_base + (where & 0xfff));
    const u64 next = cut(c.rip + (where >> 12));
    if (!interpret())
        return int(Leave::exit);
    // The block must still be what the state asks for, and nothing may wait for the run loop.
    refresh_key();
    const bool on = c.rip == next && area_->dispatch_key == key && translatable() &&
                    epoch == blocks_.statistics().flushes + blocks_.statistics().invalidated &&
                    !(c.deferred_requests && x86::interrupts_enabled(c));
    if (!on)
        return int(Leave::resume);
    c.page_base = page_base;
    return -1;
}

int interpret_in_block(Area *area, u32 where) noexcept {
    return static_cast<Core *>(area->owner)->interpret_in_block(where);
}

CoreStatistics Core::statistics() const noexcept {
    CoreStatistics s = statistics_;
    s.blocks = blocks_.statistics().blocks;
    s.guest_bytes = blocks_.statistics().guest_bytes;
    s.invalidated = blocks_.statistics().invalidated;
    s.cache_flushes = blocks_.statistics().flushes;
    s.links = blocks_.statistics().links;
    s.code_bytes = memory_.used();
    return s;
}

} // namespace rhea::dbt
