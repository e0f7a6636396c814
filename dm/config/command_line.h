#pragma once
// A program's options, declared once in a table: the parser, the help text and the manual page's
// list come from it.
//
// Spelling: one or two dashes are the same, the order does not matter, what repeats overrides or
// adds as the option's function decides. An option either takes exactly one argument (the next
// word) or none.
#include <concepts>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dm/core/config_error.h"

namespace rhea::config {

struct OptionText {
    std::string_view name;     // without dashes: "kernel"
    std::string_view alias;    // another spelling, or ""
    std::string_view argument; // how the argument is shown: "FILE"; "": takes none
    std::string_view help;     // one or more sentences; lines are broken where they are shown
    std::string_view section;  // heading; options of a section stand together in the table
};

template <class Target> struct Option {
    OptionText text;
    void (*apply)(Target &target, std::string_view argument);
};

namespace detail {
/// The index of the option that `word` names, or throws: not an option, unknown (with the nearest).
std::size_t find_option(std::span<const OptionText> table, std::string_view word);
} // namespace detail

/// "  -kernel FILE   boot this kernel ...", by sections, lines up to `width` columns.
std::string help_text(std::span<const OptionText> table, unsigned width = 80);
/// The same as man(7) source: .SS and .TP.
std::string manual_text(std::span<const OptionText> table);

template <class Target> std::vector<OptionText> texts(std::span<const Option<Target>> table) {
    std::vector<OptionText> out;
    for (const auto &o : table)
        out.push_back(o.text);
    return out;
}

/// Applies `words` in order. A ConfigError that an option's function throws gets "-name argument: "
/// in front.
template <class Target>
void parse_command_line(std::span<const Option<Target>> table,
                        std::span<const std::string_view> words, Target &target) {
    const auto known = texts(table);
    for (std::size_t i = 0; i < words.size(); ++i) {
        const Option<Target> &option = table[detail::find_option(known, words[i])];
        const std::string name = "-" + std::string(option.text.name);
        std::string_view argument;
        if (!option.text.argument.empty()) {
            if (i + 1 == words.size())
                throw ConfigError(name + ": an argument is missing: " + name + ' ' +
                                  std::string(option.text.argument));
            argument = words[++i];
        }
        try {
            option.apply(target, argument);
        } catch (const ConfigError &e) {
            throw ConfigError(name +
                              (option.text.argument.empty() ? "" : " " + std::string(argument)) +
                              ": " + e.what());
        }
    }
}

} // namespace rhea::config
