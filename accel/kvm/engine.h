#pragma once
// KVM as an engine: one virtual machine of /dev/kvm for an AddressMap, one thread a vCPU. The
// interrupt controllers are the machine's own (hw/intc); the kernel has none.
//
// Configuration code makes it. `map` outlives the engine, and the engine its vCPUs.

#include "accel/accelerator.h"
#include "dm/mem/address_space.h"

#include <memory>
#include <string>

namespace rhea::kvm {

// Throws ConfigError, with what the administrator can do, where /dev/kvm cannot be used.
std::unique_ptr<accel::Accelerator> make_kvm(AddressMap &map);

// Why /dev/kvm cannot be used here; empty if it can.
std::string problem();

// The host's KVM is PVM, which emulates most of what a kernel does, and not all of it: firmware
// runs, no unmodified Linux does. So it is used only where nothing else will do.
bool on_pvm() noexcept;

} // namespace rhea::kvm
