#include "dm/monitor/splitter.h"

#include <utility>

namespace rhea::monitor {

namespace {
bool is_blank(char c) noexcept {
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}
} // namespace

Splitter::Item Splitter::give_up(std::string_view problem, char at) {
    text_.clear();
    text_.shrink_to_fit();
    depth_ = 0;
    in_string_ = escaped_ = false;
    skipping_ = at != '\n';
    return {{}, problem};
}

std::optional<Splitter::Item> Splitter::next(std::string_view &bytes) {
    while (!bytes.empty()) {
        const char c = bytes.front();
        bytes.remove_prefix(1);
        if (skipping_) {
            skipping_ = c != '\n';
            continue;
        }
        if (text_.empty() && is_blank(c))
            continue;
        if (text_.empty() && c != '{' && c != '[')
            return give_up("Invalid JSON syntax: an object is expected", c);
        if (static_cast<unsigned char>(c) < 0x20 && (in_string_ || !is_blank(c)))
            return give_up("Invalid JSON syntax: a control character", c);
        if (text_.size() >= max_size)
            return give_up("JSON message is too long: 1 MiB is the limit", c);
        text_.push_back(c);
        if (in_string_) {
            if (escaped_)
                escaped_ = false;
            else if (c == '\\')
                escaped_ = true;
            else if (c == '"')
                in_string_ = false;
        } else if (c == '"') {
            in_string_ = true;
        } else if (c == '{' || c == '[') {
            if (++depth_ > max_depth)
                return give_up("JSON message is nested too deeply: 64 levels are the limit", c);
        } else if ((c == '}' || c == ']') && --depth_ == 0) {
            return Item{std::exchange(text_, {}), {}};
        }
    }
    return std::nullopt;
}

} // namespace rhea::monitor
