#include "emulator/session.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>
#include <ctime>
#include <unistd.h>

#include "dm/config/key_value.h"
#include "dm/core/log.h"
#include "emulator/devices.h"
#include "emulator/engine.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/firmware/file.h"

namespace rhea::emulator {

namespace {

std::vector<u8> whole_file(const std::string &path) {
    const hw::File f(path);
    if (f.size() > u64{64} << 20)
        throw ConfigError("has " + config::size_text(f.size()) + ", more than 64 MiB");
    std::vector<u8> bytes(f.size());
    f.read(0, bytes);
    return bytes;
}

/// Where a file of firmware is, among the folders for it (`also_here`: or it is a file's own name).
/// Empty: nowhere.
std::string find_firmware(const Options &o, const std::string &name, bool also_here) {
    std::vector<std::string> places;
    if (also_here)
        places.push_back(name);
    if (name.find('/') == name.npos) {
        if (!o.data_folder.empty())
            places.push_back(o.data_folder + '/' + name);
        for (const char *folder :
             {"/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/seabios"})
            places.push_back(std::string(folder) + '/' + name);
    }
    const auto found = std::ranges::find_if(
        places, [](const std::string &p) { return ::access(p.c_str(), F_OK) == 0; });
    return found == places.end() ? "" : *found;
}

/// A name with a slash, or of a file in the current folder, is that file; else it is looked for
/// where firmware is kept.
std::vector<u8> firmware(const Options &o) {
    const std::string name = o.bios.empty() ? "bios-256k.bin" : o.bios;
    const std::string option = o.bios.empty() ? "firmware " + name : "-bios " + name;
    const std::string found = find_firmware(o, name, !o.bios.empty());
    try {
        if (!found.empty()) {
            std::vector<u8> image = whole_file(found);
            constexpr usize unit = 64 << 10;
            if (image.empty() || image.size() % unit)
                throw ConfigError("has " + std::to_string(image.size()) +
                                  " bytes; a firmware image is a multiple of 64 KiB");
            return image;
        }
        throw ConfigError(o.bios.empty()
                              ? "not found; install the package 'seabios', or name a file by -bios"
                              : "there is no such file");
    } catch (const ConfigError &e) {
        throw ConfigError(option + ": " + e.what());
    }
}

/// What firmware runs to put something on the screen.
std::vector<u8> video_rom(const Options &o) {
    const std::string name = "vgabios-stdvga.bin", found = find_firmware(o, name, false);
    try {
        if (found.empty())
            throw ConfigError("not found; install the package 'seabios', or use -vga none");
        return whole_file(found);
    } catch (const ConfigError &e) {
        throw ConfigError("video firmware " + name + ": " + e.what());
    }
}

hw::PcConfig machine_config(const Options &o, chardev::CharBackends &backends, Drives &drives) {
    hw::PcConfig c;
    c.ram_size = o.memory;
    c.cpus = o.cpus;
    c.cpu_model = o.cpu;
    if (o.kernel.empty())
        c.firmware = firmware(o);
    c.calendar_ns = i64{::time(nullptr)} * 1'000'000'000;
    c.boot_order = o.boot_order;
    c.boot_once = o.boot_once;
    c.boot_menu = o.boot_menu;
    c.graphics = !o.nographic;
    add_devices(o, backends, drives, c);
    if (c.vga && !c.firmware.empty())
        c.vga->rom = video_rom(o);
    return c;
}

hw::AcpiTables acpi_tables(const Options &o, hw::Pc &machine, bool com1) {
    return hw::make_acpi_tables({.cpus = o.cpus,
                                 .pm_base = 0x600,
                                 .pci_hole_start = u32(machine.low_ram()),
                                 .pci_hole64_start = 0,
                                 .com1 = com1,
                                 .display = machine.display() != nullptr});
}

/// What firmware leaves in the boot processor, and the state that the boot protocol asks for.
void enter_linux(accel::Vcpu &cpu, const hw::LinuxEntry &e, u64 low_ram) {
    constexpr u16 code = 0xc09b, data = 0xc093; // present, 4 GiB, 32 bits
    constexpr u64 CR0_PE = 1, CR0_ET = 1 << 4;
    accel::X86State s = cpu.state();
    s.gpr.fill(0);
    s.gpr[6] = e.esi;
    s.rip = e.eip;
    s.rflags = 2;
    s.cr0 = CR0_PE | CR0_ET;
    for (usize i = 0; i < s.segment.size(); ++i)
        s.segment[i] = {0, 0xffff'ffff, hw::LinuxEntry::data_selector, data};
    s.segment[1] = {0, 0xffff'ffff, hw::LinuxEntry::code_selector, code};
    s.gdt = {e.gdt_base, e.gdt_limit};
    // MTRRs as firmware leaves them: on, everything write-back but the hole below 4 GiB.
    constexpr u32 MTRR_DEF_TYPE = 0x2ff, MTRR_PHYS_BASE0 = 0x200, MTRR_PHYS_MASK0 = 0x201;
    constexpr u64 enabled = 1 << 11, write_back = 6, valid = 1 << 11;
    constexpr u64 forty_bits = (u64{1} << 40) - 1;
    const u64 hole = low_ram > 0xc000'0000 ? 0xe000'0000 : 0xc000'0000; // to 4 GiB, a power of two
    s.msr.emplace_back(MTRR_PHYS_BASE0, hole);
    s.msr.emplace_back(MTRR_PHYS_MASK0, (forty_bits & ~(0xffff'ffff - hole)) | valid);
    s.msr.emplace_back(MTRR_DEF_TYPE, enabled | write_back);
    cpu.set_state(s);
}

} // namespace

Session::Session(const Options &options)
    : options_(options), signals_(loop_, {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT}),
      backends_(loop_, Callback::to<&Session::quit>(this)), drives_(loop_),
      monitor_(loop_, program_version()), tasks_(loop_) {
    ::signal(SIGPIPE, SIG_IGN);
    const hw::PcConfig config = machine_config(options_, backends_, drives_);
    engine_ = make_engine(options_, map_);
    machine_ = std::make_unique<hw::Pc>(config, hw::PcEnvironment{.map = map_,
                                                                  .clock = clock_,
                                                                  .host_clock = &clock_,
                                                                  .engine = *engine_,
                                                                  .events = *this});
    acpi_ = acpi_tables(options_, *machine_, config.serial[0] != nullptr);
    for (auto &[name, bytes] : acpi_.loader_files())
        machine_->add_fw_cfg_file(name, std::move(bytes));
    if (const std::string order = drives_.boot_order(); !order.empty())
        machine_->add_fw_cfg_file("bootorder", {order.c_str(), order.c_str() + order.size() + 1});
    for (const auto &[name, text] : options_.fw_cfg_strings)
        machine_->add_fw_cfg_file(name, {text.begin(), text.end()});
    for (const auto &[name, path] : options_.fw_cfg_files)
        try {
            machine_->add_fw_cfg_file(name, whole_file(path));
        } catch (const ConfigError &e) {
            throw ConfigError("-fw_cfg name=" + name + ",file=" + path + ": " + e.what());
        }
    if (!options_.kernel.empty())
        machine_->set_loader(this);
    keyboard_ = std::make_unique<Keyboard>(loop_, machine_->input());
    start_monitors();
    loop_.drive(&clock_);
}

Session::~Session() {
    tasks_.cancel();
    static_cast<void>(tasks_.join());
    loop_.drive(nullptr);
    machine_->pause();
    while (!machine_->ide().quiet()) {
        loop_.turn(true);
        machine_->pause(); // a monitor may have let it go on
    }
    keyboard_.reset();
    machine_.reset();
    while (posted_.load())
        loop_.turn(false); // the notice may still be in the loop's queue
}

void Session::place(hw::Pc &machine) {
    machine.power_management().place(0x600);
    const hw::LinuxEntry entry =
        hw::load_linux(map_, {options_.kernel, options_.initrd, options_.append},
                       {machine.low_ram(), machine.ram_size() - machine.low_ram()}, acpi_);
    enter_linux(machine.vcpu(0), entry, machine.low_ram());
}

int Session::run() {
    if (!options_.start_paused) {
        machine_->run();
        state_ = RunState::running;
    }
    tasks_.spawn(watch_signals());
    while (!status_) {
        loop_.turn(true);
        monitor_.collect();
    }
    machine_->pause();
    monitor_.event("SHUTDOWN", {{"guest", cause_.guest}, {"reason", cause_.reason}});
    monitor_.flush();
    if (failure_)
        std::rethrow_exception(failure_);
    if (!in_a_hurry_)
        backends_.flush();
    return *status_;
}

// --- what the guest asks for: any thread

void Session::note(std::atomic<bool> &what) noexcept {
    what.store(true);
    post_notice();
}

void Session::exit_requested(u8 status) noexcept {
    exit_.store(status);
    post_notice();
}

void Session::post_notice() noexcept {
    if (!posted_.exchange(true))
        loop_.post(notice_);
}

void Session::processor_shut_down(unsigned) noexcept {
    note(reset_);
}

// --- what is done about it: the main loop

void Session::act() noexcept {
    posted_.store(false);
    if (const int status = exit_.exchange(-1); status >= 0)
        return end(status, {true, "guest-shutdown"});
    if (off_.exchange(false)) {
        if (!options_.no_shutdown)
            return end(0, {true, "guest-shutdown"});
        monitor_.event("SHUTDOWN", {{"guest", true}, {"reason", "guest-shutdown"}});
        stop_running(RunState::shutdown);
    }
    if (reset_.exchange(false))
        reset({true, "guest-reset"});
}

void Session::stop_running(RunState state) noexcept {
    const bool was_running = machine_->running();
    machine_->pause();
    state_ = state;
    if (was_running)
        monitor_.event("STOP");
}

void Session::reset(Cause cause) noexcept {
    if (options_.no_reboot && !options_.no_shutdown)
        return end(0, cause);
    if (options_.no_reboot) {
        monitor_.event("SHUTDOWN", {{"guest", cause.guest}, {"reason", cause.reason}});
        return stop_running(RunState::shutdown);
    }
    try {
        machine_->reset();
        if (state_ == RunState::shutdown)
            state_ = RunState::paused;
        monitor_.event("RESET", {{"guest", cause.guest}, {"reason", cause.reason}});
    } catch (const ConfigError &) {
        failure_ = std::current_exception();
        end(1, cause);
    }
}

void Session::end(int status, Cause cause) noexcept {
    if (!status_) {
        status_ = status;
        cause_ = cause;
    }
    loop_.wake();
}

loop::Task<> Session::watch_signals() {
    for (;;) {
        const int signal = co_await signals_.next();
        if (signal == SIGTSTP) {
            backends_.release_terminal();
            ::raise(SIGSTOP);
        }
        if (signal == SIGTSTP || signal == SIGCONT) {
            backends_.take_terminal_back();
            continue;
        }
        if (status_) { // already ending: only output to a reader that does not read is waited for
            backends_.release_terminal();
            ::_exit(*status_);
        }
        RHEA_LOG(info, "ended by signal %d (%s)", signal, ::strsignal(signal));
        in_a_hurry_ = true;
        end(0, {false, "host-signal"});
    }
}

} // namespace rhea::emulator
