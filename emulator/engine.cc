#include "emulator/engine.h"

#include "accel/dbt/adapter.h"
#include "dm/core/config_error.h"
#include "dm/core/log.h"
#ifdef RHEA_KVM
#include "accel/kvm/engine.h"
#endif

namespace rhea::emulator {
namespace {

std::unique_ptr<accel::Accelerator> make_translator(const Options &o, AddressMap &map) {
    dbt::DbtOptions options{.interpret_only = o.interpret};
    if (o.code_cache)
        options.code_cache_bytes = o.code_cache;
    return dbt::make_dbt(map, options);
}

#ifdef RHEA_KVM
/// Why KVM is not to be used although there is another engine; empty: it is.
std::string against_kvm() {
    if (std::string problem = kvm::problem(); !problem.empty())
        return problem;
    return kvm::on_pvm() ? "the engine kvm: this host's KVM is PVM, which cannot run a whole kernel"
                         : std::string();
}
#endif

} // namespace

std::unique_ptr<accel::Accelerator> make_engine(const Options &o, AddressMap &map) {
    std::string why;
    for (const std::string &name : o.engines) {
        if (name == "dbt") {
            if (!why.empty())
                RHEA_LOG(info, "%s; the translator runs the guest", why.c_str());
            return make_translator(o, map);
        }
#ifdef RHEA_KVM
        const bool alone = o.engines.size() == 1; // then what is wrong with it is an error
        why = alone ? "" : against_kvm();
        if (why.empty())
            return kvm::make_kvm(map);
#else
        why = "the engine kvm is not built into this program (./configure --enable-kvm)";
#endif
    }
    throw ConfigError("-accel: " + why);
}

std::string engine_list() {
    std::string list = "dbt   the translator (default; tcg is taken for it)\n";
#ifdef RHEA_KVM
    const std::string problem = kvm::problem();
    list += "kvm   the host's KVM" +
            (!problem.empty() ? " (cannot be used: " + problem + ")"
             : kvm::on_pvm()  ? std::string(" (on PVM: firmware runs, no whole kernel)")
                              : std::string()) +
            '\n';
#endif
    return list;
}

} // namespace rhea::emulator
