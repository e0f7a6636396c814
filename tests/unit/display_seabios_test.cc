// SeaBIOS and its VGA BIOS on the whole machine: what is on the screen in the end, as characters
// and as pixels.
#include "accel/dbt/adapter.h"
#include "dm/time/clock.h"
#include "dm/ui/console.h"
#include "dm/ui/image.h"
#include "hw/firmware/file.h"
#include "hw/machine/pc.h"

#include <chrono>
#include <gtest/gtest.h>
#include <thread>
#include <unistd.h>

namespace rhea::hw {
namespace {

constexpr const char *bios = "/usr/share/seabios/bios-256k.bin";
constexpr const char *vga_bios = "/usr/share/seabios/vgabios-stdvga.bin";

struct Nobody final : MachineEvents {
    void reset_requested() noexcept override {}
    void power_off_requested() noexcept override {}
    void exit_requested(u8) noexcept override {}
    void processor_shut_down(unsigned) noexcept override {}
};

std::vector<u8> whole_file(const char *path) {
    const File file(path);
    std::vector<u8> bytes(file.size());
    file.read(0, bytes);
    return bytes;
}

std::string joined(const std::vector<std::string> &lines) {
    std::string all;
    for (const std::string &line : lines)
        all += line + '\n';
    return all;
}

TEST(DisplaySeabios, text_screen_says_that_nothing_can_be_booted) {
    if (::access(bios, R_OK) != 0 || ::access(vga_bios, R_OK) != 0)
        GTEST_SKIP() << "no " << bios << " and " << vga_bios << " (package seabios)";
    AddressMap map;
    HostClock clock;
    Nobody events;
    const auto engine = dbt::make_dbt(map, {});
    PcConfig config;
    config.ram_size = u64{64} << 20;
    config.firmware = whole_file(bios);
    config.vga.emplace();
    config.vga->rom = whole_file(vga_bios);
    Pc machine(
        config,
        {.map = map, .clock = clock, .host_clock = &clock, .engine = *engine, .events = events});
    ASSERT_NE(machine.display(), nullptr);
    ui::Surface followed;
    machine.display()->update(followed);

    machine.run();
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    std::string screen;
    while (screen.find("No bootable device") == std::string::npos &&
           std::chrono::steady_clock::now() < end) {
        clock.run_due();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        screen = joined(machine.display()->text());
    }
    machine.display()->update(followed);
    machine.pause();

    EXPECT_EQ(screen.rfind("SeaBIOS (version ", 0), 0u) << screen;
    EXPECT_NE(screen.find("Booting from Hard Disk...\n"), std::string::npos) << screen;
    EXPECT_NE(screen.find("No bootable device."), std::string::npos) << screen;
    machine.display()->update(followed); // the guest stands still now
    const ui::Surface picture = machine.display()->snapshot();
    EXPECT_EQ(picture.width, 720u);
    EXPECT_EQ(picture.height, 400u);
    EXPECT_EQ(followed, picture);
    if (const char *path = std::getenv("RHEA_TEST_SCREEN")) { // to look at
        EXPECT_TRUE(ui::write_ppm(picture, path + std::string(".ppm")));
        EXPECT_TRUE(ui::write_png(picture, path + std::string(".png")));
    }
}

} // namespace
} // namespace rhea::hw
