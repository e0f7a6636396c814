#pragma once
// What translated code calls when an access is not a plain hit in the TLB.

#include "accel/dbt/runtime/area.h"

namespace rhea::dbt {

struct SlowResult { // in RAX and RDX
    u8 *host;       // where the access is to be done, or null: leave, for the reason `why`
    u64 why;        // Leave
};

// On the vCPU's thread with the whole guest state stored. `descriptor` is
// host::access_descriptor().
extern "C" SlowResult slow_memory_access(Area *area, u64 linear, u32 descriptor) noexcept;

// Runs one instruction of a block in T0; `where`: its offset in the page | its length << 12.
// Negative: the block goes on behind it; else a Leave.
extern "C" int interpret_in_block(Area *area, u32 where) noexcept;

} // namespace rhea::dbt
