// SeaBIOS on T0 with next to no hardware: real mode, big real mode, protected mode, thunks between
// them and string I/O in the mix that real firmware makes. It must get to its boot prompt.

#include "tests/unit/x86_fixture.h"

#include <cstdio>
#include <string>

namespace rhea::dbt::x86 {
namespace {

constexpr const char *image = "/usr/share/seabios/bios-256k.bin";
constexpr u64 ram_size = 32 << 20, bios_size = 256 << 10;

// What SeaBIOS needs to see of a PC besides RAM: CMOS, a refresh toggle, the debug console.
class SmallestPc : StoreWatch {
public:
    SmallestPc() : ram_(ram_size), bios_(bios_size), state_(new Cpu{}), cache_(new InsnCache) {
        // No chip set will be found to shadow the ROM, so it lies in RAM from the start.
        map_ = mmu::PhysicalMap(
            {{0, 0xa0000, ram_.data(), true, flags_},
             {0xc0000, ram_size - 0xc0000, ram_.data() + 0xc0000, true, flags_ + 0xc0},
             {0x1'0000'0000 - bios_size, bios_size, bios_.data(), false, nullptr}});
        cmos_[0x0b] = 2;
        cmos_[0x0d] = 0x80;
        cmos_[0x35] = (ram_size - (16 << 20)) >> 24; // in units of 64 KiB
        EXPECT_EQ(set_cpu_model(*state_, "qemu64", {}), "");
        reset(*state_, false);
    }

    bool load() {
        std::FILE *file = std::fopen(image, "rb");
        if (file == nullptr)
            return false;
        const bool whole = std::fread(bios_.data(), 1, bios_size, file) == bios_size;
        std::fclose(file);
        std::copy(bios_.begin(), bios_.end(), ram_.begin() + 0xc0000);
        return whole;
    }

    // Until the CPU halts, shuts down or has used up its steps.
    void run(u64 steps) {
        Context context{*state_, &map_, this, cache_.get()};
        while (steps-- > 0 && !state_->halted) {
            if (step(context) != Step::exit)
                continue;
            shutdown = state_->exit.kind == ExitKind::shutdown;
            if (shutdown)
                return;
            serve(state_->exit);
            complete_exit(*state_);
        }
    }

    const Cpu &cpu() const { return *state_; }
    std::string log;
    bool shutdown = false;

private:
    void stored(u64, unsigned) noexcept override {}

    void serve(Exit &exit) {
        const bool write = exit.kind == ExitKind::port_write;
        if (write && exit.address == 0x402)
            log += char(exit.value);
        else if (write && exit.address == 0x70)
            cmos_index_ = exit.value & 127;
        else if (exit.kind == ExitKind::port_read || exit.kind == ExitKind::memory_read)
            exit.value = exit.kind == ExitKind::port_read ? read_port(u16(exit.address)) : ~u64{0};
    }
    u64 read_port(u16 port) {
        switch (port) {
        case 0x40:
        case 0x42: return timer_ -= 7;
        case 0x61: return refresh_ ^= 0x30;
        case 0x64: return 0;
        case 0x71: return cmos_[cmos_index_];
        case 0x402: return 0xe9;
        default: return ~u64{0};
        }
    }

    std::vector<u8> ram_, bios_;
    std::atomic<u8> flags_[ram_size / 4096]{};
    mmu::PhysicalMap map_;
    std::unique_ptr<Cpu> state_;
    std::unique_ptr<InsnCache> cache_;
    u8 cmos_[128]{}, cmos_index_ = 0, refresh_ = 0, timer_ = 0;
};

TEST(X86Interp, seabios_gets_to_its_boot_prompt) {
    const auto pc = std::make_unique<SmallestPc>();
    if (!pc->load())
        GTEST_SKIP() << "no " << image << " (package seabios)";
    pc->run(20'000'000);
    EXPECT_NE(pc->log.find("SeaBIOS (version"), std::string::npos);
    EXPECT_NE(pc->log.find("RamSize: 0x02000000 [cmos]"), std::string::npos) << pc->log;
    EXPECT_NE(pc->log.find("Press ESC for boot menu"), std::string::npos) << pc->log;
    EXPECT_FALSE(pc->shutdown);
    EXPECT_TRUE(pc->cpu().halted); // it waits for a key, with interrupts on
    EXPECT_NE(pc->cpu().rflags & flag::if_, 0u);
}

} // namespace
} // namespace rhea::dbt::x86
