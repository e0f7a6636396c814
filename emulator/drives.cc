#include "emulator/drives.h"

#include <algorithm>

#include "block/open.h"
#include "block/temporary_overlay.h"
#include "dm/config/typed.h"

namespace rhea::emulator {

namespace {

constexpr u32 not_given = ~0u;

struct DriveKeys {
    std::string file{}, format{}, interface { "ide" }, media{"disk"}, id{}, serial{};
    u32 index = not_given, bus = not_given, unit = not_given;
    bool readonly = false, snapshot = false;
    std::string cache{"writeback"}, aio{"io_uring"}, discard{"ignore"};
    static constexpr auto fields() {
        using S = DriveKeys;
        return describe<S>(Field<&S::file>{}, Field<&S::format>{}, Field<&S::interface>{},
                           Field<&S::media>{}, Field<&S::id>{}, Field<&S::serial>{},
                           Field<&S::index>{}, Field<&S::bus>{}, Field<&S::unit>{},
                           Field<&S::readonly>{}, Field<&S::snapshot>{}, Field<&S::cache>{},
                           Field<&S::aio>{}, Field<&S::discard>{});
    }
};

struct IdeKeys {
    std::string drive{}, bus{}, id{}, serial{}, model{};
    u32 unit = not_given, bootindex = not_given;
    static constexpr auto fields() {
        using S = IdeKeys;
        return describe<S>(
            Field<&S::drive>{.help = "its image: the id of a -drive with if=none"},
            Field<&S::bus>{.help = "ide.0 or ide.1, the channel (the next free one)"},
            Field<&S::id>{.help = "a name for the device"},
            Field<&S::serial>{.help = "the serial number that it tells"},
            Field<&S::model>{.help = "the model that it tells"},
            Field<&S::unit>{.help = "0 or 1 on its channel (the next free one)"},
            Field<&S::bootindex>{.help = "firmware boots from the lowest first"});
    }
};

/// `if` is no name that a member can have.
std::string with_interface(std::string_view keys) {
    std::string out;
    for (const config::KeyValue &item : config::split(keys)) {
        out += (out.empty() ? "" : ",") + (item.key == "if" ? "interface" : item.key) + '=';
        for (const char c : item.value)
            out.append(c == ',' ? 2 : 1, c);
    }
    return out;
}

block::FileOptions file_options(const DriveKeys &k, bool cdrom) {
    block::FileOptions f;
    f.read_only = k.readonly || k.snapshot || cdrom;
    f.direct = k.cache == "none" || k.cache == "directsync";
    f.no_flush = k.cache == "unsafe";
    f.write_through = k.cache == "writethrough" || k.cache == "directsync";
    if (!f.direct && !f.no_flush && !f.write_through && k.cache != "writeback")
        throw ConfigError("cache: '" + k.cache +
                          "' is none of none, writeback, writethrough, directsync and unsafe");
    if (k.discard != "ignore" && k.discard != "unmap" && k.discard != "on" && k.discard != "off")
        throw ConfigError("discard: '" + k.discard + "' is neither unmap nor ignore");
    f.unmap = k.discard == "unmap" || k.discard == "on";
    if (k.aio != "io_uring" && k.aio != "native" && k.aio != "threads")
        throw ConfigError("aio: '" + k.aio + "' is none of io_uring, native and threads");
    return f;
}

std::unique_ptr<block::Disk> open(loop::Loop &loop, const DriveKeys &k, bool cdrom) {
    const std::string format = k.format.empty() && cdrom ? "raw" : k.format;
    auto opened =
        block::open_image(loop, k.file, {.format = format, .file = file_options(k, cdrom)});
    if (!opened)
        throw ConfigError(to_string(opened.error()));
    std::unique_ptr<block::Node> node = std::move(*opened);
    if (k.snapshot && !cdrom && !k.readonly) {
        auto over = block::TemporaryOverlay::create(loop, std::move(node));
        if (!over)
            throw ConfigError("snapshot: " + to_string(over.error()));
        node = std::move(*over);
    }
    return std::make_unique<block::Disk>(loop, std::move(node));
}

std::string unit_name(unsigned unit) {
    return "IDE channel " + std::to_string(unit / 2) + ", unit " + std::to_string(unit % 2);
}

unsigned free_unit(const hw::PcConfig &pc, unsigned first, unsigned last) {
    for (unsigned n = first; n <= last; ++n)
        if (!pc.ide[n].present)
            return n;
    throw ConfigError("there is no free IDE unit; there are four, on ide.0 and ide.1");
}

} // namespace

void Drives::plug(Drive &drive, unsigned unit, std::string serial, std::string model,
                  hw::PcConfig &pc) {
    if (pc.ide[unit].present)
        throw ConfigError(unit_name(unit) + " is taken already");
    if (serial.empty())
        serial = drive.serial.empty() ? "RH0000" + std::to_string(unit + 1) : drive.serial;
    if (serial.size() > 20)
        throw ConfigError("serial: at most 20 characters are possible");
    if (model.empty())
        model = drive.cdrom ? "RHEA DVD-ROM" : "RHEA HARDDISK";
    if (model.size() > 40)
        throw ConfigError("model: at most 40 characters are possible");
    if (!drive.cdrom && drive.disk->length() == 0)
        throw ConfigError("the image is empty; a disk has at least one sector");
    drive.used = true;
    pc.ide[unit] = {.disk = drive.disk.get(),
                    .present = true,
                    .cdrom = drive.cdrom,
                    .serial = std::move(serial),
                    .model = std::move(model)};
}

void Drives::add_one(const std::string &text, bool snapshot, hw::PcConfig &pc) {
    auto k = config::parse_options<DriveKeys>(with_interface(text));
    k.snapshot = k.snapshot || snapshot;
    if (k.media != "disk" && k.media != "cdrom")
        throw ConfigError("media: '" + k.media + "' is neither disk nor cdrom");
    if (k.interface != "ide" && k.interface != "none")
        throw ConfigError("if: '" + k.interface + "' is not there; ide and none are");
    const bool cdrom = k.media == "cdrom";
    if (k.file.empty() && !cdrom)
        throw ConfigError("file= is missing: the image");
    if (!k.id.empty() && std::ranges::any_of(drives_, [&](const auto &d) { return d->id == k.id; }))
        throw ConfigError("id: there is a drive '" + k.id + "' already");
    auto drive = std::make_unique<Drive>(
        Drive{.id = k.id, .serial = k.serial, .cdrom = cdrom, .used = false, .disk = nullptr});
    if (!k.file.empty())
        drive->disk = open(loop_, k, cdrom);
    Drive &made = *drive;
    drives_.push_back(std::move(drive));
    if (k.interface == "none")
        return;
    u32 unit = k.index;
    if (unit == not_given && (k.bus != not_given || k.unit != not_given))
        unit = (k.bus == not_given ? 0 : std::min(k.bus, 2u)) * 2 +
               (k.unit == not_given ? 0 : std::min(k.unit, 4u));
    if (unit == not_given)
        unit = free_unit(pc, 0, 3);
    if (unit > 3)
        throw ConfigError("there are four IDE units, 0 to 3");
    plug(made, unit, {}, {}, pc);
}

void Drives::add(const Options &options, hw::PcConfig &pc) {
    for (const auto &[option, keys] : options.drives)
        try {
            add_one(keys, options.snapshot, pc);
        } catch (const ConfigError &e) {
            throw ConfigError(option + ": " + e.what());
        }
}

void Drives::add_device(std::string_view keys, bool cdrom, hw::PcConfig &pc) {
    const auto k = config::parse_options<IdeKeys>(keys);
    unsigned first = 0, last = 3;
    if (!k.bus.empty()) {
        if (k.bus != "ide.0" && k.bus != "ide.1")
            throw ConfigError("bus: '" + k.bus + "' is not there; ide.0 and ide.1 are");
        first = k.bus == "ide.0" ? 0 : 2;
        last = first + 1;
    }
    if (k.unit != not_given) {
        if (k.unit > 1)
            throw ConfigError("unit: 0 and 1 are possible");
        first = last = first + k.unit;
    }
    Drive *drive = nullptr;
    if (k.drive.empty()) {
        if (!cdrom)
            throw ConfigError("drive= is missing: the id of a -drive with if=none");
        drives_.push_back(std::make_unique<Drive>());
        drive = drives_.back().get();
    } else {
        const auto i =
            std::ranges::find_if(drives_, [&](const auto &d) { return d->id == k.drive; });
        if (i == drives_.end())
            throw ConfigError("drive: there is no -drive with id=" + k.drive);
        drive = i->get();
        if (drive->used)
            throw ConfigError("drive: '" + k.drive + "' is in use already");
    }
    if (!cdrom && drive->disk && drive->disk->read_only())
        throw ConfigError("drive: '" + k.drive + "' is read-only, which an IDE disk cannot be");
    drive->cdrom = cdrom;
    if (!cdrom && !drive->disk)
        throw ConfigError("drive: '" + k.drive + "' has no image");
    const unsigned unit = first == last ? first : free_unit(pc, first, last);
    plug(*drive, unit, k.serial, k.model, pc);
    if (k.bootindex != not_given)
        boot_.push_back({k.bootindex, unit});
}

std::string Drives::ide_keys() {
    return config::options_help<IdeKeys>();
}

std::string Drives::boot_order() const {
    auto sorted = boot_;
    std::ranges::stable_sort(sorted, {}, &BootIndex::index);
    std::string out;
    for (const BootIndex &b : sorted)
        out += (out.empty() ? "" : "\n") + std::string("/pci@i0cf8/ide@1,1/drive@") +
               std::to_string(b.unit / 2) + "/disk@" + std::to_string(b.unit % 2);
    return out;
}

} // namespace rhea::emulator
