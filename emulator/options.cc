#include "emulator/options.h"

#include <array>

#include "dm/config/key_value.h"
#include "dm/config/typed.h"

namespace rhea::emulator {

namespace {

using Text = std::string_view;

bool asks_for_help(Text a) {
    return a == "help" || a == "?";
}

void set_memory(Options &o, Text a) {
    struct Memory {
        config::MemorySize size{};
        static constexpr auto fields() { return describe<Memory>(Field<&Memory::size>{}); }
    };
    const auto m = config::parse_options<Memory>(a, "size");
    if (m.size.bytes == 0)
        throw ConfigError("a guest without memory cannot run; 512M is a usual size");
    if (m.size.bytes % 4096)
        throw ConfigError("memory comes in pages of 4 KiB, " + std::to_string(m.size.bytes) +
                          " bytes are no whole number of them");
    o.memory = m.size.bytes;
}

void set_cpus(Options &o, Text a) {
    struct Smp {
        u32 cpus = 0, sockets = 1, dies = 1, cores = 1, threads = 1, maxcpus = 0;
        static constexpr auto fields() {
            return describe<Smp>(Field<&Smp::cpus>{}, Field<&Smp::sockets>{}, Field<&Smp::dies>{},
                                 Field<&Smp::cores>{}, Field<&Smp::threads>{},
                                 Field<&Smp::maxcpus>{});
        }
    };
    const auto s = config::parse_options<Smp>(a, "cpus");
    const u64 places = u64{s.sockets} * s.dies * s.cores * s.threads;
    const u64 n = s.cpus ? s.cpus : places;
    if (n != 1 || (s.maxcpus && s.maxcpus != 1) || (places != 1 && places != n))
        throw ConfigError("one CPU is what this version can do; use -smp 1");
    o.cpus = 1;
}

void set_accel_name(Options &o, Text name) {
    // A list is tried from the left, as people write it: kvm:tcg.
    static constexpr std::array<Text, 3> known{"dbt", "tcg", "kvm"};
    std::vector<std::string> engines;
    for (Text rest = name; !rest.empty();) {
        const Text one = rest.substr(0, rest.find(':'));
        rest.remove_prefix(std::min(rest.size(), one.size() + 1));
        if (one == "dbt" || one == "tcg")
            engines.emplace_back("dbt");
        else if (one == "kvm")
            engines.emplace_back("kvm");
        else if (one != "xen")
            throw ConfigError("unknown engine '" + std::string(one) + "'" +
                              config::did_you_mean(one, known) +
                              " (there are: dbt, the translator, and kvm)");
    }
    if (engines.empty())
        throw ConfigError("the engine '" + std::string(name) +
                          "' is not part of this program; use dbt, the translator, or kvm");
    o.engines = std::move(engines);
}

void set_accel(Options &o, Text a) {
    struct Accel {
        std::string accel{"dbt"};
        std::string thread{};
        bool interpret = false;
        config::MemorySize cache{};
        static constexpr auto fields() {
            return describe<Accel>(Field<&Accel::accel>{}, Field<&Accel::thread>{},
                                   Field<&Accel::interpret>{}, Field<&Accel::cache>{});
        }
    };
    if (asks_for_help(a)) {
        o.question = Question::accels;
        return;
    }
    const auto c = config::parse_options<Accel>(a, "accel");
    set_accel_name(o, c.accel);
    if (!c.thread.empty() && c.thread != "single" && c.thread != "multi")
        throw ConfigError("thread: '" + c.thread + "' is neither single nor multi");
    o.interpret = c.interpret;
    if (c.cache.bytes && (c.cache.bytes < u64{1} << 20 || c.cache.bytes > u64{2} << 30))
        throw ConfigError("cache: from 1M to 2G are possible");
    o.code_cache = c.cache.bytes;
}

void set_machine(Options &o, Text a) {
    struct Machine {
        std::string type{"pc"};
        std::string accel{};
        static constexpr auto fields() {
            return describe<Machine>(Field<&Machine::type>{}, Field<&Machine::accel>{});
        }
    };
    if (asks_for_help(a)) {
        o.question = Question::machines;
        return;
    }
    const auto m = config::parse_options<Machine>(a, "type");
    if (m.type != "pc")
        throw ConfigError("unknown machine '" + m.type + "' (there is: pc)");
    if (!m.accel.empty())
        set_accel_name(o, m.accel);
}

void set_cpu(Options &o, Text a) {
    if (asks_for_help(a))
        o.question = Question::cpus;
    else
        o.cpu = a;
}

void set_boot(Options &o, Text a) {
    struct Boot {
        std::string order{"cad"}, once{};
        bool menu = false;
        static constexpr auto fields() {
            return describe<Boot>(Field<&Boot::order>{}, Field<&Boot::once>{},
                                  Field<&Boot::menu>{});
        }
    };
    const auto b = config::parse_options<Boot>(a, "order");
    for (const std::string &order : {b.order, b.once})
        if (order.find_first_not_of("acdn") != std::string::npos)
            throw ConfigError("'" + order +
                              "' is no order of a (floppy), c (disk), d (CD-ROM) and n (network)");
    o.boot_order = b.order;
    o.boot_once = b.once;
    o.boot_menu = b.menu;
}

void add_device(Options &o, Text a) {
    const Text type = a.substr(0, a.find(','));
    if (asks_for_help(type)) {
        o.question = Question::devices;
    } else if (a.size() > type.size() && asks_for_help(a.substr(type.size() + 1))) {
        o.question = Question::device;
        o.subject = type;
    } else {
        o.devices.emplace_back(a);
    }
}

/// -hda FILE and its like are -drive with these keys.
template <unsigned Index, bool Cdrom = false> void add_disk(Options &o, Text a) {
    std::string file;
    for (const char c : a)
        file.append(c == ',' ? 2 : 1, c);
    const std::string name = Cdrom ? "-cdrom" : std::string("-hd") + char('a' + Index);
    o.drives.emplace_back(name + ' ' + std::string(a), "file=" + file +
                                                           ",index=" + std::to_string(Index) +
                                                           ",media=" + (Cdrom ? "cdrom" : "disk"));
}

void add_fw_cfg(Options &o, Text a) {
    struct Item {
        std::string name{}, file{}, string{};
        static constexpr auto fields() {
            return describe<Item>(Field<&Item::name>{}, Field<&Item::file>{},
                                  Field<&Item::string>{});
        }
    };
    const auto i = config::parse_options<Item>(a, "name");
    if (i.name.empty() || i.file.empty() == i.string.empty())
        throw ConfigError("name= and one of file= and string= are needed");
    if (i.name.size() > 55)
        throw ConfigError("name: at most 55 bytes are possible");
    (i.file.empty() ? o.fw_cfg_strings : o.fw_cfg_files)
        .emplace_back(i.name, i.file.empty() ? i.string : i.file);
}

void add_mon(Options &o, Text a) {
    struct Mon {
        std::string chardev{};
        std::string mode{"readline"};
        std::string id{};
        bool pretty = false;
        static constexpr auto fields() {
            return describe<Mon>(Field<&Mon::chardev>{}, Field<&Mon::mode>{}, Field<&Mon::id>{},
                                 Field<&Mon::pretty>{});
        }
    };
    const auto m = config::parse_options<Mon>(a, "chardev");
    if (m.chardev.empty())
        throw ConfigError("chardev= is missing: the id of a -chardev");
    if (m.mode != "readline" && m.mode != "control")
        throw ConfigError("mode: '" + m.mode + "' is neither readline nor control");
    if (m.pretty)
        throw ConfigError("pretty: answers are one line each; leave it out");
    o.monitors.push_back({"-mon " + std::string(a), "chardev:" + m.chardev, m.mode == "control"});
}

void add_monitor(Options &o, Text a) {
    if (a == "none")
        o.no_monitor = true;
    else
        o.monitors.push_back({"-monitor " + std::string(a), std::string(a), false});
}

void add_trace(Options &o, Text a) {
    if (asks_for_help(a)) {
        o.question = Question::traces;
        return;
    }
    o.trace_patterns.emplace_back(a.starts_with("enable=") ? a.substr(7) : a);
}

void set_vga(Options &o, Text a) {
    static constexpr std::array<Text, 2> known{"std", "none"};
    if (a != "std" && a != "none")
        throw ConfigError("unknown display adapter '" + std::string(a) + "'" +
                          config::did_you_mean(a, known) + " (there are: std, none)");
    o.vga = a;
}

/// For what can only be switched off yet: -vga none and its like.
void only_none(Text a, const char *what) {
    if (a != "none")
        throw ConfigError(std::string(what) + " is not there yet; use none");
}

constexpr Text machine = "Machine", boot = "What is booted",
               characters = "Serial ports and terminal", disks = "Disks", devices = "Devices",
               running = "While it runs", information = "Information";

constexpr config::Option<Options> table[] = {
    {{"m", "", "[size=]SIZE",
      "Guest memory; K, M, G and T count in powers of 1024, a bare number in MiB. Default: 128M.",
      machine},
     set_memory},
    {{"machine", "M", "TYPE[,accel=NAME]", "The machine. There is pc (i440FX and PIIX3).", machine},
     set_machine},
    {{"accel", "", "ENGINE[:ENGINE]...[,interpret=on][,cache=SIZE]",
      "What runs the guest's code; of several, the first that can be used. dbt is the translator "
      "(default; tcg is taken for the same): interpret=on does without translating, to see which "
      "of the two is wrong; cache limits the memory for translated code. kvm is the host's "
      "/dev/kvm, with the CPU models qemu64 and host; a KVM on PVM, which runs firmware but no "
      "whole kernel, is used only where it stands alone. -accel help lists them.",
      machine},
     set_accel},
    {{"enable-kvm", "", "", "The same as -accel kvm.", machine},
     [](Options &o, Text) { set_accel_name(o, "kvm"); }},
    {{"cpu", "", "MODEL[,+FEATURE|-FEATURE]...",
      "The CPU and changes to its features. Default: qemu64.", machine},
     set_cpu},
    {{"smp", "", "[cpus=]N", "The number of CPUs. One is possible in this version.", machine},
     set_cpus},
    {{"name", "", "NAME", "What this guest is called, in the list of processes.", machine},
     [](Options &o, Text a) { o.name = a.substr(0, a.find(',')); }},

    {{"kernel", "", "FILE", "Boot this Linux kernel (a bzImage) directly.", boot},
     [](Options &o, Text a) { o.kernel = a; }},
    {{"initrd", "", "FILE", "The initial RAM disk for -kernel.", boot},
     [](Options &o, Text a) { o.initrd = a; }},
    {{"append", "", "TEXT", "The command line for -kernel.", boot},
     [](Options &o, Text a) {
         o.append = a;
         o.append_given = true;
     }},
    {{"bios", "", "FILE", "The firmware. Default: bios-256k.bin (SeaBIOS).", boot},
     [](Options &o, Text a) { o.bios = a; }},
    {{"L", "", "FOLDER", "Look for firmware here first.", boot},
     [](Options &o, Text a) { o.data_folder = a; }},
    {{"boot", "", "[order=]ORDER[,once=ORDER][,menu=on|off]",
      "In which order firmware tries a (floppy), c (disk), d (CD-ROM) and n (network); once= is "
      "for "
      "the first boot alone.",
      boot},
     set_boot},
    {{"fw_cfg", "", "[name=]NAME,file=FILE|string=TEXT",
      "A file that firmware and guest find in fw_cfg.", boot},
     add_fw_cfg},

    {{"nographic", "", "",
      "No display: the first serial port is on the terminal, with the escape keys (Ctrl-A h lists "
      "them).",
      characters},
     [](Options &o, Text) { o.nographic = true; }},
    {{"serial", "", "BACKEND",
      "The next serial port: stdio, mon:stdio (stdio with the escape keys), null, none, pty, "
      "file:FILE, pipe:FILE, "
      "tcp:HOST:PORT[,server], unix:FILE[,server] or chardev:ID.",
      characters},
     [](Options &o, Text a) { o.serials.emplace_back(a); }},
    {{"chardev", "", "KIND,id=ID[,...]",
      "A character back end for a device: stdio[,mux=on][,signal=off], null, "
      "file,path=FILE[,append=on], pipe,path=FILE, "
      "pty, socket,path=FILE or socket,host=HOST,port=PORT [,server=on].",
      characters},
     [](Options &o, Text a) { o.chardevs.emplace_back(a); }},
    {{"debugcon", "", "BACKEND", "A debug console at port 0xe9; back ends as for -serial.",
      characters},
     [](Options &o, Text a) { o.debugcons.emplace_back(a); }},

    {{"hda", "", "FILE", "An IDE disk, channel 0 unit 0, with this raw image.", disks},
     add_disk<0>},
    {{"hdb", "", "FILE", "The same, channel 0 unit 1.", disks}, add_disk<1>},
    {{"hdc", "", "FILE", "The same, channel 1 unit 0.", disks}, add_disk<2>},
    {{"hdd", "", "FILE", "The same, channel 1 unit 1.", disks}, add_disk<3>},
    {{"cdrom", "", "FILE", "A CD-ROM drive, IDE channel 1 unit 0, with this image.", disks},
     add_disk<2, true>},
    {{"drive", "",
      "file=FILE[,format=raw|qcow2][,if=ide|none][,index=N][,media=disk|cdrom][,readonly=on]"
      "[,snapshot=on][,id=ID][,cache=MODE][,discard=unmap]",
      "An image, and with if=ide (the default) the IDE drive for it, N being twice the channel "
      "plus "
      "the unit; with if=none it waits for a -device. snapshot=on: what the guest writes is lost "
      "at "
      "the end.",
      disks},
     [](Options &o, Text a) { o.drives.emplace_back("-drive " + std::string(a), a); }},
    {{"snapshot", "", "", "snapshot=on for every drive.", disks},
     [](Options &o, Text) { o.snapshot = true; }},

    {{"device", "", "TYPE[,KEY=VALUE]...",
      "Add a device. -device help lists the types, -device TYPE,help the keys.", devices},
     add_device},
    {{"nodefaults", "", "",
      "Only the devices that are asked for: no serial port and no display adapter of itself.",
      devices},
     [](Options &o, Text) { o.defaults = false; }},
    {{"display", "", "none", "No window: the screen is seen through screendump.", devices},
     [](Options &o, Text a) {
         only_none(a, "a display");
         o.display_none = true;
     }},
    {{"vga", "", "std|none",
      "The display adapter: std, a VGA with Bochs extensions (the default), or none.", devices},
     set_vga},
    {{"net", "", "none", "The network; there is none yet.", devices},
     [](Options &, Text a) { only_none(a, "a network"); }},
    {{"nic", "", "none", "The network; there is none yet.", devices},
     [](Options &, Text a) { only_none(a, "a network"); }},

    {{"qmp", "", "BACKEND",
      "A control connection for programs: JSON commands, answers and events (query-commands lists "
      "them). "
      "unix:FILE[,server=on][,wait=off], tcp:HOST:PORT[,server=on][,wait=off], stdio, or as for "
      "-serial; a server with wait=off takes several clients.",
      running},
     [](Options &o, Text a) {
         if (a != "none")
             o.monitors.push_back({"-qmp " + std::string(a), std::string(a), true});
     }},
    {{"monitor", "", "BACKEND",
      "A prompt for people ('help' lists its commands): back ends as for -qmp, or none. With "
      "-nographic it is behind Ctrl-A c.",
      running},
     add_monitor},
    {{"mon", "", "[chardev=]ID[,mode=readline|control]",
      "The same on a -chardev: readline is the prompt, control is for programs.", running},
     add_mon},
    {{"S", "", "", "Do not start the guest: the monitor's cont does.", running},
     [](Options &o, Text) { o.start_paused = true; }},
    {{"no-reboot", "", "", "End when the guest resets, with status 0.", running},
     [](Options &o, Text) { o.no_reboot = true; }},
    {{"no-shutdown", "", "", "Stay, paused, when the guest switches itself off.", running},
     [](Options &o, Text) { o.no_shutdown = true; }},
    {{"trace", "", "[enable=]PATTERN",
      "Print the trace points whose name matches; -trace help lists them.", running},
     add_trace},

    {{"help", "h", "", "This text.", information},
     [](Options &o, Text) { o.question = Question::help; }},
    {{"version", "", "", "The version.", information},
     [](Options &o, Text) { o.question = Question::version; }},
    {{"help-man", "", "", "The options as source of a manual page.", information},
     [](Options &o, Text) { o.question = Question::manual; }},
};

} // namespace

std::vector<config::OptionText> option_texts() {
    return config::texts<Options>(table);
}

Options parse(std::span<const std::string_view> words) {
    Options o;
    config::parse_command_line<Options>(table, words, o);
    if (o.question != Question::none)
        return o;
    if (o.kernel.empty() && !o.initrd.empty())
        throw ConfigError("-initrd " + o.initrd + ": it goes with a kernel; give -kernel too");
    if (o.kernel.empty() && o.append_given)
        throw ConfigError("-append: it goes with a kernel; give -kernel too");
    if (!o.kernel.empty() && !o.bios.empty())
        throw ConfigError(
            "-bios " + o.bios +
            ": a -kernel is started directly, without firmware; leave one of them out");
    return o;
}

} // namespace rhea::emulator
