// The concurrency law of dm/mem at work: accesses, mappings, unplugging and waiting from many
// threads. ThreadSanitizer runs over these.
#include "dm/mem/address_space.h"
#include "dm/mem/dispatcher.h"
#include "dm/mem/dma.h"
#include <barrier>
#include <chrono>
#include <condition_variable>
#include <gtest/gtest.h>
#include <memory>
#include <thread>
#include <vector>

namespace rhea {
namespace {

constexpr auto port = Space::port;
constexpr auto mem = Space::memory;
constexpr u64 poison = 0xdeadbeef;

// Notices two threads inside, or a call after its end.
struct Counter final : Owner, Target {
    Counter() : Target(*static_cast<Owner *>(this), "counter") {}
    ~Counter() { alive = 0; }
    u64 read(u64, unsigned) noexcept override { return alive == 1 ? n : poison; }
    void write(u64, unsigned, u64 v) noexcept override { n += v; }
    void settle() noexcept override { ++settled; }
    u64 alive = 1, n = 0, settled = 0; // plain: the device's lock is all that guards them
};

TEST(Concurrency, a_device_has_one_access_at_a_time) {
    AddressMap map;
    Counter device;
    const Mapping m = map.map(port, 0x100, 4, device);
    std::vector<std::thread> cpus;
    for (int i = 0; i < 4; ++i)
        cpus.emplace_back([&] {
            Accessor cpu(map);
            for (int k = 0; k < 5000; ++k)
                cpu.write(port, 0x100, 4, 1);
        });
    for (auto &t : cpus)
        t.join();
    EXPECT_EQ(device.n, 20000u);
    EXPECT_EQ(device.settled, 20000u);
}

TEST(Concurrency, devices_come_and_go_under_running_cpus) {
    AddressMap map;
    Counter fixed;
    const Mapping m = map.map(port, 0x200, 4, fixed);
    std::atomic<bool> stop{false};
    std::atomic<u64> bad{0}, hits{0};
    std::vector<std::thread> cpus;
    for (int i = 0; i < 3; ++i)
        cpus.emplace_back([&] {
            Accessor cpu(map);
            while (!stop) {
                const u64 v = cpu.read(port, 0x100, 4);
                if (v == poison)
                    ++bad;
                if (v != 0xffffffff)
                    ++hits;
                cpu.write(port, 0x100, 4, 1);
                cpu.write(port, 0x200, 4, 1);
                std::this_thread::yield();
            }
        });
    for (int i = 0; i < 500 || !hits; ++i) {
        auto device = std::make_unique<Counter>();
        Mapping shown = map.map(port, 0x100, 4, *device);
        std::this_thread::yield();
        shown.move(0x104); // another place, while it is in use
        shown.move(0x100);
        std::this_thread::yield();
        shown.unmap();
        map.drain(*device);
        device.reset(); // nobody is inside, and nobody comes: else ASan, TSan or the poison tell
    }
    stop = true;
    for (auto &t : cpus)
        t.join();
    EXPECT_EQ(bad, 0u);
    EXPECT_GT(hits, 0u);
}

// A device that maps another one when it is written to, as a BAR does.
struct Bar final : Owner, Target {
    Bar(AddressMap &map, Target &inner)
        : Target(*static_cast<Owner *>(this), "bar"),
          mapping(map.map(mem, 0, 0x1000, inner, 0, false)) {}
    u64 read(u64, unsigned) noexcept override { return 0; }
    void write(u64, unsigned, u64 v) noexcept override {
        mapping.move_and_show(0xe0000000 + (v & 7) * 0x1000, v & 8);
    }
    Mapping mapping;
};

// The run loop of an engine in little: translations of one address, kept until the map changes.
struct Engine final : MapListener {
    explicit Engine(AddressMap &m) : map(m), reader(m), cpu(m, &reader) { map.add_listener(*this); }
    ~Engine() { map.remove_listener(*this); }
    void map_changed(const ViewPtr &, const ViewPtr &) noexcept override {
        exit_request.store(true, std::memory_order_seq_cst);
    }
    void check() {
        if (exit_request.exchange(false, std::memory_order_seq_cst) || map.generation() != cached) {
            cached = reader.active();
            ++flushes;
        }
    }
    AddressMap &map;
    ViewReader reader;
    Accessor cpu;
    std::atomic<bool> exit_request{true};
    u64 cached = 0, flushes = 0;
};

TEST(Concurrency, cpus_that_all_change_the_map_wait_for_each_other_without_deadlock) {
    AddressMap map;
    Counter inner;
    Bar bar(map, inner);
    const Mapping config = map.map(port, 0xcfc, 4, bar);
    std::vector<std::thread> cpus;
    std::atomic<u64> flushes{0};
    std::barrier start(3);
    for (u64 i = 0; i < 3; ++i)
        cpus.emplace_back([&, i] {
            Engine engine(map);
            engine.check();
            start.arrive_and_wait();
            for (u64 k = 0; k < 300; ++k) {
                engine.cpu.write(port, 0xcfc, 4, i + k);
                engine.check();
                engine.cpu.write(mem, 0xe0000000 + (k & 7) * 0x1000, 4, 1);
                engine.check();
                for (int spin = 0; spin < 20; ++spin)
                    engine.check(); // "translated code", with its exit checks
            }
            flushes += engine.flushes;
            engine.reader.idle(); // halted for good
        });
    for (auto &t : cpus)
        t.join();
    EXPECT_GT(flushes, 3u);
    bar.mapping.unmap();
}

// A bridge, with its lock held, forwards to a function that changes the map: it must not wait for
// CPUs that wait for it.
TEST(Concurrency, a_change_behind_a_bridge_is_waited_for_outside_its_lock) {
    struct Bridge final : Owner, Target {
        explicit Bridge(AddressMap &map)
            : Target(*static_cast<Owner *>(this), "bridge"), behind(map) {}
        u64 read(u64, unsigned n) noexcept override { return behind.read(Space::pci_config, 0, n); }
        void write(u64, unsigned n, u64 v) noexcept override {
            behind.write(Space::pci_config, 0, n, v);
        }
        Accessor behind;
    };
    AddressMap map;
    {
        Counter inner;
        Bar bar(map, inner);
        Bridge bridge(map);
        const Mapping function = map.map(Space::pci_config, 0, 4, bar);
        const Mapping config = map.map(port, 0xcfc, 4, bridge);
        std::vector<std::thread> cpus;
        std::barrier start(3);
        for (u64 i = 0; i < 3; ++i)
            cpus.emplace_back([&, i] {
                Engine engine(map);
                engine.check();
                start.arrive_and_wait();
                for (u64 k = 0; k < 500; ++k) {
                    engine.cpu.write(port, 0xcfc, 4, i + k);
                    engine.check();
                    EXPECT_FALSE(Owner::any_held());
                }
                engine.reader.idle();
            });
        for (auto &t : cpus)
            t.join();
    }
}

TEST(ConcurrencyDeathTest, waiting_with_a_device_lock_held_is_a_bug_of_ours) {
    AddressMap map;
    Counter device;
    EXPECT_DEATH(device.enter([&] { map.wait_seen(map.generation()); }), "any_held");
}

TEST(Concurrency, a_change_by_one_cpu_waits_for_a_running_one_and_ends) {
    AddressMap map;
    Counter inner;
    Bar bar(map, inner);
    const Mapping config = map.map(port, 0xcfc, 4, bar);
    std::atomic<bool> stop{false};
    std::atomic<u64> other_uses{0};
    std::thread other([&] {
        Engine engine(map);
        while (!stop) {
            engine.check();
            other_uses.store(engine.cached, std::memory_order_seq_cst);
            std::this_thread::yield();
        }
        engine.reader.idle();
    });
    while (!other_uses)
        std::this_thread::yield();
    {
        Engine engine(map);
        engine.check();
        for (u64 k = 0; k < 500; ++k) {
            engine.cpu.write(port, 0xcfc, 4, 8 | (k & 7));
            engine.check();
            ASSERT_FALSE(engine.reader.is_idle());
        }
        engine.reader.idle();
    }
    stop = true;
    other.join();
    EXPECT_EQ(other_uses, map.generation());
    bar.mapping.unmap();
}

TEST(Concurrency, waiting_ends_when_the_last_reader_has_seen_and_not_before) {
    AddressMap map;
    ViewReader reader(map), halted(map);
    reader.active();
    const u64 generation = map.renew();
    std::atomic<bool> done{false};
    std::thread waiter([&] {
        map.wait_seen(generation);
        done = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(done);
    reader.seen(generation);
    waiter.join();
    EXPECT_TRUE(done);
    reader.idle();
}

TEST(Concurrency, drain_waits_for_the_access_that_is_inside) {
    struct Slow final : Owner, Target {
        Slow() : Target(*static_cast<Owner *>(this), "slow") {}
        u64 read(u64, unsigned) noexcept override {
            inside = true;
            while (!go)
                std::this_thread::yield();
            return 1;
        }
        void write(u64, unsigned, u64) noexcept override {}
        std::atomic<bool> inside{false}, go{false};
    } device;
    AddressMap map;
    Mapping m = map.map(port, 1, 1, device);
    std::thread cpu([&] {
        Accessor a(map);
        a.read(port, 1, 1);
    });
    while (!device.inside)
        std::this_thread::yield();
    m.unmap();
    std::atomic<bool> drained{false};
    std::thread unplug([&] {
        map.drain(device);
        drained = true;
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    EXPECT_FALSE(drained);
    device.go = true;
    unplug.join();
    cpu.join();
    EXPECT_TRUE(drained);
}

TEST(Concurrency, no_write_is_lost_between_two_looks_of_a_dirty_log) {
    AddressMap map;
    auto made = RamRegion::create("ram", 16 * page_size);
    ASSERT_TRUE(made);
    auto ram = *made;
    const Mapping m = map.map_ram(0, ram);
    DirtyLog log(map, ram, PageWatch::migration, DirtyLog::Start::clean);
    constexpr u32 rounds = 20000;
    std::atomic<bool> done{false};
    // The writer counts up in each page; whoever looks copies the dirty pages. The copy is whole at
    // the end.
    auto word = [&](u64 page) {
        return std::atomic_ref<u32>(*reinterpret_cast<u32 *>(ram->host() + page * page_size));
    };
    std::thread writer([&] {
        for (u32 i = 1; i <= rounds; ++i) {
            const u64 page = i * 7 % 16;
            word(page).store(i, std::memory_order_relaxed);
            ram->written(page * page_size, 4);
        }
        done = true;
    });
    std::array<u32, 16> copy{};
    for (bool last = false;;) {
        for (const PageRun &r : log.take_pages())
            for (u64 p = r.first; p < r.first + r.count; ++p)
                copy[p] = word(p).load(std::memory_order_relaxed);
        if (last)
            break;
        last = done;
    }
    writer.join();
    for (u64 p = 0; p < 16; ++p)
        EXPECT_EQ(copy[p], word(p).load()) << p;
}

TEST(Concurrency, dma_runs_while_ram_is_moved_about) {
    AddressMap map;
    auto ram = RamRegion::create("ram", 4 * page_size);
    ASSERT_TRUE(ram);
    Mapping m = map.map_ram(0, *ram);
    std::atomic<bool> stop{false};
    std::atomic<u64> ok{0};
    std::thread device([&] {
        Dma dma(map);
        while (!stop) {
            u32 v = 0;
            if (dma.read(0x100, v))
                ++ok;
            (void)dma.pin(0, 2 * page_size, Dma::For::reading);
        }
    });
    for (int i = 0; i < 500 || !ok; ++i) {
        m.move(page_size * 16);
        std::this_thread::yield();
        m.move(0);
        std::this_thread::yield();
    }
    stop = true;
    device.join();
    EXPECT_GT(ok, 0u);
}

} // namespace
} // namespace rhea
