// Local APICs, the bus between them, and the IO-APIC, with vCPUs that do what the test says.
#include "accel/fake/fake.h"
#include "dm/device/bench.h"
#include "hw/intc/apic_bus.h"
#include "hw/intc/i8259.h"
#include "hw/intc/io_apic.h"
#include "hw/intc/local_apic.h"

#include <gtest/gtest.h>

namespace rhea::hw {
namespace {

constexpr u64 base = LocalApic::default_base;
constexpr u32 ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0,
              SVR = 0xf0, ISR = 0x100, IRR = 0x200, ESR = 0x280, ICR_LOW = 0x300, ICR_HIGH = 0x310,
              LVT_TIMER = 0x320, LVT_LINT0 = 0x350, LVT_LINT1 = 0x360, TIMER_INITIAL = 0x380,
              TIMER_CURRENT = 0x390, TIMER_DIVIDE = 0x3e0;
constexpr u32 APIC_BASE = 0x1b;

struct Nobody final : MachineEvents {
    void reset_requested() noexcept override {}
    void power_off_requested() noexcept override {}
    void exit_requested(u8) noexcept override {}
    void processor_shut_down(unsigned index) noexcept override {
        shut_down = static_cast<int>(index);
    }
    int shut_down = -1;
};

struct Apics : testing::Test {
    struct Processor {
        Processor(Apics &t, unsigned n)
            : apic("lapic" + std::to_string(n), n, t.bus, t.bench.clock, t.events),
              vcpu(t.bench.address_map, n, apic) {
            apic.attach(&vcpu);
        }
        u32 get(u32 reg) { return static_cast<u32>(vcpu.read(Space::memory, base + reg, 4)); }
        void put(u32 reg, u32 value) { vcpu.write(Space::memory, base + reg, 4, value); }
        void enable() { put(SVR, 0x1ff); }
        LocalApic apic;
        accel::FakeVcpu vcpu;
    };

    Apics() {
        bus.attach(pics);
        bench.plug(pics);
        bench.plug(io_apic);
        for (unsigned n = 0; n < 3; ++n) {
            cpus.push_back(std::make_unique<Processor>(*this, n));
            cpus[n]->enable();
        }
    }
    ~Apics() override {
        for (auto &cpu : cpus)
            cpu->apic.attach(nullptr);
    }
    Processor &cpu(unsigned n) { return *cpus[n]; }
    void redirect(unsigned input, u64 entry) {
        for (u32 half = 0; half < 2; ++half) {
            bench.write32(IoApic::default_base, 0x10 + 2 * input + (1 - half));
            bench.write32(IoApic::default_base + 0x10, static_cast<u32>(entry >> 32 * (1 - half)));
        }
    }
    u64 redirection(unsigned input) {
        u64 entry = 0;
        for (u32 half = 0; half < 2; ++half) {
            bench.write32(IoApic::default_base, 0x10 + 2 * input + half);
            entry |= u64{bench.read32(IoApic::default_base + 0x10)} << 32 * half;
        }
        return entry;
    }
    void send(u8 vector, u8 destination = 0) {
        bus.deliver({.vector = vector, .destination = destination});
    }

    Bench bench;
    Nobody events;
    ApicBus bus;
    I8259Pair pics{"pic", bus.intr_input()};
    IoApic io_apic{"ioapic", bus};
    std::vector<std::unique_ptr<Processor>> cpus;
};

TEST_F(Apics, every_vcpu_sees_its_own_registers_at_the_same_address) {
    EXPECT_EQ(cpu(0).get(ID), 0x00000000u);
    EXPECT_EQ(cpu(2).get(ID), 0x02000000u);
    EXPECT_EQ(cpu(1).get(VERSION), 0x00050014u);
}

TEST_F(Apics, the_highest_vector_is_taken_and_blocks_its_class) {
    send(0x41);
    send(0x53);
    ASSERT_TRUE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x53);
    EXPECT_EQ(cpu(0).get(ISR + 0x20), 1u << 0x13);
    EXPECT_EQ(cpu(0).get(PPR), 0x50u);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    send(0x5f); // the same class
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    send(0x60);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x60);
    cpu(0).put(EOI, 0);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    cpu(0).put(EOI, 0);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x5f);
    cpu(0).put(EOI, 0);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x41);
}

