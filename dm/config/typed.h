#pragma once
// parse_options: "key=value,flag" into a described struct (dm/core/describe.h). The struct's member
// names are the keys
// ('_' is written '-' or '_'), its initialisers the defaults, its help texts the help.
//
//     struct DebugconConfig { u16 iobase = 0xe9; std::string chardev; static constexpr auto
//     fields() {...} }; auto c = config::parse_options<DebugconConfig>("iobase=0x402,chardev=d");
//
// A member is a bool, an integer, a std::string or a Size. Throws
// ConfigError.
#include <concepts>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "dm/config/key_value.h"
#include "dm/core/config_error.h"
#include "dm/core/describe.h"

namespace rhea::config {

/// Bytes; without a suffix the number counts in Unit bytes.
template <u64 Unit = 1> struct BasicSize { u64 bytes = 0; };
using Size = BasicSize<1>;
using MemorySize = BasicSize<u64{1} << 20>;

inline void parse_value(bool &to, std::string_view text) {
    to = parse_switch(text);
}
inline void parse_value(std::string &to, std::string_view text) {
    to = text;
}
template <std::unsigned_integral I> void parse_value(I &to, std::string_view text) {
    to = static_cast<I>(parse_number(text, std::numeric_limits<I>::max()));
}
template <u64 Unit> void parse_value(BasicSize<Unit> &to, std::string_view text) {
    to.bytes = parse_size(text, Unit);
}
/// Keys are the same if they differ in '-' and '_' alone.
bool same_key(std::string_view a, std::string_view b) noexcept;

/// Sets what `text` names; the rest keeps its value. `implied` as for split().
template <Described T>
void parse_into(T &out, std::string_view text, std::string_view implied = {}) {
    for (const KeyValue &item : split(text, implied)) {
        bool found = false;
        std::vector<std::string_view> known;
        each_field(out, [&](const auto &field, auto &value) {
            known.push_back(field.name);
            if (!same_key(field.name, item.key))
                return;
            found = true;
            try {
                parse_value(value, item.value);
            } catch (const ConfigError &e) {
                throw ConfigError(item.key + ": " + e.what());
            }
        });
        if (!found) {
            const std::string hint = did_you_mean(item.key, known);
            throw ConfigError("unknown key '" + item.key + "'" +
                              (!hint.empty()   ? hint
                               : known.empty() ? std::string(" (there are none)")
                                               : " (known: " + join(known) + ")"));
        }
    }
}

template <Described T> T parse_options(std::string_view text, std::string_view implied = {}) {
    T out{};
    parse_into(out, text, implied);
    return out;
}

/// One line a key: its name and help, for `-device X,help`.
template <Described T> std::string options_help() {
    T t{};
    std::string s;
    each_field(t, [&](const auto &field, auto &) {
        s += "  " + std::string(field.name);
        s.append(field.name.size() < 14 ? 14 - field.name.size() : 1, ' ');
        s += std::string(field.help) + '\n';
    });
    return s;
}

} // namespace rhea::config
