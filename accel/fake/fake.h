#pragma once
// An engine without a CPU: it plays recorded accesses into a machine and takes the interrupts that
// come back. For tests of a machine, and the proof that a machine needs no more of an engine than
// accelerator.h and vcpu.h say.
//
// A FakeVcpu has no thread of its own: play() runs on the caller's, which is the vCPU's thread as
// the machine sees it. The interrupt inputs may be called on any thread. Accesses go the way of
// every engine: VcpuClient::serve_local first, then the vCPU's own Accessor.

#include "accel/accelerator.h"
#include "dm/mem/address_space.h"
#include "dm/mem/dispatcher.h"

#include <atomic>
#include <string>
#include <string_view>
#include <vector>

namespace rhea::accel {

// One step of a recording.
struct FakeStep {
    enum class Kind : u8 { access, interrupt };
    Kind kind = Kind::access;
    Request request{};    // access: what was done
    bool checked = false; // a read whose value is known
    u64 expected = 0;     // that value; interrupt: the vector, or none
    static constexpr u64 none = ~u64{0};
    unsigned line = 0; // of the recording's text
};

// A recording as text, one step a line; '#' starts a comment:
//
//     out 1 0x43 0x34          write, size in bytes, port, value
//     in 1 0x61 = 0x30         read, and what it must give ("= ?" or nothing: anything)
//     write 4 0xfee000f0 0x1ff memory
//     read 4 0xfee00030 = 0x00050014
//     irq 0x30                 an interrupt is pending and its vector is this
//     irq none                 none is pending
//
// Throws ConfigError naming the line.
std::vector<FakeStep> parse_recording(std::string_view text);

class FakeVcpu final : public Vcpu {
public:
    FakeVcpu(AddressMap &map, unsigned index, VcpuClient &client)
        : index_(index), client_(client), accessor_(map) {}

    // Plays the steps; what differed from the recording, a line each ("" if nothing did). Nothing
    // is played while the machine has it paused.
    std::string play(const std::vector<FakeStep> &steps);
    std::string play(std::string_view recording) { return play(parse_recording(recording)); }

    // Single steps.
    u64 read(Space space, u64 address, unsigned size) noexcept;
    void write(Space space, u64 address, unsigned size, u64 value) noexcept;
    // The vector that a CPU with interrupts on would take now, or -1.
    int take_interrupt() noexcept;
    VcpuClient &client() noexcept { return client_; }

    // What came to the inputs.
    bool interrupt() const noexcept { return interrupt_.load(); }
    unsigned nmis() const noexcept { return nmis_.load(); }
    unsigned inits() const noexcept { return inits_.load(); }
    int startup_page() const noexcept { return startup_.load(); } // of the last SIPI, or -1
    bool running() const noexcept { return running_; }

    unsigned index() const noexcept override { return index_; }
    void run() override { running_ = true; }
    void pause() override { running_ = false; }
    void kick() noexcept override {}
    void set_interrupt(bool level) noexcept override { interrupt_.store(level); }
    void raise_nmi() noexcept override { ++nmis_; }
    void raise_init() noexcept override { ++inits_; }
    void raise_startup(u8 page) noexcept override { startup_.store(page); }
    void reset() override;
    X86State state() const override { return state_; }
    void set_state(const X86State &state) override { state_ = state; }

private:
    void serve(Request &request) noexcept;

    const unsigned index_;
    VcpuClient &client_;
    Accessor accessor_;
    X86State state_;
    bool running_ = false;
    std::atomic<bool> interrupt_{false};
    std::atomic<unsigned> nmis_{0}, inits_{0};
    std::atomic<int> startup_{-1};
};

class FakeEngine final : public Accelerator {
public:
    // `map` outlives the engine's vCPUs.
    explicit FakeEngine(AddressMap &map) noexcept : map_(map) {}
    std::string_view name() const noexcept override { return "fake"; }
    std::unique_ptr<Vcpu> create_vcpu(const VcpuConfig &config, VcpuClient &client) override;

private:
    AddressMap &map_;
};

} // namespace rhea::accel
