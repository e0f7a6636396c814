// The engine kvm with payloads of a few bytes: real mode, which every KVM can run.

#include "accel/kvm/engine.h"
#include "dm/core/config_error.h"
#include "dm/mem/target.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <gtest/gtest.h>
#include <mutex>
#include <vector>

namespace rhea {
namespace {

// The machine's side: counts, gives out the vectors that a test has queued.
struct Client final : accel::VcpuClient {
    bool serve_local(Request &) noexcept override { return false; }
    int acknowledge_interrupt() noexcept override {
        std::lock_guard guard(mutex);
        if (vectors.empty())
            return -1;
        const int vector = vectors.front();
        vectors.pop_front();
        vcpu->set_interrupt(!vectors.empty());
        return vector;
    }
    u64 task_priority() noexcept override { return priority; }
    void set_task_priority(u64 value) noexcept override { priority = value; }
    bool read_msr(u32 number, u64 &value) noexcept override {
        value = 0xfee0'0900;
        return number == 0x1b;
    }
    bool write_msr(u32, u64) noexcept override { return true; }
    void cpu_shut_down() noexcept override {
        std::lock_guard guard(mutex);
        down = true;
        changed.notify_all();
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::deque<int> vectors;
    accel::Vcpu *vcpu = nullptr;
    std::atomic<u64> priority{0};
    bool down = false;
};

// A device that remembers what was written, and reads as a counter from 0x40.
struct Recorder final : Owner, Target {
    Recorder() : Target(*this, "recorder", {.max_size = 8, .unaligned = true}) {}
    u64 read(u64, unsigned) noexcept override { return next++; }
    void write(u64 at, unsigned size, u64 value) noexcept override {
        std::lock_guard guard(mutex);
        writes.push_back({at, size, value});
        changed.notify_all();
    }
    struct Write {
        u64 at;
        unsigned size;
        u64 value;
        bool operator==(const Write &) const = default;
    };
    // The first `count` writes; fewer if they have not come within 5 s.
    std::vector<Write> wait(usize count) {
        std::unique_lock guard(mutex);
        changed.wait_for(guard, std::chrono::seconds(5), [&] { return writes.size() >= count; });
        return writes;
    }
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Write> writes;
    u64 next = 0x40;
};

class KvmEngine : public testing::Test {
protected:
    static constexpr u64 code_at = 0x1000;

