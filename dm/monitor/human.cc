#include "dm/monitor/human.h"

#include <algorithm>

#include "dm/monitor/monitor.h"

namespace rhea::monitor {

namespace {

using Text = std::string_view;
using loop::Task;

Text next_word(Text &rest) {
    const auto blank = [](char c) { return c == ' ' || c == '\t'; };
    while (!rest.empty() && blank(rest.front()))
        rest.remove_prefix(1);
    const usize n = std::min(rest.find_first_of(" \t"), rest.size());
    const Text word = rest.substr(0, n);
    rest.remove_prefix(n);
    while (!rest.empty() && blank(rest.front()))
        rest.remove_prefix(1);
    return word;
}

Task<Json> ask(Monitor &monitor, Text name, const Json &arguments) {
    const Command *const c = monitor.find(name);
    if (!c || !c->run)
        co_await loop::raise(ENOENT, "this machine has no such command");
    auto task = c->run(c->object, arguments);
    Json answer = co_await std::move(task);
    co_return answer;
}

template <const char *Name> Task<std::string> plain(Monitor &monitor, Text arguments) {
    if (!arguments.empty())
        co_await loop::raise(EINVAL, "it takes no arguments");
    const Json nothing = Json::object();
    auto task = ask(monitor, Name, nothing);
    const Json answer = co_await std::move(task);
    if (answer.contains("human-readable-text"))
        co_return answer["human-readable-text"].get<std::string>();
    co_return std::string();
}

Task<std::string> info_status(Monitor &monitor, Text) {
    const Json nothing = Json::object();
    auto task = ask(monitor, "query-status", nothing);
    const Json s = co_await std::move(task);
    std::string out = s["running"].get<bool>() ? "VM status: running" : "VM status: paused";
    if (const auto status = s["status"].get<std::string>();
        status != "running" && status != "paused")
        out += " (" + status + ")";
    co_return out + "\n";
}

Task<std::string> info_name(Monitor &monitor, Text) {
    const Json nothing = Json::object();
    auto task = ask(monitor, "query-name", nothing);
    const Json n = co_await std::move(task);
    co_return n.value("name", std::string()) + "\n";
}

Task<std::string> info_version(Monitor &monitor, Text) {
    const Json v = monitor.version();
    std::string out = v["package"].get<std::string>() + "\n";
    co_return out;
}

Task<std::string> info_chardev(Monitor &monitor, Text) {
    const Json nothing = Json::object();
    auto task = ask(monitor, "query-chardev", nothing);
    const Json all = co_await std::move(task);
    std::string out;
    for (const Json &c : all)
        out +=
            c["label"].get<std::string>() + ": filename=" + c["filename"].get<std::string>() + "\n";
    co_return out;
}

Task<std::string> screendump(Monitor &monitor, Text rest) {
    const std::string file(next_word(rest));
    const Text option = next_word(rest), format = next_word(rest);
    if (file.empty() || !rest.empty() || (!option.empty() && (option != "-f" || format.empty())))
        co_await loop::raise(EINVAL, "screendump FILE [-f png|ppm] is the form");
    Json arguments{{"filename", file}};
    if (!format.empty())
        arguments["format"] = format;
    auto task = ask(monitor, "screendump", arguments);
    co_await std::move(task);
    co_return std::string();
}

Task<std::string> sendkey(Monitor &monitor, Text rest) {
    Text keys = next_word(rest);
    const std::string hold(next_word(rest));
    const bool number = hold.size() < 6 && hold.find_first_not_of("0123456789") == hold.npos;
    if (keys.empty() || !rest.empty() || !number)
        co_await loop::raise(EINVAL, "sendkey KEY[-KEY]... [MILLISECONDS] is the form");
    Json list = Json::array();
    while (!keys.empty()) {
        const Text key = keys.substr(0, keys.find('-'));
        keys.remove_prefix(std::min(keys.size(), key.size() + 1));
        list.push_back({{"type", "qcode"}, {"data", key}});
    }
    Json arguments{{"keys", list}};
    if (!hold.empty())
        arguments["hold-time"] = std::stoi(hold);
    auto task = ask(monitor, "send-key", arguments);
    co_await std::move(task);
    co_return std::string();
}

Task<std::string> help(Monitor &monitor, Text) {
    std::string out;
    for (const HumanCommand &c : human_commands()) {
        if (!monitor.find(c.needs))
            continue;
        std::string left(c.name);
        if (!c.alias.empty())
            left += "|" + std::string(c.alias);
        if (!c.arguments.empty())
            left += " " + std::string(c.arguments);
        constexpr usize column = 34;
        left.append(left.size() < column ? column - left.size() : 1, ' ');
        out += left + std::string(c.help) + "\n";
    }
    co_return out;
}

constexpr char cont[] = "cont", stop[] = "stop", quit[] = "quit", reset[] = "system_reset",
               powerdown[] = "system_powerdown", registers[] = "x-query-registers";

constexpr HumanCommand table[] = {
    {"cont", "c", "", "let the guest go on", cont, plain<cont>},
    {"help", "?", "", "this list", "query-version", help},
    {"info chardev", "", "", "the character back ends", "query-chardev", info_chardev},
    {"info name", "", "", "what the guest is called", "query-name", info_name},
    {"info registers", "", "", "the CPUs' registers", registers, plain<registers>},
    {"info status", "", "", "whether the guest runs", "query-status", info_status},
    {"info version", "", "", "the program's version", "query-version", info_version},
    {"quit", "q", "", "end the program", quit, plain<quit>},
    {"screendump", "", "FILE [-f png|ppm]", "what is on the screen, as a picture", "screendump",
     screendump},
    {"sendkey", "", "KEY[-KEY]... [MILLISECONDS]", "press keys together: ctrl-alt-delete",
     "send-key", sendkey},
    {"stop", "s", "", "halt the guest", stop, plain<stop>},
    {"system_powerdown", "", "", "press the power button", powerdown, plain<powerdown>},
    {"system_reset", "", "", "press the reset button", reset, plain<reset>},
};

} // namespace

std::span<const HumanCommand> human_commands() {
    return table;
}

loop::Task<std::string> Monitor::human(std::string_view line) {
    Text rest = line;
    std::string name(next_word(rest));
    if (name.empty())
        co_return std::string();
    if (name == "info")
        name += " " + std::string(next_word(rest));
    std::vector<Text> names;
    const HumanCommand *found = nullptr;
    for (const HumanCommand &c : table) {
        if (!find(c.needs))
            continue;
        names.push_back(c.name);
        if (c.name == name || (!c.alias.empty() && c.alias == name))
            found = &c;
    }
    if (!found) {
        constexpr usize longest = 64;
        name.resize(std::min(name.size(), longest));
        const std::string hint = config::did_you_mean(name, names);
        const std::string problem =
            "unknown command '" + name + "'" + (hint.empty() ? ", try 'help'" : hint);
        co_await loop::raise(ENOENT, problem);
    }
    auto task = found->run(*this, rest);
    std::string text = co_await std::move(task);
    co_return text;
}

} // namespace rhea::monitor
