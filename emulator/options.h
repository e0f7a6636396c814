#pragma once
// What the command line of `rhea` says, as values. Parsing opens no file and changes nothing.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dm/config/command_line.h"
#include "dm/core/types.h"

namespace rhea::emulator {

enum class Question : u8 {
    none,
    help,
    manual,
    version,
    machines,
    cpus,
    accels,
    devices,
    device,
    traces
};

struct Options {
    // Something to print instead of running a guest.
    Question question = Question::none;
    std::string subject; // of Question::device

    u64 memory = u64{128} << 20; // bytes
    unsigned cpus = 1;
    std::string cpu = "qemu64";
    std::vector<std::string> engines{"dbt"}; // dbt or kvm, tried in this order
    bool interpret = false;                  // the translator's interpreter alone
    u64 code_cache = 0;                      // bytes; 0: the engine's default
    std::string name;

    std::string bios, data_folder;
    std::string kernel, initrd, append;
    bool append_given = false;
    std::string boot_order = "cad", boot_once;
    bool boot_menu = false;

    bool nographic = false, display_none = false;
    std::string vga;      // empty: what the machine has of itself
    bool defaults = true; // false: -nodefaults
    bool no_reboot = false, no_shutdown = false;
    bool start_paused = false; // -S

    // In the order in which they stood.
    std::vector<std::string> chardevs, serials, debugcons, devices;
    struct Monitor {
        std::string option;   // for messages: "-qmp unix:..."
        std::string back_end; // as for -serial
        bool control = false; // JSON, not a prompt
    };
    std::vector<Monitor> monitors;
    bool no_monitor = false;                                       // -monitor none
    std::vector<std::pair<std::string, std::string>> drives;       // the option as typed, its keys
    bool snapshot = false;                                         // of every drive
    std::vector<std::pair<std::string, std::string>> fw_cfg_files; // name, file
    std::vector<std::pair<std::string, std::string>> fw_cfg_strings;
    std::vector<std::string> trace_patterns;
};

/// Throws ConfigError.
Options parse(std::span<const std::string_view> words);

/// The table that parse() goes by, for help and manual.
std::vector<config::OptionText> option_texts();

} // namespace rhea::emulator
