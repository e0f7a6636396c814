#include "dm/config/command_line.h"

#include "dm/config/key_value.h"

namespace rhea::config {

std::size_t detail::find_option(std::span<const OptionText> table, std::string_view word) {
    std::string_view name = word;
    if (!name.starts_with('-') || name == "-" || name == "--")
        throw ConfigError("'" + std::string(word) +
                          "': an option is expected here, which begins with '-'");
    name.remove_prefix(name.starts_with("--") ? 2 : 1);
    std::vector<std::string_view> known;
    for (std::size_t i = 0; i < table.size(); ++i) {
        if (name == table[i].name || (!table[i].alias.empty() && name == table[i].alias))
            return i;
        known.push_back(table[i].name);
        if (!table[i].alias.empty())
            known.push_back(table[i].alias);
    }
    const std::string_view near = nearest(name, known);
    throw ConfigError(
        std::string(word) + ": unknown option" +
        (near.empty() ? " (-help lists them)" : ", did you mean '-" + std::string(near) + "'?"));
}

namespace {

/// Words of `text` in lines of at most `width` columns, each but the first after `indent` blanks.
std::string wrap(std::string_view text, unsigned width, unsigned indent) {
    std::string out;
    std::size_t column = indent;
    while (!text.empty()) {
        const std::string_view word = text.substr(0, text.find(' '));
        text.remove_prefix(std::min(text.size(), word.size() + 1));
        if (column > indent && column + 1 + word.size() > width) {
            out += '\n' + std::string(indent, ' ');
            column = indent;
        } else if (column > indent) {
            out += ' ';
            ++column;
        }
        out += word;
        column += word.size();
    }
    return out;
}

std::string roff(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '\\')
            out += "\\e";
        else if (c == '-')
            out += "\\-";
        else
            out += c;
    }
    return out.starts_with('.') || out.starts_with('\'') ? "\\&" + out : out;
}

} // namespace

std::string help_text(std::span<const OptionText> table, unsigned width) {
    constexpr unsigned indent = 28;
    std::string out;
    std::string_view section;
    for (const OptionText &o : table) {
        if (o.section != section)
            out += '\n' + std::string(section = o.section) + ":\n";
        std::string head = "  -" + std::string(o.name);
        if (!o.alias.empty())
            head += ", -" + std::string(o.alias);
        if (!o.argument.empty())
            head += ' ' + std::string(o.argument);
        if (head.size() + 2 > indent)
            head += '\n' + std::string(indent, ' ');
        else
            head.resize(indent, ' ');
        out += head + wrap(o.help, width, indent) + '\n';
    }
    return out;
}

std::string manual_text(std::span<const OptionText> table) {
    std::string out;
    std::string_view section;
    for (const OptionText &o : table) {
        if (o.section != section)
            out += ".SS " + roff(section = o.section) + '\n';
        out += ".TP\n.B " + roff("-" + std::string(o.name));
        if (!o.alias.empty())
            out += roff(", -" + std::string(o.alias));
        if (!o.argument.empty())
            out += " \\fI" + roff(o.argument) + "\\fR";
        out += '\n' + roff(o.help) + '\n';
    }
    return out;
}

} // namespace rhea::config