TEST_F(Apics, the_task_priority_holds_interrupts_back_and_cr8_is_its_upper_half) {
    cpu(0).put(TPR, 0x50);
    EXPECT_EQ(cpu(0).apic.task_priority(), 5u);
    send(0x55);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).get(IRR + 0x20), 1u << 0x15);
    cpu(0).apic.set_task_priority(4);
    EXPECT_EQ(cpu(0).get(TPR), 0x40u);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x55);
}

TEST_F(Apics, vectors_below_16_are_errors) {
    send(0x0f);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).get(ESR), 0u); // latched by a write
    cpu(0).put(ESR, 0);
    EXPECT_EQ(cpu(0).get(ESR), 0x40u);
    cpu(0).put(ICR_LOW, 0x00040005); // to itself
    cpu(0).put(ESR, 0);
    EXPECT_EQ(cpu(0).get(ESR), 0x20u);
    cpu(0).get(0x3f0);
    cpu(0).put(ESR, 0);
    EXPECT_EQ(cpu(0).get(ESR), 0x80u);
}

TEST_F(Apics, a_software_disabled_apic_takes_no_fixed_interrupts_and_masks_its_own) {
    cpu(1).put(LVT_TIMER, 0x20);
    cpu(1).put(SVR, 0xff);
    EXPECT_EQ(cpu(1).get(LVT_TIMER), 0x10020u);
    send(0x30, 1);
    cpu(1).enable();
    EXPECT_FALSE(cpu(1).vcpu.interrupt());
}

TEST_F(Apics, interprocessor_interrupts_by_id_shorthand_and_logical_destination) {
    cpu(0).put(ICR_HIGH, 0x02000000);
    cpu(0).put(ICR_LOW, 0x00004040);
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x40);
    cpu(0).put(ICR_LOW, 0x000c4041); // all but itself
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), -1);
    EXPECT_EQ(cpu(1).vcpu.take_interrupt(), 0x41);
    cpu(2).put(EOI, 0);
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x41);
    for (unsigned n = 0; n < 3; ++n) {
        cpu(n).put(EOI, 0);
        cpu(n).put(EOI, 0);
        cpu(n).put(LDR, 0x01000000u << n);
    }
    cpu(0).put(ICR_HIGH, 0x06000000);
    cpu(0).put(ICR_LOW, 0x00004842); // logical, flat: processors 1 and 2
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), -1);
    EXPECT_EQ(cpu(1).vcpu.take_interrupt(), 0x42);
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x42);
}

TEST_F(Apics, cluster_mode_matches_the_cluster_and_its_members) {
    cpu(0).put(DFR, 0x0fffffff);
    cpu(1).put(DFR, 0x0fffffff);
    cpu(0).put(LDR, 0x11000000);
    cpu(1).put(LDR, 0x21000000);
    EXPECT_TRUE(cpu(0).apic.matches(0x13, true));
    EXPECT_FALSE(cpu(1).apic.matches(0x13, true));
    EXPECT_TRUE(cpu(1).apic.matches(0xf1, true));
}

TEST_F(Apics, lowest_priority_goes_to_the_least_busy) {
    for (unsigned n = 0; n < 3; ++n)
        cpu(n).put(LDR, 0x01000000u << n);
    cpu(0).put(TPR, 0x80);
    cpu(2).put(TPR, 0x20);
    bus.deliver({.vector = 0x99,
                 .mode = DeliveryMode::lowest_priority,
                 .destination = 0x05,
                 .logical = true});
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x99);
}

TEST_F(Apics, init_and_startup_reach_the_vcpu_and_init_resets_the_apic) {
    cpu(1).put(TPR, 0x30);
    cpu(0).put(ICR_HIGH, 0x01000000);
    cpu(0).put(ICR_LOW, 0x0000c500); // INIT, level, assert
    EXPECT_EQ(cpu(1).vcpu.inits(), 1u);
    EXPECT_EQ(cpu(1).get(TPR), 0u);
    EXPECT_EQ(cpu(1).get(SVR), 0xffu);
    EXPECT_EQ(cpu(1).get(ID), 0x01000000u);
    cpu(0).put(ICR_LOW, 0x00008500); // de-assert: nothing
    EXPECT_EQ(cpu(1).vcpu.inits(), 1u);
    cpu(0).put(ICR_LOW, 0x0000469a);
    EXPECT_EQ(cpu(1).vcpu.startup_page(), 0x9a);
    cpu(0).put(ICR_LOW, 0x00004400);
    EXPECT_EQ(cpu(1).vcpu.nmis(), 1u);
}

