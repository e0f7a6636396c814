#pragma once
// Escape: the terminal's way out of the guest. Ctrl-A x quits, Ctrl-A c changes between guest and
// monitor, Ctrl-A h lists the keys, Ctrl-A Ctrl-A is one Ctrl-A for the guest; every other key
// after Ctrl-A is swallowed. A plain filter over bytes, without any thread of its own.
#include <optional>
#include <string_view>

#include "dm/core/types.h"

namespace rhea::chardev {

class Escape {
public:
    enum class Command : u8 { none, quit, change, help };
    struct Key {
        std::optional<u8> data;
        Command command = Command::none;
    };

    /// What one typed byte is: data for the guest, a command, or (the Ctrl-A itself) neither yet.
    Key type(u8 byte) noexcept {
        if (!escaped_) {
            if (byte != prefix)
                return {byte};
            escaped_ = true;
            return {};
        }
        escaped_ = false;
        switch (byte) {
        case prefix: return {prefix};
        case 'x':
        case 'X': return {std::nullopt, Command::quit};
        case 'c':
        case 'C': return {std::nullopt, Command::change};
        case 'h':
        case 'H':
        case '?': return {std::nullopt, Command::help};
        default: return {};
        }
    }

    static constexpr u8 prefix = 1; // Ctrl-A
    static constexpr std::string_view help = "\r\nCtrl-A h   this text\r\n"
                                             "Ctrl-A x   quit\r\n"
                                             "Ctrl-A c   to the monitor and back\r\n"
                                             "Ctrl-A Ctrl-A   send Ctrl-A\r\n";

private:
    bool escaped_ = false;
};

} // namespace rhea::chardev
