// Page walks and the TLB. SDM volume 3, chapter 4; error codes 4.7, caching rules 4.10.
//
// Page tables are read through host pointers. A table that lies in MMIO reads as all ones, as an
// address that nobody claims does; accessed and dirty bits are set there by nobody. Tables in ROM
// are read, their A and D bits stay as they are.

#include "accel/dbt/guest/x86/memory.h"

#include "accel/dbt/guest/x86/control_registers.h"
#include "accel/dbt/guest/x86/state.h"

namespace rhea::dbt::x86 {
namespace {

using mmu::PhysicalRange;

namespace pte {
constexpr u64 present = 1, writable = 2, user = 4, accessed = 32, dirty = 64, large = 128,
              global = 256, no_execute = u64{1} << 63;
constexpr u64 address = 0x000f'ffff'ffff'f000;
} // namespace pte
namespace pf_error {
constexpr u32 present = 1, write = 2, user = 4, reserved = 8, fetch = 16;
}
// Rights gathered on the way down; also in the low bits of WalkEntry::physical.
constexpr u64 right_write = 1, right_user = 2, right_no_execute = 4, rights_mask = 7;

// AuthenticAMD leaf 8000_0001h EDX bit 26: 1 GiB pages.
bool has_1g_pages(const Cpu &cpu) {
    return (cpu.features_8000_0001 >> 26 & 1) != 0;
}

const PhysicalRange *find_range(Context &context, u64 physical) {
    mmu::Tlb &tlb = context.cpu.tlb;
    const PhysicalRange *range = tlb.last_range;
    if (tlb.range_map == context.map && range && physical - range->base < range->size) [[likely]]
        return range;
    range = context.map->find(physical);
    if (range) {
        tlb.range_map = context.map;
        tlb.last_range = range;
    }
    return range;
}

struct EntryRef {
    u64 physical;
    u8 *host; // null: not in memory
    const PhysicalRange *range;
    u64 value;
};

EntryRef load_entry(Context &context, u64 physical, unsigned size) {
    physical &= context.cpu.a20_mask;
    const PhysicalRange *range = find_range(context, physical);
    if (!range)
        return {physical, nullptr, nullptr, size == 8 ? ~u64{0} : u64{0xffff'ffff}};
    u8 *host = range->host + (physical - range->base);
    const u64 value = size == 8 ? __atomic_load_n(reinterpret_cast<u64 *>(host), __ATOMIC_RELAXED)
                                : __atomic_load_n(reinterpret_cast<u32 *>(host), __ATOMIC_RELAXED);
    return {physical, host, range, value};
}

// Sets bits in an entry if it still holds what was read. False: it has changed, walk again.
bool set_bits(Context &context, EntryRef &entry, u64 bits, unsigned size) {
    if ((entry.value & bits) == bits || !entry.host || !entry.range->writable)
        return true;
    if (size == 8) {
        u64 expected = entry.value;
        if (!__atomic_compare_exchange_n(reinterpret_cast<u64 *>(entry.host), &expected,
                                         expected | bits, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED))
            return false;
    } else {
        u32 expected = u32(entry.value);
        if (!__atomic_compare_exchange_n(reinterpret_cast<u32 *>(entry.host), &expected,
                                         u32(expected | bits), false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED))
            return false;
    }
    entry.value |= bits;
    const u64 page = (entry.physical - entry.range->base) >> mmu::page_shift;
    if (entry.range->page_flags[page].load(std::memory_order_relaxed) != 0)
        context.watch->stored(entry.physical, size);
    return true;
}

enum class WalkResult : u8 { ok, not_present, reserved, protection, again };

struct Walk {
    u64 physical; // page of 4 KiB that holds the address, A20 applied
    u64 rights;
    unsigned shift; // log2 of the size of the page it comes from
    bool global, dirty;
};

// The last step of every walk: rights, then A and D bits from the root down.
WalkResult finish(Context &context, AccessType type, bool user, EntryRef *path, unsigned levels,
                  unsigned size, Walk &walk) {
    const Cpu &cpu = context.cpu;
    const bool page_user = (walk.rights & right_user) != 0;
    if (user) {
        if (!page_user || (type == AccessType::write && !(walk.rights & right_write)))
            return WalkResult::protection;
    } else {
        if (type == AccessType::write && !(walk.rights & right_write) && (cpu.cr0 & cr0::wp))
            return WalkResult::protection;
        if (page_user && type == AccessType::execute && (cpu.cr4 & cr4::smep))
            return WalkResult::protection;
        // Explicit supervisor accesses are let through by AC; those that a CPL 3 instruction causes
        // are not (4.6.1).
        if (page_user && type != AccessType::execute && (cpu.cr4 & cr4::smap) &&
            (cpu.cpl == 3 || !(cpu.rflags & flag::ac)))
            return WalkResult::protection;
    }
    if (type == AccessType::execute && (walk.rights & right_no_execute))
        return WalkResult::protection;

    for (unsigned i = 0; i + 1 < levels; ++i)
        if (!set_bits(context, path[i], pte::accessed, size))
            return WalkResult::again;
    EntryRef &leaf = path[levels - 1];
    const u64 bits = type == AccessType::write ? pte::accessed | pte::dirty : pte::accessed;
    if (!set_bits(context, leaf, bits, size))
        return WalkResult::again;
    walk.dirty = (leaf.value & pte::dirty) != 0;
    walk.global = (cpu.cr4 & cr4::pge) && (leaf.value & pte::global);
    walk.physical &= cpu.a20_mask;
    return WalkResult::ok;
}

u64 add_rights(u64 rights, u64 entry) {
    if (!(entry & pte::writable))
        rights &= ~right_write;
    if (!(entry & pte::user))
        rights &= ~right_user;
    if (entry & pte::no_execute)
        rights |= right_no_execute;
    return rights;
}

u64 walk_key(const Cpu &cpu, u64 linear) {
    // 27 bits tell the region of a 48-bit address; bit 27 keeps the key of generation 0 from being
    // zero.
    return (cpu.tlb.walk_generation << 28) | 1u << 27 | (linear >> 21 & 0x7ff'ffff);
}

// Tables of 8-byte entries: long mode and PAE.
WalkResult walk_wide(Context &context, u64 linear, AccessType type, bool user, bool use_cache,
                     Walk &walk) {
    Cpu &cpu = context.cpu;
    const bool long_mode = long_mode_active(cpu);
    u64 reserved = pte::address & ~cpu.phys_mask;
    if (!(cpu.efer & efer::nxe))
        reserved |= pte::no_execute;
    if (!long_mode)
        reserved |= 0x7ff0'0000'0000'0000; // bits 52..62 are ignored by long mode alone

    EntryRef path[4];
    unsigned levels = 0;
    u64 rights = right_write | right_user;
    mmu::WalkEntry &cached = cpu.tlb.walk[linear >> 21 & (mmu::walk_size - 1)];
    const u64 key = walk_key(cpu, linear);
    if (use_cache && cached.key == key) {
        const u64 offset = linear >> 9 & 0xff8;
        const u64 physical = (cached.physical & mmu::page_mask) + offset;
        const u64 value =
            __atomic_load_n(reinterpret_cast<u64 *>(cached.table + offset), __ATOMIC_RELAXED);
        if (!(value & pte::present) || (value & reserved))
            return WalkResult::again;
        path[0] = {physical, cached.table + offset, nullptr, value};
        const u64 wanted = type == AccessType::write ? pte::accessed | pte::dirty : pte::accessed;
        if ((value & wanted) != wanted)
            path[0].range = find_range(context, physical);
        walk.rights = add_rights(cached.physical & rights_mask, value);
        walk.physical = value & pte::address;
        walk.shift = 12;
        return finish(context, type, user, path, 1, 8, walk);
    }

    u64 table;
    unsigned shift;
    if (long_mode) {
        table = cpu.cr3 & pte::address;
        shift = 39;
    } else {
        const u64 pdpte = cpu.pdpte[linear >> 30 & 3];
        if (!(pdpte & pte::present))
            return WalkResult::not_present;
        table = pdpte & pte::address;
        shift = 21;
    }
    for (;; shift -= 9) {
        EntryRef &entry = path[levels++];
        entry = load_entry(context, table + (linear >> shift & 0x1ff) * 8, 8);
        if (!(entry.value & pte::present))
            return WalkResult::not_present;
        u64 bad = reserved;
        const bool large = shift > 12 && (entry.value & pte::large);
        if (large) {
            if (shift == 39 || (shift == 30 && !has_1g_pages(cpu)))
                bad |= pte::large;
            bad |= ((u64{1} << shift) - 1) & pte::address & ~u64{0x1000}; // bit 12 is PAT
        }
        if (entry.value & bad)
            return WalkResult::reserved;
        const u64 above = rights;
        rights = add_rights(rights, entry.value);
        if (shift == 12 || large) {
            const u64 page = (u64{1} << shift) - 1;
            walk.rights = rights;
            walk.shift = shift;
            walk.physical =
                ((entry.value & pte::address & ~page) | (linear & page)) & mmu::page_mask;
            const WalkResult result = finish(context, type, user, path, levels, 8, walk);
            if (result == WalkResult::ok && shift == 12 && entry.host) {
                const u64 offset = linear >> 9 & 0xff8;
                cached = {key, entry.host - offset, (entry.physical - offset) | above};
            }
            return result;
        }
        table = entry.value & pte::address;
    }
}

// Tables of 4-byte entries: 32-bit paging.
WalkResult walk_narrow(Context &context, u64 linear, AccessType type, bool user, Walk &walk) {
    Cpu &cpu = context.cpu;
    EntryRef path[2];
    path[0] = load_entry(context, (cpu.cr3 & 0xffff'f000) + (linear >> 22 & 0x3ff) * 4, 4);
    const u64 directory = path[0].value;
    if (!(directory & pte::present))
        return WalkResult::not_present;
    u64 rights = add_rights(right_write | right_user, directory);
    if ((directory & pte::large) && (cpu.cr4 & cr4::pse)) {
        // PSE-36: bits 13..20 are address bits 32..39, bit 21 is reserved.
        const u64 high = (directory >> 13 & 0xff) << 32;
        if ((directory & 1u << 21) || (high & ~cpu.phys_mask))
            return WalkResult::reserved;
        walk.rights = rights;
        walk.shift = 22;
        walk.physical = high | (directory & 0xffc0'0000) | (linear & 0x003f'f000);
        return finish(context, type, user, path, 1, 4, walk);
    }
    path[1] = load_entry(context, (directory & 0xffff'f000) + (linear >> 12 & 0x3ff) * 4, 4);
    const u64 entry = path[1].value;
    if (!(entry & pte::present))
        return WalkResult::not_present;
    walk.rights = add_rights(rights, entry);
    walk.shift = 12;
    walk.physical = entry & 0xffff'f000;
    return finish(context, type, user, path, 2, 4, walk);
}

WalkResult walk_tables(Context &context, u64 linear, AccessType type, bool user, Walk &walk) {
    Cpu &cpu = context.cpu;
    if (!(cpu.cr0 & cr0::pg)) {
        walk = {linear & mmu::page_mask & cpu.phys_mask & cpu.a20_mask, right_write | right_user,
                12, false, true};
        return WalkResult::ok;
    }
    if (cpu.cr4 & cr4::pae) {
        const WalkResult quick = walk_wide(context, linear, type, user, true, walk);
        if (quick == WalkResult::ok)
            return quick;
        // What the cache of upper levels says may be old; a fault must come from the tables
        // themselves.
        for (;;) {
            const WalkResult result = walk_wide(context, linear, type, user, false, walk);
            if (result != WalkResult::again)
                return result;
        }
    }
    for (;;) {
        const WalkResult result = walk_narrow(context, linear, type, user, walk);
        if (result != WalkResult::again)
            return result;
    }
}

void enter_data(Cpu &cpu, u64 linear, bool user, const Walk &walk, const Translation &page,
                bool writable) {
    mmu::Tlb &tlb = cpu.tlb;
    if (!user && (cpu.cr4 & cr4::smap) && (walk.rights & right_user))
        return; // allowed or not by RFLAGS.AC at the moment: walked each time
    const unsigned index = mmu::tlb_index(linear);
    mmu::TlbEntry &entry = tlb.data[user][index];
    const u64 tag = linear & mmu::page_mask;
    u64 info = page.physical | (entry.info & mmu::entry_journaled);
    if (page.range->writable)
        info |= mmu::entry_ram;
    if (walk.global) {
        info |= mmu::entry_global;
    } else if (!(info & mmu::entry_journaled)) {
        info |= mmu::entry_journaled;
        tlb.journal[user][tlb.journal_length[user]++] = u16(index);
    }
    entry.read = tag;
    entry.write = writable ? tag : mmu::invalid_tag(index);
    entry.addend = reinterpret_cast<u64>(page.host) - tag;
    entry.info = info;
}

void enter_fetch(Cpu &cpu, u64 linear, bool user, const Walk &walk, const Translation &page) {
    mmu::Tlb &tlb = cpu.tlb;
    const unsigned index = unsigned(linear >> mmu::page_shift) & (mmu::fetch_size - 1);
    mmu::FetchEntry &entry = tlb.fetch[user][index];
    u64 info = page.physical | (entry.physical & mmu::entry_journaled);
    if (page.range->writable)
        info |= mmu::entry_ram;
    if (walk.global) {
        info |= mmu::entry_global;
    } else if (!(info & mmu::entry_journaled)) {
        info |= mmu::entry_journaled;
        tlb.fetch_journal[user][tlb.fetch_journal_length[user]++] = u16(index);
    }
    entry = {linear & mmu::page_mask, info, page.host};
}

Outcome page_fault(u64 linear, WalkResult why, AccessType type, bool user, const Cpu &cpu,
                   Fault &fault) {
    u32 code = 0;
    if (why != WalkResult::not_present)
        code |= pf_error::present;
    if (why == WalkResult::reserved)
        code |= pf_error::reserved;
    if (type == AccessType::write)
        code |= pf_error::write;
    if (user)
        code |= pf_error::user;
    if (type == AccessType::execute &&
        ((cpu.cr4 & cr4::smep) || ((cpu.cr4 & cr4::pae) && (cpu.efer & efer::nxe))))
        code |= pf_error::fetch;
    fault = {vector::pf, true, code, linear};
    return Outcome::fault;
}

bool canonical(u64 linear) {
    return u64(i64(linear << 16) >> 16) == linear;
}

void invalidate(mmu::TlbEntry &entry, unsigned index) {
    entry.read = entry.write = mmu::invalid_tag(index);
}

} // namespace

u64 read_physical_u64(Context &context, u64 physical) noexcept {
    return load_entry(context, physical, 8).value;
}

Outcome translate(Context &context, u64 linear, AccessType type, bool user, Translation &out,
                  Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    if (!long_mode_active(cpu)) {
        linear &= 0xffff'ffff;
    } else if (!canonical(linear)) {
        fault = {vector::gp, true, 0, 0};
        return Outcome::fault;
    }
    ++cpu.tlb.misses;
    Walk walk;
    const WalkResult result = walk_tables(context, linear, type, user, walk);
    if (result != WalkResult::ok)
        return page_fault(linear, result, type, user, cpu, fault);

    out = {walk.physical, nullptr, walk.global, false, find_range(context, walk.physical)};
    if (!out.range)
        return Outcome::ok;
    const u64 offset = walk.physical - out.range->base;
    out.host = out.range->host + offset;
    const bool allowed = (walk.rights & right_write) || (!user && !(cpu.cr0 & cr0::wp));
    out.writable_ram =
        out.range->writable && allowed && walk.dirty &&
        out.range->page_flags[offset >> mmu::page_shift].load(std::memory_order_relaxed) == 0;
    if (walk.shift != mmu::page_shift) {
        const u64 region = linear >> 22;
        cpu.tlb.large_4m[region >> 6 & 63] |= u64{1} << (region & 63);
        if (walk.shift > 22)
            cpu.tlb.large_1g |= u64{1} << (linear >> 30 & 63);
    }
    if (type == AccessType::execute)
        enter_fetch(cpu, linear, user, walk, out);
    else
        enter_data(cpu, linear, user, walk, out, out.writable_ram);
    return Outcome::ok;
}

Outcome translate_fetch(Context &context, u64 linear, Translation &out, Fault &fault) noexcept {
    Cpu &cpu = context.cpu;
    const bool user = cpu.cpl == 3;
    const mmu::FetchEntry &entry =
        cpu.tlb.fetch[user][unsigned(linear >> mmu::page_shift) & (mmu::fetch_size - 1)];
    if (entry.tag == (linear & mmu::page_mask)) [[likely]] {
        const u64 physical = entry.physical & mmu::page_mask;
        out = {physical, entry.host, (entry.physical & mmu::entry_global) != 0, false,
               find_range(context, physical)};
        return Outcome::ok;
    }
    return translate(context, linear, AccessType::execute, user, out, fault);
}

void flush_tlb(Cpu &cpu, bool global_too) noexcept {
    mmu::Tlb &tlb = cpu.tlb;
    ++tlb.flushes;
    ++tlb.walk_generation;
    ++tlb.code_generation[1];
    if (global_too || tlb.nonglobal_code) {
        ++tlb.code_generation[0];
        tlb.nonglobal_code = false;
    }
    for (unsigned user = 0; user < 2; ++user) {
        if (global_too) {
            for (unsigned i = 0; i < mmu::tlb_size; ++i) {
                invalidate(tlb.data[user][i], i);
                tlb.data[user][i].info = 0;
            }
            for (mmu::FetchEntry &entry : tlb.fetch[user])
                entry = {mmu::invalid_fetch_tag, 0, nullptr};
        } else {
            for (u32 n = 0; n < tlb.journal_length[user]; ++n) {
                const unsigned i = tlb.journal[user][n];
                mmu::TlbEntry &entry = tlb.data[user][i];
                if (!(entry.info & mmu::entry_global))
                    invalidate(entry, i);
                entry.info &= ~mmu::entry_journaled;
            }
            for (u32 n = 0; n < tlb.fetch_journal_length[user]; ++n) {
                mmu::FetchEntry &entry = tlb.fetch[user][tlb.fetch_journal[user][n]];
                if (!(entry.physical & mmu::entry_global))
                    entry.tag = mmu::invalid_fetch_tag;
                entry.physical &= ~mmu::entry_journaled;
            }
        }
        tlb.journal_length[user] = tlb.fetch_journal_length[user] = 0;
    }
    if (global_too) {
        for (u64 &word : tlb.code_pages)
            word = 0;
        for (u64 &word : tlb.large_4m)
            word = 0;
        tlb.large_1g = 0;
        tlb.range_map = nullptr;
        tlb.last_range = nullptr;
    }
}

void flush_tlb_page(Cpu &cpu, u64 linear) noexcept {
    mmu::Tlb &tlb = cpu.tlb;
    ++tlb.walk_generation;
    const u64 region = linear >> 22;
    unsigned shift = mmu::page_shift;
    if (tlb.large_1g >> (linear >> 30 & 63) & 1)
        shift = 30;
    else if (tlb.large_4m[region >> 6 & 63] >> (region & 63) & 1)
        shift = 22;
    // Code of a large page may have been found in any part of it.
    const unsigned code_page = mmu::code_page_hash(linear);
    if (shift != mmu::page_shift || (tlb.code_pages[code_page >> 6] >> (code_page & 63) & 1)) {
        ++tlb.code_generation[0];
        ++tlb.code_generation[1];
    }
    const unsigned count = shift == 30 ? mmu::tlb_size : 1u << (shift - mmu::page_shift);
    const unsigned first = mmu::tlb_index(linear) & ~(count - 1);
    for (unsigned user = 0; user < 2; ++user) {
        for (unsigned i = first; i < first + count; ++i) {
            mmu::TlbEntry &entry = tlb.data[user][i];
            if ((entry.read ^ linear) >> shift == 0)
                invalidate(entry, i);
        }
        if (shift == mmu::page_shift) {
            mmu::FetchEntry &entry = tlb.fetch[user][first & (mmu::fetch_size - 1)];
            if (entry.tag == (linear & mmu::page_mask))
                entry.tag = mmu::invalid_fetch_tag;
            continue;
        }
        for (mmu::FetchEntry &entry : tlb.fetch[user])
            if ((entry.tag ^ linear) >> shift == 0)
                entry.tag = mmu::invalid_fetch_tag;
    }
}

void protect_page(Cpu &cpu, u64 physical) noexcept {
    physical &= mmu::page_mask;
    for (auto &table : cpu.tlb.data)
        for (unsigned i = 0; i < mmu::tlb_size; ++i)
            if ((table[i].info & mmu::page_mask) == physical)
                table[i].write = mmu::invalid_tag(i);
}

} // namespace rhea::dbt::x86
