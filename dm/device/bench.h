// Bench: a machine without a CPU, for the tests of a device: address map, RAM, a manual clock,
// probes for lines and messages, and a CPU's accesses spelled as they are said (in8, out32,
// read64).
//
//     Bench bench;
//     Uart uart("uart0", {.irq = bench.irq.line(4), ...});
//     bench.plug(uart);
//     bench.out8(0x3fb, 0x83);
//     EXPECT_TRUE(bench.irq.level(4));
//
// One thread, unless a test says otherwise; probes are thread-safe. Declare the bench before the
// device.
#pragma once
#include "dm/device/catalog.h"
#include "dm/device/device.h"
#include "dm/irq/line.h"
#include "dm/irq/msi.h"
#include "dm/mem/address_space.h"
#include "dm/mem/dispatcher.h"
#include "dm/mem/dma.h"
#include "dm/time/clock.h"
#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace rhea {

// Remembers the level of each of 256 lines and counts its rising edges.
class ProbeIrq final : public IrqSink {
public:
    static constexpr u32 lines = 256;

    IrqLine line(u32 n) noexcept { return {*this, n}; }
    bool level(u32 n) const noexcept { return level_[n % lines]; }
    u32 rises(u32 n) const noexcept { return rises_[n % lines]; }
    void set_line(u32 n, bool level) noexcept override {
        if (!level_[n % lines].exchange(level) && level)
            ++rises_[n % lines];
    }

private:
    std::array<std::atomic<bool>, lines> level_{};
    std::array<std::atomic<u32>, lines> rises_{};
};

class ProbeMsi final : public MsiSink {
public:
    void send(const MsiMessage &message) noexcept override {
        std::lock_guard guard(mutex_);
        if (sent_.size() < 4096)
            sent_.push_back(message);
    }
    // What was sent since the last call.
    std::vector<MsiMessage> take() {
        std::lock_guard guard(mutex_);
        return std::exchange(sent_, {});
    }

private:
    std::mutex mutex_;
    std::vector<MsiMessage> sent_;
};

class Bench {
public:
    static constexpr u64 default_ram = 16 << 20;

    explicit Bench(u64 ram_size = default_ram); // RAM from address 0

    // Maps the device's windows at their bases; one without a base (a BAR) is mapped from
    // 0xe0000000 on. The address of window i is at(i).
    void plug(Device &device);
    u64 at(std::size_t window) const { return bases_.at(window); }
    // Maps one target where the test wants it.
    void map(Space space, u64 base, u64 size, Target &target);
    // Takes away everything that was plugged and mapped (not the RAM).
    void unplug() noexcept;

    u8 in8(u64 port) noexcept { return static_cast<u8>(cpu.read(Space::port, port, 1)); }
    u16 in16(u64 port) noexcept { return static_cast<u16>(cpu.read(Space::port, port, 2)); }
    u32 in32(u64 port) noexcept { return static_cast<u32>(cpu.read(Space::port, port, 4)); }
    void out8(u64 port, u8 v) noexcept { cpu.write(Space::port, port, 1, v); }
    void out16(u64 port, u16 v) noexcept { cpu.write(Space::port, port, 2, v); }
    void out32(u64 port, u32 v) noexcept { cpu.write(Space::port, port, 4, v); }
    u8 read8(u64 a) noexcept { return static_cast<u8>(cpu.read(Space::memory, a, 1)); }
    u16 read16(u64 a) noexcept { return static_cast<u16>(cpu.read(Space::memory, a, 2)); }
    u32 read32(u64 a) noexcept { return static_cast<u32>(cpu.read(Space::memory, a, 4)); }
    u64 read64(u64 a) noexcept { return cpu.read(Space::memory, a, 8); }
    void write8(u64 a, u8 v) noexcept { cpu.write(Space::memory, a, 1, v); }
    void write16(u64 a, u16 v) noexcept { cpu.write(Space::memory, a, 2, v); }
    void write32(u64 a, u32 v) noexcept { cpu.write(Space::memory, a, 4, v); }
    void write64(u64 a, u64 v) noexcept { cpu.write(Space::memory, a, 8, v); }

    // A device's whole state, and back (VERIFY-free: a test looks at the Result).
    static std::vector<u8> save(Device &device);
    static Result<> load(Device &device, std::span<const u8> stream);

    AddressMap address_map;
    std::shared_ptr<RamRegion> ram;
    ManualClock clock;
    ProbeIrq irq;
    ProbeMsi msi;
    Resources resources{address_map, clock, irq, &msi};

private:
    Mapping ram_mapping_;
    std::vector<Mapping> mappings_;
    std::vector<u64> bases_;
    u64 next_bar_ = 0xe000'0000;
    u64 next_port_ = 0xc000;

public:
    Accessor cpu{address_map};
    Dma dma{address_map};
};

} // namespace rhea
