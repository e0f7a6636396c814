#include "dm/device/bench.h"
#include "dm/core/bits.h"
#include <bit>

namespace rhea {

Bench::Bench(u64 ram_size) {
    auto made = RamRegion::create("bench RAM", ram_size);
    VERIFY(made);
    ram = std::move(*made);
    ram_mapping_ = address_map.map_ram(0, ram);
}

void Bench::plug(Device &device) {
    for (const Window &w : device.windows()) {
        u64 base = w.base;
        if (base == Window::unplaced) {
            u64 &next = w.space == Space::port ? next_port_ : next_bar_;
            const u64 alignment = std::bit_ceil(w.size);
            base = w.space == Space::pci_config ? 0 : align_up(next, alignment);
            next = base + alignment;
        }
        map(w.space, base, w.size, *w.target);
    }
}

void Bench::map(Space space, u64 base, u64 size, Target &target) {
    mappings_.push_back(address_map.map(space, base, size, target, 1));
    bases_.push_back(base);
}

void Bench::unplug() noexcept {
    mappings_.clear();
    bases_.clear();
}

std::vector<u8> Bench::save(Device &device) {
    state::Writer out;
    device.save(out);
    return out.finish();
}

Result<> Bench::load(Device &device, std::span<const u8> stream) {
    auto reader = state::Reader::open(stream);
    if (!reader)
        return tl::unexpected<Error>(reader.error());
    return device.load(*reader);
}

} // namespace rhea
