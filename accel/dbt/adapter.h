#pragma once
// The translator as an engine: joins dbt::Core to the machine's address map, interrupt controllers
// and threads. The only file of accel/dbt that knows both sides. One thread a vCPU.

#include "accel/accelerator.h"
#include "dm/mem/address_space.h"

#include <memory>

namespace rhea::dbt {

struct DbtOptions {
    bool interpret_only = false; // T0 alone, to find out which tier is wrong
    u64 code_cache_bytes = u64{128} << 20;
};

// `map` outlives the engine, and the engine its vCPUs.
std::unique_ptr<accel::Accelerator> make_dbt(AddressMap &map, const DbtOptions &options);

} // namespace rhea::dbt