TEST_F(Apics, the_one_shot_timer_counts_down_once) {
    cpu(0).put(TIMER_DIVIDE, 0xb); // by 1: a nanosecond
    cpu(0).put(LVT_TIMER, 0x50);
    cpu(0).put(TIMER_INITIAL, 1'000'000);
    bench.clock.advance(250'000);
    EXPECT_EQ(cpu(0).get(TIMER_CURRENT), 750'000u);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    bench.clock.advance(750'000);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x50);
    cpu(0).put(EOI, 0);
    EXPECT_EQ(cpu(0).get(TIMER_CURRENT), 0u);
    bench.clock.advance(10'000'000);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
}

TEST_F(Apics, the_periodic_timer_goes_on_and_a_zero_count_stops_it) {
    cpu(0).put(TIMER_DIVIDE, 0x3); // by 16
    cpu(0).put(LVT_TIMER, 0x20051);
    cpu(0).put(TIMER_INITIAL, 62'500); // a millisecond
    for (int i = 0; i < 5; ++i) {
        bench.clock.advance(1'000'000);
        EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x51) << i;
        cpu(0).put(EOI, 0);
    }
    bench.clock.advance(500'000);
    EXPECT_EQ(cpu(0).get(TIMER_CURRENT), 31'250u);
    cpu(0).put(TIMER_INITIAL, 0);
    bench.clock.advance(5'000'000);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
}

TEST_F(Apics, a_masked_timer_expires_in_silence) {
    cpu(0).put(TIMER_DIVIDE, 0xb);
    cpu(0).put(LVT_TIMER, 0x10050);
    cpu(0).put(TIMER_INITIAL, 1000);
    bench.clock.advance(2000);
    EXPECT_EQ(cpu(0).get(TIMER_CURRENT), 0u);
    cpu(0).put(LVT_TIMER, 0x50);
    bench.clock.advance(2000);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
}

TEST_F(Apics, lint0_brings_the_8259_pair_to_the_boot_processor) {
    bench.out8(0x20, 0x11);
    bench.out8(0x21, 0x08);
    bench.out8(0x21, 0x04);
    bench.out8(0x21, 0x01);
    cpu(0).put(LVT_LINT0, 0x700);
    pics.set_line(1, true);
    ASSERT_TRUE(cpu(0).vcpu.interrupt());
    EXPECT_FALSE(cpu(1).vcpu.interrupt());
    cpu(0).put(LVT_LINT0, 0x10700);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    cpu(0).put(LVT_LINT0, 0x700);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x09);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).get(PPR), 0u); // no business of the APIC's priorities
}

TEST_F(Apics, an_apic_that_is_switched_off_lets_intr_and_nmi_through) {
    u64 value = 0;
    ASSERT_TRUE(cpu(0).apic.read_msr(APIC_BASE, value));
    EXPECT_EQ(value, base | 0x900);
    cpu(0).put(LVT_LINT0, 0x10700);
    ASSERT_TRUE(cpu(0).apic.write_msr(APIC_BASE, base | 0x100));
    bus.intr_input().set(true);
    bus.nmi_input().set(true);
    EXPECT_TRUE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).vcpu.nmis(), 1u);
    EXPECT_EQ(cpu(0).get(VERSION), ~u32{0}); // its page is bus again
}

