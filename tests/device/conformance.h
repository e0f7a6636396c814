#pragma once
// What every device must keep to, whatever it does: checks that know nothing about it but its
// windows and its state.
//
// Each check builds the device on a bench of its own and answers with what is wrong, or with
// nothing. A new device is a Subject, and gets all of them; run_script is the entry point for
// fuzzing as well.
#include "dm/device/bench.h"
#include "dm/device/catalog.h"
#include "dm/device/device.h"
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace rhea::conformance {

// A device with whatever it needs around it.
class Rig {
public:
    virtual ~Rig() = default;
    virtual Device &device() noexcept = 0;
};

struct Subject {
    std::string name;
    std::function<std::unique_ptr<Rig>(Bench &)> make;
};

// From a line of a catalog.
Subject subject(const DeviceType &type);

// A device that its factory makes alone.
template <class Make> Subject subject(std::string name, Make make) {
    struct Alone final : Rig {
        explicit Alone(std::unique_ptr<Device> d) : made(std::move(d)) {}
        Device &device() noexcept override { return *made; }
        std::unique_ptr<Device> made;
    };
    return {std::move(name),
            [make](Bench &b) -> std::unique_ptr<Rig> { return std::make_unique<Alone>(make(b)); }};
}

// A script is bytes, any bytes: accesses of all sizes at all windows, time steps, resets. What is
// left of a step at the end is taken as zeros. Returns what the accesses read, the levels of the
// lines and what was sent, as text to compare.
std::string run_script(Bench &bench, Device &device, std::span<const u8> script);

// Bytes that only depend on the seed.
std::vector<u8> noise(u64 seed, std::size_t size);

// Empty: kept. Otherwise a sentence.
std::string check_reset_is_idempotent(const Subject &s);
std::string check_windows_take_every_access(const Subject &s);
std::string check_state_survives_save_and_load(const Subject &s);
std::string check_a_restored_device_behaves_the_same(const Subject &s);
std::string check_damaged_state_is_refused_or_harmless(const Subject &s);
std::string check_noise_ends(const Subject &s);

} // namespace rhea::conformance
