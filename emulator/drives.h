#pragma once
// Drives: the images that -drive, -hda to -hdd and -cdrom name, open, and the IDE units that they
// go to. Made on the main thread with the loop that serves the images; outlives the machine.
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "block/node.h"
#include "emulator/options.h"
#include "hw/machine/pc.h"

namespace rhea::emulator {

class Drives {
public:
    explicit Drives(loop::Loop &loop) : loop_(loop) {}

    /// Opens the images, and plugs in the drives that no -device has to. Throws ConfigError.
    void add(const Options &options, hw::PcConfig &pc);
    /// -device ide-hd and ide-cd: `keys` as in ide_keys(). Throws ConfigError.
    void add_device(std::string_view keys, bool cdrom, hw::PcConfig &pc);
    static std::string ide_keys();

    /// What firmware boots from first, by bootindex=, as its file "bootorder"; empty: no wish.
    std::string boot_order() const;

private:
    struct Drive {
        std::string id, serial;
        bool cdrom = false, used = false;
        std::unique_ptr<block::Disk> disk; // none: no medium
    };
    struct BootIndex {
        u32 index;
        unsigned unit;
    };
    void add_one(const std::string &keys, bool snapshot, hw::PcConfig &pc);
    void plug(Drive &drive, unsigned unit, std::string serial, std::string model, hw::PcConfig &pc);

    loop::Loop &loop_;
    std::vector<std::unique_ptr<Drive>> drives_;
    std::vector<BootIndex> boot_;
};

} // namespace rhea::emulator
