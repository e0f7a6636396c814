#include "emulator/devices.h"

#include <algorithm>
#include <array>

#include "dm/config/typed.h"

namespace rhea::emulator {

namespace {

struct DebugconKeys {
    u16 iobase = 0xe9;
    std::string chardev{};
    std::string id{};
    static constexpr auto fields() {
        using S = DebugconKeys;
        return describe<S>(Field<&S::iobase>{.help = "the port (0xe9)"},
                           Field<&S::chardev>{.help = "where the bytes go: the id of a -chardev"},
                           Field<&S::id>{.help = "a name for the device"});
    }
};

struct DebugExitKeys {
    u16 iobase = 0x501;
    u16 iosize = 2;
    std::string id{};
    static constexpr auto fields() {
        using S = DebugExitKeys;
        return describe<S>(Field<&S::iobase>{.help = "the first port (0x501)"},
                           Field<&S::iosize>{.help = "how many ports (2)"},
                           Field<&S::id>{.help = "a name for the device"});
    }
};

struct SerialKeys {
    u32 index = ~0u;
    std::string chardev{};
    std::string id{};
    static constexpr auto fields() {
        using S = SerialKeys;
        return describe<S>(Field<&S::index>{.help = "0 to 3: COM1 to COM4 (the next free one)"},
                           Field<&S::chardev>{.help = "its other side: the id of a -chardev"},
                           Field<&S::id>{.help = "a name for the device"});
    }
};

chardev::CharBackend &back_end(chardev::CharBackends &backends, const std::string &id) {
    if (id.empty())
        throw ConfigError("chardev= is missing: the id of a -chardev");
    return backends.take(id);
}

void add_serial(hw::PcConfig &pc, u32 index, chardev::CharBackend *backend) {
    if (index == ~0u)
        index = u32(std::ranges::find(pc.serial, nullptr) - pc.serial.begin());
    if (index >= pc.serial.size())
        throw ConfigError("there are four serial ports, 0 to 3");
    if (pc.serial[index])
        throw ConfigError("serial port " + std::to_string(index) + " is there already");
    pc.serial[index] = backend;
}

struct VgaKeys {
    u32 vgamem_mb = 16;
    u32 xres = 1280, yres = 800;
    std::string id{};
    static constexpr auto fields() {
        using S = VgaKeys;
        return describe<S>(Field<&S::vgamem_mb>{.help = "video memory in MiB (16)"},
                           Field<&S::xres>{.help = "the width that the monitor prefers (1280)"},
                           Field<&S::yres>{.help = "and the height (800)"},
                           Field<&S::id>{.help = "a name for the device"});
    }
};

struct Type {
    std::string_view name, help;
    std::string (*keys)();
    void (*add)(std::string_view keys, chardev::CharBackends &backends, Drives &drives,
                hw::PcConfig &pc);
};

constexpr std::array<Type, 6> types{{
    {"VGA", "standard VGA with Bochs extensions", config::options_help<VgaKeys>,
     [](std::string_view text, chardev::CharBackends &, Drives &, hw::PcConfig &pc) {
         const auto k = config::parse_options<VgaKeys>(text);
         if (pc.vga)
             throw ConfigError("there is a display adapter already (-vga none leaves out the "
                               "machine's own)");
         pc.vga = hw::PcConfig::Vga{u64{k.vgamem_mb} << 20, k.xres, k.yres, {}};
     }},
    {"ide-cd", "a CD-ROM drive on the IDE controller", Drives::ide_keys,
     [](std::string_view text, chardev::CharBackends &, Drives &drives, hw::PcConfig &pc) {
         drives.add_device(text, true, pc);
     }},
    {"ide-hd", "a disk on the IDE controller", Drives::ide_keys,
     [](std::string_view text, chardev::CharBackends &, Drives &drives, hw::PcConfig &pc) {
         drives.add_device(text, false, pc);
     }},
    {"isa-debug-exit", "a port that ends the program with status 2 * value + 1",
     config::options_help<DebugExitKeys>,
     [](std::string_view text, chardev::CharBackends &, Drives &, hw::PcConfig &pc) {
         const auto k = config::parse_options<DebugExitKeys>(text);
         if (k.iosize < 1 || k.iosize > 8)
             throw ConfigError("iosize: 1 to 8 ports are possible");
         if (k.iobase + k.iosize > 0x10000)
             throw ConfigError("iobase: the ports end at 0xffff");
         if (pc.debug_exit)
             throw ConfigError("there is one already");
         pc.debug_exit = hw::PcConfig::Port{k.iobase, k.iosize, nullptr};
     }},
    {"isa-debugcon", "a port whose bytes go to a character back end",
     config::options_help<DebugconKeys>,
     [](std::string_view text, chardev::CharBackends &backends, Drives &, hw::PcConfig &pc) {
         const auto k = config::parse_options<DebugconKeys>(text);
         pc.debug_consoles.push_back({k.iobase, 1, &back_end(backends, k.chardev)});
     }},
    {"isa-serial", "a serial port, 16550A", config::options_help<SerialKeys>,
     [](std::string_view text, chardev::CharBackends &backends, Drives &, hw::PcConfig &pc) {
         const auto k = config::parse_options<SerialKeys>(text);
         add_serial(pc, k.index, &back_end(backends, k.chardev));
     }},
}};

const Type &find(std::string_view name) {
    const auto i = std::ranges::find(types, name, &Type::name);
    if (i != types.end())
        return *i;
    std::vector<std::string_view> names;
    for (const Type &t : types)
        names.push_back(t.name);
    const std::string hint = config::did_you_mean(name, names);
    throw ConfigError("unknown device '" + std::string(name) + "'" +
                      (hint.empty() ? " (there are: " + config::join(names) + ")" : hint));
}

/// What `fn` throws is about `option argument`.
template <class Fn> void about(const char *option, const std::string &argument, Fn &&fn) {
    try {
        fn();
    } catch (const ConfigError &e) {
        throw ConfigError(std::string(option) + ' ' + argument + ": " + e.what());
    }
}

} // namespace

void add_devices(const Options &o, chardev::CharBackends &backends, Drives &drives,
                 hw::PcConfig &pc) {
    drives.add(o, pc);
    for (const std::string &c : o.chardevs)
        about("-chardev", c, [&] { backends.add(c); });
    usize port = 0;
    for (const std::string &s : o.serials)
        about("-serial", s, [&] {
            if (port >= pc.serial.size())
                throw ConfigError("there are four serial ports");
            pc.serial[port] = backends.open(s, "serial" + std::to_string(port));
            ++port;
        });
    // An adapter by -device takes the place of the machine's own.
    const bool other_vga = std::ranges::any_of(
        o.devices, [](const std::string &d) { return d.substr(0, d.find(',')) == "VGA"; });
    if (o.vga == "std" || (o.vga.empty() && o.defaults && !other_vga))
        pc.vga.emplace();
    for (const std::string &d : o.devices)
        about("-device", d, [&] {
            const usize comma = d.find(',');
            const Type &type = find(std::string_view(d).substr(0, comma));
            type.add(comma == std::string::npos ? "" : std::string_view(d).substr(comma + 1),
                     backends, drives, pc);
        });
    for (const std::string &c : o.debugcons)
        about("-debugcon", c, [&] {
            if (auto *backend = backends.open(c, "debugcon"))
                pc.debug_consoles.push_back({0xe9, 1, backend});
        });
    // One serial port is there of itself, on the terminal with -nographic.
    if (o.defaults && o.serials.empty() && !pc.serial[0])
        about("-nographic", "",
              [&] { pc.serial[0] = backends.open(o.nographic ? "mon:stdio" : "null", "serial0"); });
}

std::string device_list() {
    std::string out;
    for (const Type &t : types) {
        out += std::string(t.name);
        out.append(18 - t.name.size(), ' ');
        out += std::string(t.help) + '\n';
    }
    return out;
}

std::string device_keys(std::string_view type) {
    return std::string(type) + " keys:\n" + find(type).keys();
}

} // namespace rhea::emulator
