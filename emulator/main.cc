// rhea: runs one guest. Exit status: 0 when the guest powered off (or reset, with -no-reboot), 1
// for a configuration that cannot be, with a message; what the guest chose by isa-debug-exit; 0
// when Ctrl-A x or a signal ended it.
#include <cstdio>
#include <pthread.h>
#include <string>
#include <vector>

#include "dm/core/config_error.h"
#include "dm/core/trace.h"
#include "emulator/devices.h"
#include "emulator/engine.h"
#include "emulator/session.h"

#ifndef RHEA_VERSION
#define RHEA_VERSION "0"
#endif

namespace rhea::emulator {
namespace {

std::string trace_list() {
    std::string out;
    for (const TracePoint &p : trace_points())
        out += std::string(p.name()) + "  " + p.help() + '\n';
    return out;
}

std::string answer(const Options &o) {
    switch (o.question) {
    case Question::help:
        return "usage: rhea [option]...\nRuns a virtual PC. Options may begin with one dash or "
               "two.\n" +
               config::help_text(option_texts());
    case Question::manual: return config::manual_text(option_texts());
    case Question::version: return "Rhea " RHEA_VERSION "\n";
    case Question::machines: return "pc   PC with i440FX and PIIX3 (default)\n";
    case Question::cpus: return "qemu64   64-bit x86 with SSE3 and CMPXCHG16B (default)\n";
    case Question::accels: return engine_list();
    case Question::devices: return device_list();
    case Question::device: return device_keys(o.subject);
    case Question::traces: return trace_list();
    case Question::none: break;
    }
    return {};
}

void turn_on_traces(const Options &o) {
    for (const std::string &p : o.trace_patterns)
        if (trace_set(p, true) == 0)
            throw ConfigError("-trace " + p +
                              ": no trace point has such a name (-trace help lists them)");
}

int run(std::span<const std::string_view> words) {
    const Options o = parse(words);
    if (o.question != Question::none) {
        const std::string text = answer(o);
        std::fputs(text.c_str(), stdout);
        return std::fflush(stdout) == 0 ? 0 : 1;
    }
    turn_on_traces(o);
    if (!o.name.empty())
        ::pthread_setname_np(::pthread_self(), o.name.substr(0, 15).c_str());
    Session session(o);
    return session.run();
}

} // namespace
} // namespace rhea::emulator

int main(int argc, char **argv) {
    try {
        const std::vector<std::string_view> words(argv + 1, argv + argc);
        return rhea::emulator::run(words);
    } catch (const rhea::ConfigError &e) {
        std::fprintf(stderr, "rhea: %s\n", e.what());
    } catch (const std::bad_alloc &) {
        std::fprintf(stderr, "rhea: out of memory\n");
    }
    return 1;
}