TEST_F(Apics, the_base_register_moves_the_page_and_refuses_reserved_bits) {
    EXPECT_FALSE(cpu(0).apic.write_msr(APIC_BASE, base | 0xc00)); // x2APIC
    EXPECT_FALSE(cpu(0).apic.write_msr(APIC_BASE, base | 0x801));
    EXPECT_FALSE(cpu(0).apic.write_msr(APIC_BASE, u64{1} << 45));
    ASSERT_TRUE(cpu(0).apic.write_msr(APIC_BASE, 0xd000'0000 | 0x800));
    EXPECT_EQ(cpu(0).vcpu.read(Space::memory, 0xd000'0030, 4), 0x00050014u);
    EXPECT_EQ(cpu(0).get(VERSION), ~u32{0});
    u64 value = 0;
    cpu(0).apic.read_msr(APIC_BASE, value);
    EXPECT_EQ(value, 0xd000'0900u); // which processor boots stays
    EXPECT_FALSE(cpu(0).apic.read_msr(0x802, value));
}

TEST_F(Apics, lint1_is_nmi_when_it_is_programmed_so) {
    bus.nmi_input().set(true);
    EXPECT_EQ(cpu(0).vcpu.nmis(), 0u);
    bus.nmi_input().set(false);
    cpu(0).put(LVT_LINT1, 0x400);
    bus.nmi_input().set(true);
    EXPECT_EQ(cpu(0).vcpu.nmis(), 1u);
}

TEST_F(Apics, a_message_signalled_interrupt_says_where_and_what) {
    bus.send({0xfee02000, 0x0066});
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x66);
    bus.send({0xfef02000, 0x0067}); // no such address
    bus.send({0xfee01000, 0x0400}); // NMI
    EXPECT_EQ(cpu(1).vcpu.nmis(), 1u);
    EXPECT_FALSE(cpu(2).vcpu.interrupt());
}

TEST_F(Apics, shutting_down_is_the_boards_business) {
    cpu(2).apic.cpu_shut_down();
    EXPECT_EQ(events.shut_down, 2);
}

TEST_F(Apics, odd_accesses_to_the_page_do_nothing) {
    cpu(0).vcpu.write(Space::memory, base + TPR, 1, 0x40);
    cpu(0).vcpu.write(Space::memory, base + TPR + 4, 4, 0x40);
    EXPECT_EQ(cpu(0).get(TPR), 0u);
    EXPECT_EQ(cpu(0).vcpu.read(Space::memory, base + VERSION + 2, 1), 0x05u);
    EXPECT_EQ(cpu(0).vcpu.read(Space::memory, base + VERSION + 4, 4), 0u);
}

// --------------------------------------------------------------------------------------- IO-APIC

TEST_F(Apics, the_io_apic_says_what_it_is) {
    bench.write32(IoApic::default_base, 1);
    EXPECT_EQ(bench.read32(IoApic::default_base + 0x10), 0x00170011u);
    bench.write32(IoApic::default_base, 0);
    bench.write32(IoApic::default_base + 0x10, 0xff000000);
    EXPECT_EQ(bench.read32(IoApic::default_base + 0x10), 0x0f000000u);
    EXPECT_EQ(redirection(0), 0x10000u);
}

TEST_F(Apics, an_edge_input_sends_once_an_edge) {
    redirect(4, 0x0100'0000'0000'0034);
    io_apic.set_line(4, true);
    EXPECT_EQ(cpu(1).vcpu.take_interrupt(), 0x34);
    cpu(1).put(EOI, 0);
    io_apic.set_line(4, true);
    EXPECT_FALSE(cpu(1).vcpu.interrupt());
    io_apic.set_line(4, false);
    io_apic.set_line(4, true);
    EXPECT_EQ(cpu(1).vcpu.take_interrupt(), 0x34);
}

TEST_F(Apics, an_edge_on_a_masked_input_is_lost_and_a_level_is_not) {
    redirect(4, 0x10034);
    redirect(10, 0x1803a); // level, masked
    io_apic.set_line(4, true);
    io_apic.set_line(10, true);
    redirect(4, 0x00034);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    redirect(10, 0x0803a);
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x3a);
}

TEST_F(Apics, a_level_waits_for_eoi_and_comes_again_while_it_is_high) {
    redirect(10, 0x0803a);
    io_apic.set_line(10, true);
    EXPECT_TRUE(redirection(10) & 0x4000); // remote IRR
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x3a);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    cpu(0).put(EOI, 0);
    ASSERT_TRUE(cpu(0).vcpu.interrupt());
    EXPECT_EQ(cpu(0).vcpu.take_interrupt(), 0x3a);
    io_apic.set_line(10, false);
    cpu(0).put(EOI, 0);
    EXPECT_FALSE(cpu(0).vcpu.interrupt());
    EXPECT_FALSE(redirection(10) & 0x4000);
}

TEST_F(Apics, an_extint_input_brings_the_8259_pairs_vector) {
    bench.out8(0x20, 0x11);
    bench.out8(0x21, 0x08);
    bench.out8(0x21, 0x04);
    bench.out8(0x21, 0x01);
    redirect(0, 0x0200'0000'0000'0700);
    pics.set_line(3, true);
    io_apic.set_line(0, true);
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), 0x0b);
    EXPECT_EQ(cpu(2).vcpu.take_interrupt(), -1);
}

} // namespace
} // namespace rhea::hw
