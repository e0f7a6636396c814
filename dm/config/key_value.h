#pragma once
// The text forms that options are written in: "key=value,flag,other=a,,b", sizes, numbers, on/off,
// and which known name an unknown one is nearest to. Everything here throws ConfigError with a text
// that says what was wrong and what would be right; whoever knows the option's name puts it in
// front.
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dm/core/types.h"

namespace rhea::config {

struct KeyValue {
    std::string key;
    std::string value; // of a bare flag: "on"
    bool bare = false; // no '=' was there
};

/// Items between commas; ",," is a literal comma. A first item without '=' becomes the value of
/// `implied`, if that is not empty: split("512,slots=2", "size") is size=512, slots=2.
std::vector<KeyValue> split(std::string_view text, std::string_view implied = {});

/// Decimal, 0x hexadecimal; nothing else around it.
u64 parse_number(std::string_view text, u64 max = ~u64{0});
/// Bytes: a number, fractions allowed, and one of k K M G T (powers of 1024, an optional B after
/// it); without a suffix it counts in `unit`.
u64 parse_size(std::string_view text, u64 unit = 1);
/// on/off, yes/no, true/false.
bool parse_switch(std::string_view text);

/// "1 GiB", "512 MiB", "1000 bytes".
std::string size_text(u64 bytes);

/// The candidate that is fewest typing errors away (insert, delete, replace, swap), or "" if none
/// is near.
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);
/// ", did you mean 'kernel'?" or "".
std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates);
/// "a, b, c"
std::string join(std::span<const std::string_view> names);

} // namespace rhea::config
