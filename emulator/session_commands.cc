// The monitor's commands about the run of the machine, and where monitors are.
#include <cstdarg>

#include "dm/ui/console.h"
#include "dm/ui/image.h"
#include "emulator/session.h"

#ifndef RHEA_VERSION
#define RHEA_VERSION "0"
#endif

namespace rhea::emulator {

using monitor::Json;
using monitor::Nothing;

monitor::Version program_version() {
    monitor::Version v{.package = "Rhea " RHEA_VERSION};
    std::sscanf(RHEA_VERSION, "%u.%u.%u", &v.major, &v.minor, &v.micro);
    return v;
}

struct Session::Screendump {
    std::string filename;
    std::optional<std::string> format;
    static constexpr auto fields() {
        return describe<Screendump>(Field<&Screendump::filename>{}, Field<&Screendump::format>{});
    }
};

void Session::start_monitors() {
    monitor_.add(commands());
    if (machine_->display())
        monitor_.add({monitor::command<&Session::screendump>("screendump", *this,
                                                             "the screen as a picture")});
    monitor_.add(keyboard_->commands());
    for (const Options::Monitor &m : options_.monitors)
        try {
            const auto kind =
                m.control ? monitor::Monitor::Kind::control : monitor::Monitor::Kind::human;
            auto e = backends_.open_endpoint(m.back_end, m.control ? "qmp" : "monitor");
            if (e.backend)
                monitor_.attach(*e.backend, kind);
            else if (e.listening >= 0)
                monitor_.listen(e.listening, std::move(e.path), kind, e.first);
        } catch (const ConfigError &e) {
            throw ConfigError(m.option + ": " + e.what());
        }
    chardev::CharBackend *const second = backends_.second_of_terminal();
    if (second && !options_.no_monitor)
        monitor_.attach(*second, monitor::Monitor::Kind::human);
}

std::vector<monitor::Command> Session::commands() {
    using monitor::command;
    return {
        command<&Session::qmp_cont>("cont", *this, "lets the guest go on"),
        command<&Session::query_chardev>("query-chardev", *this, "the character back ends"),
        command<&Session::query_name>("query-name", *this, "what the guest is called"),
        command<&Session::query_status>("query-status", *this, "whether the guest runs"),
        command<&Session::qmp_quit>("quit", *this, "ends the program"),
        command<&Session::qmp_stop>("stop", *this, "halts the guest"),
        command<&Session::qmp_powerdown>("system_powerdown", *this, "presses the power button"),
        command<&Session::qmp_reset>("system_reset", *this, "presses the reset button"),
        command<&Session::query_registers>("x-query-registers", *this, "the CPUs' registers"),
    };
}

Result<Nothing> Session::qmp_stop(const Nothing &) {
    if (state_ == RunState::running)
        stop_running(RunState::paused);
    return Nothing{};
}

Result<Nothing> Session::qmp_cont(const Nothing &) {
    if (state_ == RunState::shutdown)
        return fail(EINVAL, "the guest has switched itself off: system_reset comes first");
    if (state_ == RunState::running)
        return Nothing{};
    machine_->run();
    state_ = RunState::running;
    monitor_.event("RESUME");
    return Nothing{};
}

Result<Nothing> Session::qmp_reset(const Nothing &) {
    reset({false, "host-qmp-system-reset"});
    return Nothing{};
}

Result<Nothing> Session::qmp_powerdown(const Nothing &) {
    machine_->press_power_button();
    monitor_.event("POWERDOWN");
    return Nothing{};
}

Result<Nothing> Session::qmp_quit(const Nothing &) {
    end(0, {false, "host-qmp-quit"});
    return Nothing{};
}

Result<Nothing> Session::screendump(const Screendump &what) {
    const std::string format = what.format.value_or("ppm");
    if (format != "ppm" && format != "png")
        return fail(EINVAL, "format: '" + format + "' is neither ppm nor png");
    const ui::Surface picture = machine_->display()->snapshot();
    const Result<> written = format == "png" ? ui::write_png(picture, what.filename)
                                             : ui::write_ppm(picture, what.filename);
    if (!written)
        return fail(EIO, to_string(written.error()));
    return Nothing{};
}

Result<Json> Session::query_status(const Nothing &) {
    constexpr std::array names{"prelaunch", "running", "paused", "shutdown"};
    return Json{{"running", state_ == RunState::running}, {"status", names[usize(state_)]}};
}

Result<Json> Session::query_name(const Nothing &) {
    Json out = Json::object();
    if (!options_.name.empty())
        out["name"] = options_.name;
    return out;
}

Result<Json> Session::query_chardev(const Nothing &) {
    Json out = Json::array();
    for (const auto &c : backends_.list())
        out.push_back({{"label", c.label}, {"filename", c.filename}});
    return out;
}

namespace {

[[gnu::format(printf, 2, 3)]] void print(std::string &out, const char *format, ...) {
    char line[160];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    out += line;
}

void print_state(std::string &out, unsigned index, const accel::X86State &s) {
    using Number = unsigned long long;
    constexpr std::array names{"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                               "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"};
    print(out, "CPU#%u\n", index);
    for (usize i = 0; i < names.size(); ++i)
        print(out, "%s=%016llx%c", names[i], Number{s.gpr[i]}, i % 4 == 3 ? '\n' : ' ');
    print(out, "RIP=%016llx RFL=%08llx%s\n", Number{s.rip}, Number{s.rflags},
          s.halted ? " halted" : "");
    constexpr std::array segments{"ES", "CS", "SS", "DS", "FS", "GS"};
    for (usize i = 0; i < segments.size(); ++i)
        print(out, "%s =%04x %016llx %08x %04x\n", segments[i], s.segment[i].selector,
              Number{s.segment[i].base}, s.segment[i].limit, s.segment[i].attributes);
    print(out, "LDT=%04x %016llx %08x  TR=%04x %016llx %08x\n", s.ldt.selector, Number{s.ldt.base},
          s.ldt.limit, s.tr.selector, Number{s.tr.base}, s.tr.limit);
    print(out, "GDT=%016llx %08x  IDT=%016llx %08x\n", Number{s.gdt.base}, s.gdt.limit,
          Number{s.idt.base}, s.idt.limit);
    print(out, "CR0=%08llx CR2=%016llx CR3=%016llx CR4=%08llx CR8=%llx EFER=%llx\n", Number{s.cr0},
          Number{s.cr2}, Number{s.cr3}, Number{s.cr4}, Number{s.cr8}, Number{s.efer});
}

} // namespace

Result<Json> Session::query_registers(const Nothing &) {
    const bool was_running = machine_->running();
    machine_->pause();
    std::string text;
    for (unsigned n = 0; n < machine_->cpus(); ++n)
        print_state(text, n, machine_->vcpu(n).state());
    if (was_running)
        machine_->run();
    return Json{{"human-readable-text", text}};
}

} // namespace rhea::emulator