    void SetUp() override {
        if (const std::string problem = kvm::problem(); !problem.empty())
            GTEST_SKIP() << problem;
        ram = RamRegion::create("ram", 1 << 20).value();
        low = map.map_ram(0, ram);
        ports = map.map(Space::port, 0x10, 0x10, port_device);
        window = map.map(Space::memory, 0x20'0000, 0x1000, memory_device);
        engine = kvm::make_kvm(map);
        vcpu = engine->create_vcpu({}, client);
        client.vcpu = vcpu.get();
        vcpu->reset();
    }
    void TearDown() override {
        vcpu.reset();
        engine.reset();
    }
    // Real mode at 0:1000h, SS:SP 0:8000h, with 4 GiB segments for what needs high addresses.
    void start(std::initializer_list<int> code, u64 rflags = 2) {
        u8 *at = ram->host() + code_at;
        for (int byte : code)
            *at++ = static_cast<u8>(byte);
        accel::X86State s = vcpu->state();
        s.segment[1].base = s.segment[1].selector = 0;
        s.segment[3].limit = 0xffff'ffff;
        s.segment[3].attributes |= 0x8000;
        s.rip = code_at;
        s.gpr[4] = 0x8000;
        s.rflags = rflags;
        vcpu->set_state(s);
        vcpu->run();
    }
    void vector(unsigned number, u16 ip, std::initializer_list<int> handler) {
        u8 *entry = ram->host() + 4 * number;
        entry[0] = static_cast<u8>(ip);
        entry[1] = static_cast<u8>(ip >> 8);
        entry[2] = entry[3] = 0;
        u8 *at = ram->host() + ip;
        for (int byte : handler)
            *at++ = static_cast<u8>(byte);
    }

    AddressMap map;
    Recorder port_device, memory_device;
    std::shared_ptr<RamRegion> ram;
    Mapping low, ports, window;
    Client client;
    std::unique_ptr<accel::Accelerator> engine;
    std::unique_ptr<accel::Vcpu> vcpu;
};
using Write = Recorder::Write;

TEST_F(KvmEngine, reset_is_the_state_of_power_on) {
    const accel::X86State s = vcpu->state();
    EXPECT_EQ(s.rip, 0xfff0u);
    EXPECT_EQ(s.segment[1].selector, 0xf000u);
    EXPECT_EQ(s.segment[1].base, 0xffff'0000u);
    EXPECT_EQ(s.cr0, 0x6000'0010u);
    EXPECT_EQ(s.rflags, 2u);
    EXPECT_EQ(s.apic_base, 0xfee0'0900u);
    EXPECT_EQ(s.fxsave[0], 0x40);
}

TEST_F(KvmEngine, state_that_was_set_is_read_back) {
    accel::X86State s = vcpu->state();
    for (u64 i = 0; i < 16; ++i)
        s.gpr[i] = 0x1111'2222'3333'0000 + i;
    s.segment[0] = {0x12340, 0xffff, 0x1234, 0x93};
    s.gdt = {0x5000, 0x27};
    s.dr[1] = 0x1234;
    s.fxsave[160] = 0xa5; // XMM0
    for (auto &[number, value] : s.msr)
        if (number == 0xc000'0102)
            value = 0x7777'8888;
    vcpu->set_state(s);
    const accel::X86State t = vcpu->state();
    EXPECT_EQ(t.gpr, s.gpr);
    EXPECT_EQ(t.segment[0].base, 0x12340u);
    EXPECT_EQ(t.segment[0].attributes, 0x93u);
    EXPECT_EQ(t.gdt.base, 0x5000u);
    EXPECT_EQ(t.gdt.limit, 0x27u);
    EXPECT_EQ(t.dr[1], 0x1234u);
    EXPECT_EQ(t.fxsave[160], 0xa5);
    bool found = false;
    for (const auto &[number, value] : t.msr)
        found |= number == 0xc000'0102 && value == 0x7777'8888;
    EXPECT_TRUE(found);
}

TEST_F(KvmEngine, port_accesses_reach_the_device_with_size_and_value) {
    // in al,10h; out 11h,al; mov eax,12345678h; out 14h,eax; hlt
    start({0xe4, 0x10, 0xe6, 0x11, 0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0xe7, 0x14, 0xf4});
    EXPECT_EQ(port_device.wait(2), (std::vector<Write>{{1, 1, 0x40}, {4, 4, 0x1234'5678}}));
    vcpu->pause();
}

TEST_F(KvmEngine, string_output_gives_every_item_in_order) {
    for (u8 i = 0; i < 5; ++i)
        ram->host()[0x2000 + i] = u8(0xa0 + i);
    // mov si,2000h; mov cx,5; mov dx,12h; rep outsb; hlt
    start({0xbe, 0x00, 0x20, 0xb9, 5, 0, 0xba, 0x12, 0, 0xf3, 0x6e, 0xf4});
    EXPECT_EQ(
        port_device.wait(5),
        (std::vector<Write>{{2, 1, 0xa0}, {2, 1, 0xa1}, {2, 1, 0xa2}, {2, 1, 0xa3}, {2, 1, 0xa4}}));
    vcpu->pause();
}

TEST_F(KvmEngine, string_input_fills_memory) {
    // mov di,2000h; mov cx,4; mov dx,10h; rep insb; out 11h,al; hlt
    start({0xbf, 0x00, 0x20, 0xb9, 4, 0, 0xba, 0x10, 0, 0xf3, 0x6c, 0xe6, 0x11, 0xf4});
    ASSERT_EQ(port_device.wait(1).size(), 1u);
    vcpu->pause();
    for (u8 i = 0; i < 4; ++i)
        EXPECT_EQ(ram->host()[0x2000 + i], 0x40 + i);
}

TEST_F(KvmEngine, memory_that_is_no_ram_reaches_the_device) {
    // mov eax,[200004h]; mov [200008h],ax; hlt
    start({0x67, 0x66, 0xa1, 0x04, 0, 0x20, 0, 0x67, 0xa3, 0x08, 0, 0x20, 0, 0xf4});
    EXPECT_EQ(memory_device.wait(1), (std::vector<Write>{{8, 2, 0x40}}));
    vcpu->pause();
}

TEST_F(KvmEngine, rom_is_read_and_not_written) {
    auto rom = RamRegion::create("rom", page_size).value();
    rom->host()[0] = 0x5a;
    const Mapping shown = map.map_rom(0x8'0000, rom, 0, page_size, 1);
    // mov [80000h],al (0); mov al,[80000h]; out 11h,al; hlt
    start({0xb0, 0, 0x67, 0xa2, 0, 0, 8, 0, 0x67, 0xa0, 0, 0, 8, 0, 0xe6, 0x11, 0xf4});
    EXPECT_EQ(port_device.wait(1), (std::vector<Write>{{1, 1, 0x5a}}));
    vcpu->pause();
}

TEST_F(KvmEngine, a_change_of_the_map_is_seen_by_a_guest_that_runs) {
    auto other = RamRegion::create("other", page_size).value();
    other->host()[0] = 0x77;
    Mapping shown = map.map_ram(0x8'0000, other, 1, false);
    // l: mov al,[80000h]; cmp al,77h; jne l; out 11h,al; hlt
    start({0x67, 0xa0, 0, 0, 8, 0, 0x3c, 0x77, 0x75, 0xf6, 0xe6, 0x11, 0xf4});
    shown.show(true);
    map.wait_seen(map.generation());
    EXPECT_EQ(port_device.wait(1), (std::vector<Write>{{1, 1, 0x77}}));
    vcpu->pause();
}

TEST_F(KvmEngine, an_interrupt_ends_a_halt) {
    vector(0x30, 0x1800, {0xb0, 0x30, 0xe6, 0x11, 0xcf}); // mov al,30h; out 11h,al; iret
    // out 12h,al; sti; hlt; out 13h,al; hlt
    start({0xe6, 0x12, 0xfb, 0xf4, 0xe6, 0x13, 0xf4});
    ASSERT_EQ(port_device.wait(1).size(), 1u);
    {
        std::lock_guard guard(client.mutex);
        client.vectors.push_back(0x30);
    }
    vcpu->set_interrupt(true);
    const auto writes = port_device.wait(3);
    vcpu->pause();
    ASSERT_EQ(writes.size(), 3u);
    EXPECT_EQ(writes[1], (Write{1, 1, 0x30}));
    EXPECT_EQ(writes[2], (Write{3, 1, 0x30}));
}

TEST_F(KvmEngine, an_interrupt_waits_until_the_guest_takes_interrupts) {
    vector(0x31, 0x1800, {0xb0, 0x31, 0xe6, 0x11, 0xcf});
    client.vectors.push_back(0x31);
    vcpu->set_interrupt(true);
    // out 12h,al; out 13h,al; sti; nop; jmp $
    start({0xe6, 0x12, 0xe6, 0x13, 0xfb, 0x90, 0xeb, 0xfe});
    const auto writes = port_device.wait(3);
    vcpu->pause();
    ASSERT_EQ(writes.size(), 3u);
    EXPECT_EQ(writes[0].at, 2u);
    EXPECT_EQ(writes[1].at, 3u);
    EXPECT_EQ(writes[2], (Write{1, 1, 0x31}));
}

TEST_F(KvmEngine, nmi_comes_to_a_halted_guest_without_interrupts) {
    vector(2, 0x1800, {0xb0, 0x02, 0xe6, 0x11, 0xcf});
    start({0xe6, 0x12, 0xf4, 0xe6, 0x13, 0xf4}); // out 12h,al; hlt; out 13h,al; hlt
    ASSERT_EQ(port_device.wait(1).size(), 1u);
    vcpu->raise_nmi();
    const auto writes = port_device.wait(3);
    vcpu->pause();
    ASSERT_EQ(writes.size(), 3u);
    EXPECT_EQ(writes[1], (Write{1, 1, 2}));
}

TEST_F(KvmEngine, pause_stops_a_guest_that_never_leaves) {
    start({0xe6, 0x11, 0xff, 0xc0, 0xeb, 0xfc}); // out 11h,al; l: inc ax; jmp l
    ASSERT_EQ(port_device.wait(1).size(), 1u);
    vcpu->pause();
    const accel::X86State s = vcpu->state();
    EXPECT_TRUE(s.rip >= code_at + 2 && s.rip < code_at + 6) << s.rip;
    vcpu->run();
    vcpu->pause();
}

TEST_F(KvmEngine, startup_ipi_starts_a_waiting_cpu_at_its_page) {
    accel::X86State s = vcpu->state();
    s.wait_for_sipi = true;
    vcpu->set_state(s);
    u8 *at = ram->host() + 0x3000;
    for (int byte : {0xe6, 0x11, 0xf4}) // out 11h,al; hlt
        *at++ = static_cast<u8>(byte);
    vcpu->run();
    vcpu->raise_startup(3);
    EXPECT_EQ(port_device.wait(1).size(), 1u);
    vcpu->pause();
    EXPECT_EQ(vcpu->state().segment[1].selector, 0x300u);
}

TEST_F(KvmEngine, unknown_models_and_features_are_refused) {
    Client other;
    EXPECT_THROW(engine->create_vcpu({.index = 1, .model = "z80"}, other), ConfigError);
    EXPECT_THROW(engine->create_vcpu({.index = 1, .model = "qemu64,+warp"}, other), ConfigError);
    EXPECT_THROW(engine->create_vcpu({.index = 1, .model = "qemu64,sse3"}, other), ConfigError);
}

} // namespace
} // namespace rhea
