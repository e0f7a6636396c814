#pragma once
// The human monitor's own commands: short words for people, each made of a machine command
// (command.h) whose answer it shows as text. One whose machine command is not there is not there
// either. Plain table, main loop's thread.
#include <span>
#include <string>
#include <string_view>

#include "dm/loop/task.h"

namespace rhea::monitor {

class Monitor;

struct HumanCommand {
    std::string_view name;  // "info status": two words for those that show something
    std::string_view alias; // or ""
    std::string_view arguments, help;
    std::string_view needs; // the machine command
    loop::Task<std::string> (*run)(Monitor &monitor, std::string_view arguments);
};

std::span<const HumanCommand> human_commands();

} // namespace rhea::monitor
