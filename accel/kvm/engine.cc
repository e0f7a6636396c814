#include "accel/kvm/engine.h"

#include "accel/kvm/vcpu.h"
#include "accel/kvm/vm.h"
#include "dm/core/config_error.h"

#include <unistd.h>

namespace rhea::kvm {
namespace {

class Kvm final : public accel::Accelerator {
public:
    explicit Kvm(AddressMap &map) : vm_(map) {}
    std::string_view name() const noexcept override { return "kvm"; }
    std::unique_ptr<accel::Vcpu> create_vcpu(const accel::VcpuConfig &config,
                                             accel::VcpuClient &client) override {
        return std::make_unique<KvmVcpu>(vm_, config, client);
    }

private:
    Vm vm_;
};

} // namespace

std::unique_ptr<accel::Accelerator> make_kvm(AddressMap &map) {
    return std::make_unique<Kvm>(map);
}

std::string problem() {
    try {
        open_kvm();
        return {};
    } catch (const ConfigError &e) {
        return e.what();
    }
}

bool on_pvm() noexcept {
    return ::access("/sys/module/kvm_pvm", F_OK) == 0;
}

} // namespace rhea::kvm
