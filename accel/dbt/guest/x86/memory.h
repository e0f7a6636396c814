#pragma once
// Guest memory by linear address, as instructions see it: paging with rights, A and D bits, the
// TLB, accesses that cross pages, RAM, ROM and everything else. Used by T0 and by the slow paths of
// T1. On the vCPU's thread.

#include "accel/dbt/guest/x86/interp.h"
#include "accel/dbt/mmu/physical_map.h"

namespace rhea::dbt::x86 {

struct Fault {
    u8 vector;
    bool has_error_code;
    u32 error_code;
    u64 address; // #PF: the linear address for CR2
};

// How an access ended. `fault`: context.fault() style details in the out parameter, nothing has
// changed. `exit`: cpu.exit is filled (see IoLog). `ok` otherwise.
enum class Outcome : u8 { ok, fault, exit };

enum class Privilege : u8 { current, supervisor }; // supervisor: descriptor tables, TSS, the IDT

enum class AccessType : u8 { read, write, execute };

struct Translation {
    u64 physical; // page address
    u8 *host;     // the page in host memory, null if MMIO
    bool global;
    bool writable_ram; // host may be stored to directly: RAM, PTE writable and dirty, page flags
                       // clear
    const mmu::PhysicalRange *range;
};

// Walks the guest's page tables for the page of `linear` (canonical checks included), sets A and,
// for writes, D, and enters the result into the TLB. `user`: the access has user rights (CPL 3 and
// not Privilege::supervisor).
Outcome translate(Context &context, u64 linear, AccessType type, bool user, Translation &out,
                  Fault &fault) noexcept;

// For instruction fetch: the host bytes of the code page that holds `linear`, and its
// guest-physical address. out.host is null when code lies in MMIO (then T0 fetches through exit
// records).
Outcome translate_fetch(Context &context, u64 linear, Translation &out, Fault &fault) noexcept;

// Reads or writes `size` bytes (1 … 512) at a linear address. A store that could fault on its
// second page checks it before the first byte is written.
Outcome read_memory(Context &context, u64 linear, void *to, unsigned size, Privilege privilege,
                    Fault &fault) noexcept;
Outcome write_memory(Context &context, u64 linear, const void *from, unsigned size,
                     Privilege privilege, Fault &fault) noexcept;
// Checks that a following write of `size` bytes will not fault (a read-modify-write does so before
// it reads).
Outcome probe_write(Context &context, u64 linear, unsigned size, Privilege privilege,
                    Fault &fault) noexcept;

// A host pointer for an access that lies in one page of RAM that may be accessed directly, else
// null (then use the functions above). Locked read-modify-writes use it with host atomics.
u8 *direct_pointer(Context &context, u64 linear, unsigned size, AccessType type,
                   Privilege privilege) noexcept;

void flush_tlb(Cpu &cpu, bool global_too) noexcept;
void flush_tlb_page(Cpu &cpu, u64 linear) noexcept;
// Write entries that point to this guest-physical page lose their right (translated code was made
// from it).
void protect_page(Cpu &cpu, u64 physical) noexcept;

} // namespace rhea::dbt::x86
