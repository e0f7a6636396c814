#pragma once
// What an engine is: something that runs vCPUs against a machine's address spaces. The translator
// (accel/dbt), the scripted player (accel/fake), and later KVM and Xen implement it; the machine
// and the devices know only this file and vcpu.h.
//
// An access that is not plain RAM becomes a Request (dm/mem/request.h) which the engine offers to
// VcpuClient::serve_local and then serves by its vCPU's own Accessor (dm/mem/dispatcher.h), on the
// vCPU's thread. An engine is made for one AddressMap, which outlives it, and follows its changes
// as a MapListener and one ViewReader a vCPU.

#include "accel/vcpu.h"

#include <memory>
#include <string>
#include <string_view>

namespace rhea::accel {

struct VcpuConfig {
    unsigned index = 0;
    std::string model = "qemu64"; // a CPU model's name and ±features, as on the command line
};

// An eventfd that a guest's store to `address` signals, where the engine can do so without leaving
// guest code.
struct Doorbell {
    bool port = false;
    u64 address = 0;
    u8 size = 0; // 0: any
    bool match = false;
    u64 value = 0;
    int eventfd = -1;
};

class Accelerator {
public:
    virtual ~Accelerator() = default;
    virtual std::string_view name() const noexcept = 0;
    // Throws ConfigError for a model or feature that cannot be had.
    virtual std::unique_ptr<Vcpu> create_vcpu(const VcpuConfig &config, VcpuClient &client) = 0;
    // False: this engine has no such path, and the access arrives as an ordinary request.
    virtual bool add_doorbell(const Doorbell &) { return false; }
    virtual void remove_doorbell(const Doorbell &) {}
};

} // namespace rhea::accel
