// Device: what every device model is, and the life that it leads.
//
//   construct   with its configuration and its wiring (lines, clock, a Dma, back ends): complete
//   from there on, in the
//               state of a power-on reset, but nothing has been told to the outside
//   map         the board, or the bus on the guest's behalf, maps its windows into the address map
//   reset       as often as the guest likes: back to the reset state, outputs recomputed
//   run         accesses from vCPU threads, timers, back ends through enter(): each with the
//   device's lock held and
//               settle() at the end
//   save, load  with the guest paused: the whole of its state as one section of a stream
//   destroy     windows unmapped and AddressMap::drain() first; timers stop in their destructors
//
// The lock is the Owner's; device code never takes it, and holds no other device's. Everything that
// the guest can reach is noexcept. A device's name is its path on the board, unique in a machine
// ("uart0", "pci.3.0").
#pragma once
#include "dm/core/result.h"
#include "dm/core/types.h"
#include "dm/mem/request.h"
#include "dm/mem/target.h"
#include "dm/state/stream.h"
#include <concepts>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace rhea {

// What a device shows to a bus. `base` is where boards usually put it, and only a hint.
struct Window {
    static constexpr u64 unplaced = ~u64{0}; // wherever there is room (a BAR)
    const char *name = "";
    Space space = Space::port;
    u64 base = unplaced;
    u64 size = 0; // bytes
    Target *target = nullptr;
};

class Device : public Owner {
public:
    explicit Device(std::string name) : name_(std::move(name)) {}
    virtual ~Device() = default;

    const std::string &name() const noexcept { return name_; }
    virtual std::string_view type() const noexcept = 0; // "uart16550": the model, as in the catalog
    virtual std::span<const Window> windows() noexcept { return {}; }

    void reset() noexcept {
        enter([this] { on_reset(); });
    }
    void save(state::Writer &out) {
        std::lock_guard guard(*this);
        settle(); // what is computed only when somebody looks is part of the state now
        out.section(name_, type(), state_version(),
                    [this](state::FieldWriter &f) { save_fields(f); });
    }
    // On an error nothing has changed.
    Result<> load(const state::Reader &in) {
        std::lock_guard guard(*this);
        auto done = in.section(name_, type(), state_version(),
                               [this](state::FieldReader &f) { load_fields(f); });
        if (done)
            settle();
        return done;
    }

protected:
    // All with the lock held.
    virtual void on_reset() noexcept = 0;
    virtual u16 state_version() const noexcept = 0;
    virtual void save_fields(state::FieldWriter &out) const = 0;
    // Reads everything into locals, calls in.finish() to learn whether all of it is sound, and only
    // then assigns.
    virtual void load_fields(state::FieldReader &in) = 0;

private:
    std::string name_;
};

// A device whose state is one described struct `s`: reset, save and load come from it.
//
// The reset state is what the struct's initialisers say. Its registers are RegisterFiles
// (register_device.h), or it decodes accesses itself: PlainDevice for one window, MethodTargets for
// several.
template <class S>
requires Described<S>
class StateDevice : public Device {
public:
    using State = S;
    using Device::Device;
    const S &state() const noexcept { return s; } // tests, and with the lock held

protected:
    S s{};

    // What reset makes of the state: override to keep what a reset does not touch (battery-backed
    // RAM).
    virtual S reset_state() const noexcept { return S{}; }
    // A loaded state, before it is assigned: null if it can be, else what is wrong with it.
    // Everything that the code takes for granted between fields (an index below a count) is checked
    // here.
    virtual const char *validate(const S &) const noexcept { return nullptr; }
    // After a loaded state was assigned, before settle(): what is derived from it (mappings).
    virtual void loaded() noexcept {}

    void on_reset() noexcept override { s = reset_state(); }
    u16 state_version() const noexcept override { return state::version_of<S>(); }
    void save_fields(state::FieldWriter &out) const override { out.fields(s); }
    void load_fields(state::FieldReader &in) override {
        S fresh{};
        in.fields(fresh);
        if (!in.finish())
            return;
        if (const char *wrong = validate(fresh)) {
            in.fail(wrong);
            return;
        }
        s = std::move(fresh);
        loaded();
    }
};

// A device with one window whose accesses it decodes itself: override read() and write().
template <class S> class PlainDevice : public StateDevice<S>, public Target {
public:
    explicit PlainDevice(std::string path, Target::Traits traits = {})
        : StateDevice<S>(std::move(path)),
          Target(static_cast<Owner &>(*this), this->Device::name().c_str(), traits) {}
    using Device::name;
};

namespace detail {
template <class C, class R, class... A> C class_of(R (C::*)(A...) noexcept);
}

// One of several windows of a device, served by two of its member functions:
//
//     MethodTarget<&Vga::read_port, &Vga::write_port> ports_{*this, "vga ports"};
template <auto Read, auto Write> class MethodTarget final : public Target {
    using D = decltype(detail::class_of(Read));

public:
    MethodTarget(D &device, const char *name, Traits traits = {}) noexcept
        : Target(device, name, traits), device_(device) {}
    u64 read(u64 at, unsigned size) noexcept override { return (device_.*Read)(at, size); }
    void write(u64 at, unsigned size, u64 value) noexcept override {
        (device_.*Write)(at, size, value);
    }

private:
    D &device_;
};

} // namespace rhea
