// Loads and stores of guest memory by linear address: the TLB probe, page crossing, ROM, MMIO,
// watched pages.

#include "accel/dbt/guest/x86/memory.h"

#include "accel/dbt/guest/x86/exec.h"
#include "accel/dbt/guest/x86/state.h"

#include <algorithm>
#include <cstring>

namespace rhea::dbt::x86 {
namespace {

bool user_access(const Cpu &cpu, Privilege privilege) {
    return cpu.cpl == 3 && privilege == Privilege::current;
}

// Other vCPUs and devices see naturally aligned accesses of up to 8 bytes as a whole (SDM volume
// 3, 9.1.1): a copy of constant size is one host move.
void copy(void *to, const void *from, unsigned size) {
    switch (size) {
    case 1: std::memcpy(to, from, 1); break;
    case 2: std::memcpy(to, from, 2); break;
    case 4: std::memcpy(to, from, 4); break;
    case 8: std::memcpy(to, from, 8); break;
    case 16: std::memcpy(to, from, 16); break;
    default: std::memcpy(to, from, size); break;
    }
}

// Next piece of an MMIO access: aligned, a power of two, at most 8 bytes.
unsigned piece_size(u64 physical, unsigned left) {
    unsigned size = 8;
    while (size > left || (physical & (size - 1)) != 0)
        size /= 2;
    return size;
}

Outcome read_io(Context &context, u64 physical, u8 *to, unsigned size) {
    while (size > 0) {
        const unsigned piece = piece_size(physical, size);
        u64 value = 0;
        RHEA_T0_TRY(memory_io(context, false, physical, piece, value));
        copy(to, &value, piece);
        physical += piece;
        to += piece;
        size -= piece;
    }
    return Outcome::ok;
}

Outcome write_io(Context &context, u64 physical, const u8 *from, unsigned size) {
    while (size > 0) {
        const unsigned piece = piece_size(physical, size);
        u64 value = 0;
        copy(&value, from, piece);
        RHEA_T0_TRY(memory_io(context, true, physical, piece, value));
        physical += piece;
        from += piece;
        size -= piece;
    }
    return Outcome::ok;
}

// The part of an access that lies in one page.
struct Part {
    Translation page;
    unsigned offset, size;
    bool io() const { return page.host == nullptr; }
};

// Splits an access at the page boundary and translates it, all of it or nothing.
Outcome split(Context &context, u64 linear, unsigned size, AccessType type, bool user,
              Part (&part)[2], unsigned &parts, Fault &fault) {
    const unsigned offset = unsigned(linear & ~mmu::page_mask);
    const unsigned first = std::min(size, unsigned(mmu::page_size) - offset);
    RHEA_T0_TRY(translate(context, linear, type, user, part[0].page, fault));
    part[0].offset = offset;
    part[0].size = first;
    parts = 1;
    if (first == size)
        return Outcome::ok;
    // translate() wraps the address at 4 GiB where addresses have 32 bits.
    RHEA_T0_TRY(translate(context, linear + first, type, user, part[1].page, fault));
    part[1].offset = 0;
    part[1].size = size - first;
    parts = 2;
    return Outcome::ok;
}

void store(Context &context, const Part &part, const u8 *from) {
    const mmu::PhysicalRange &range = *part.page.range;
    if (!range.writable)
        return; // ROM
    copy(part.page.host + part.offset, from, part.size);
    const u64 page = (part.page.physical - range.base) >> mmu::page_shift;
    if (range.page_flags[page].load(std::memory_order_relaxed) != 0)
        context.watch->stored(part.page.physical + part.offset, part.size);
}

// One page, by the TLB: the host address, or null.
u8 *probe(const Cpu &cpu, u64 linear, unsigned size, bool write, bool user) {
    const mmu::TlbEntry &entry = cpu.tlb.data[user][mmu::tlb_index(linear)];
    const u64 offset = linear ^ (write ? entry.write : entry.read);
    if (offset > mmu::page_size - size)
        return nullptr;
    return reinterpret_cast<u8 *>(linear + entry.addend);
}

} // namespace

Outcome read_memory(Context &context, u64 linear, void *to, unsigned size, Privilege privilege,
                    Fault &fault) noexcept {
    const bool user = user_access(context.cpu, privilege);
    if (const u8 *host = probe(context.cpu, linear, size, false, user)) [[likely]] {
        copy(to, host, size);
        return Outcome::ok;
    }
    Part part[2];
    unsigned parts;
    RHEA_T0_TRY(split(context, linear, size, AccessType::read, user, part, parts, fault));
    u8 *bytes = static_cast<u8 *>(to);
    for (unsigned i = 0; i < parts; ++i) {
        const Part &p = part[i];
        if (p.io())
            RHEA_T0_TRY(read_io(context, p.page.physical + p.offset, bytes, p.size));
        else
            copy(bytes, p.page.host + p.offset, p.size);
        bytes += p.size;
    }
    return Outcome::ok;
}

Outcome write_memory(Context &context, u64 linear, const void *from, unsigned size,
                     Privilege privilege, Fault &fault) noexcept {
    const bool user = user_access(context.cpu, privilege);
    if (u8 *host = probe(context.cpu, linear, size, true, user)) [[likely]] {
        copy(host, from, size);
        return Outcome::ok;
    }
    Part part[2];
    unsigned parts;
    RHEA_T0_TRY(split(context, linear, size, AccessType::write, user, part, parts, fault));
    const u8 *bytes = static_cast<const u8 *>(from);
    // What may leave with an exit goes first, so that memory has not changed if the instruction
    // must run again.
    for (unsigned i = 0; i < parts; ++i)
        if (const Part &p = part[i]; p.io())
            RHEA_T0_TRY(write_io(context, p.page.physical + p.offset,
                                 bytes + (i ? part[0].size : 0), p.size));
    for (unsigned i = 0; i < parts; ++i)
        if (const Part &p = part[i]; !p.io())
            store(context, p, bytes + (i ? part[0].size : 0));
    return Outcome::ok;
}

Outcome probe_write(Context &context, u64 linear, unsigned size, Privilege privilege,
                    Fault &fault) noexcept {
    const bool user = user_access(context.cpu, privilege);
    if (probe(context.cpu, linear, size, true, user)) [[likely]]
        return Outcome::ok;
    Part part[2];
    unsigned parts;
    return split(context, linear, size, AccessType::write, user, part, parts, fault);
}

u8 *direct_pointer(Context &context, u64 linear, unsigned size, AccessType type,
                   Privilege privilege) noexcept {
    const bool user = user_access(context.cpu, privilege);
    const bool write = type == AccessType::write;
    if (u8 *host = probe(context.cpu, linear, size, write, user)) [[likely]]
        return host;
    const u64 offset = linear & ~mmu::page_mask;
    if (offset + size > mmu::page_size)
        return nullptr;
    Translation page;
    Fault fault;
    if (translate(context, linear, type, user, page, fault) != Outcome::ok || !page.host)
        return nullptr;
    return write && !page.writable_ram ? nullptr : page.host + offset;
}

} // namespace rhea::dbt::x86
