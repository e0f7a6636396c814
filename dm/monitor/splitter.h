#pragma once
// Splitter: cuts a client's bytes into JSON texts, which need not stand on lines of their own and
// may come in any pieces. A plain object without a thread.
//
// It looks at brackets and strings only, so that size and depth are bounded before anything is
// parsed. What cannot be the beginning of an object or an array, or gets too long or too deep, is
// one failure, and the rest of its line is skipped; so is what a control character (which JSON has
// nowhere but between tokens) interrupts: a newline ends a broken string at the latest.
#include <optional>
#include <string>
#include <string_view>

#include "dm/core/types.h"

namespace rhea::monitor {

class Splitter {
public:
    static constexpr usize max_size = usize{1} << 20;
    static constexpr unsigned max_depth = 64;

    struct Item {
        std::string text;              // a whole text, if `problem` is empty
        std::string_view problem = {}; // what was wrong
    };
    /// Takes bytes from the front of `bytes` until an item is complete; nullopt: all are taken.
    std::optional<Item> next(std::string_view &bytes);
    /// Nothing is half-way in.
    bool idle() const noexcept { return text_.empty() && !skipping_; }

private:
    Item give_up(std::string_view problem, char at);

    std::string text_;
    unsigned depth_ = 0;
    bool in_string_ = false, escaped_ = false, skipping_ = false;
};

} // namespace rhea::monitor
