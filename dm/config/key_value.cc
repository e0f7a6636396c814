#include "dm/config/key_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "dm/core/config_error.h"

namespace rhea::config {

std::vector<KeyValue> split(std::string_view text, std::string_view implied) {
    std::vector<KeyValue> out;
    if (text.empty())
        return out;
    std::vector<std::string> items(1);
    for (usize i = 0; i < text.size(); ++i) {
        if (text[i] != ',')
            items.back() += text[i];
        else if (i + 1 < text.size() && text[i + 1] == ',')
            items.back() += text[i++];
        else
            items.emplace_back();
    }
    for (const std::string &item : items) {
        const usize eq = item.find('=');
        const bool first = &item == &items.front();
        if (eq != std::string::npos)
            out.push_back({item.substr(0, eq), item.substr(eq + 1), false});
        else if (first && !implied.empty())
            out.push_back({std::string(implied), item, false});
        else
            out.push_back({item, "on", true});
        if (out.back().key.empty())
            throw ConfigError("an empty item (a stray comma? a literal comma is written ',,')");
    }
    return out;
}

u64 parse_number(std::string_view text, u64 max) {
    const bool hex = text.starts_with("0x") || text.starts_with("0X");
    const std::string_view digits = hex ? text.substr(2) : text;
    u64 v = 0;
    const auto [end, code] =
        std::from_chars(digits.data(), digits.data() + digits.size(), v, hex ? 16 : 10);
    if (digits.empty() || code == std::errc::invalid_argument ||
        end != digits.data() + digits.size())
        throw ConfigError("'" + std::string(text) + "' is no number (like 1016 or 0x3f8)");
    if (code != std::errc{} || v > max)
        throw ConfigError("'" + std::string(text) + "' is too large (at most " +
                          std::to_string(max) + ")");
    return v;
}

u64 parse_size(std::string_view text, u64 unit) {
    const auto bad = [&] {
        return ConfigError("'" + std::string(text) + "' is no size (like 512M or 1.5G)");
    };
    std::string_view number = text;
    if (number.size() > 1 && (number.back() == 'b' || number.back() == 'B') &&
        std::isalpha(static_cast<unsigned char>(number[number.size() - 2])))
        number.remove_suffix(1);
    if (!number.empty())
        switch (number.back()) {
        case 'b':
        case 'B': unit = 1; break;
        case 'k':
        case 'K': unit = u64{1} << 10; break;
        case 'm':
        case 'M': unit = u64{1} << 20; break;
        case 'g':
        case 'G': unit = u64{1} << 30; break;
        case 't':
        case 'T': unit = u64{1} << 40; break;
        default: number = text; goto plain;
        }
    number.remove_suffix(number.empty() ? 0 : 1);
plain:
    if (number.empty() || !(number.front() >= '0' && number.front() <= '9'))
        throw bad();
    const char *const end = number.data() + number.size();
    u64 whole = 0;
    auto [p, code] = std::from_chars(number.data(), end, whole);
    if (code == std::errc::result_out_of_range || (unit > 1 && whole > ~u64{0} / unit))
        throw ConfigError("'" + std::string(text) + "' is too large");
    u64 bytes = whole * unit;
    if (p != end) {
        double fraction = 0;
        const auto [q, error] = std::from_chars(p, end, fraction, std::chars_format::fixed);
        if (*p != '.' || error != std::errc{} || q != end)
            throw bad();
        bytes += static_cast<u64>(std::llround(fraction * static_cast<double>(unit)));
    }
    return bytes;
}

bool parse_switch(std::string_view text) {
    if (text == "on" || text == "yes" || text == "true")
        return true;
    if (text == "off" || text == "no" || text == "false")
        return false;
    throw ConfigError("'" + std::string(text) + "' is neither on nor off");
}

std::string size_text(u64 bytes) {
    static constexpr const char *units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    usize i = 0;
    while (i < 6 && bytes && bytes % 1024 == 0) {
        bytes /= 1024;
        ++i;
    }
    return std::to_string(bytes) + ' ' + units[i];
}

namespace {

/// Edit distance with swaps of neighbours, letters compared without case.
usize distance(std::string_view a, std::string_view b) {
    const auto same = [](char x, char y) {
        return std::tolower(static_cast<unsigned char>(x)) ==
               std::tolower(static_cast<unsigned char>(y));
    };
    std::vector<usize> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
    for (usize j = 0; j <= b.size(); ++j)
        last[j] = j;
    for (usize i = 1; i <= a.size(); ++i) {
        now[0] = i;
        for (usize j = 1; j <= b.size(); ++j) {
            now[j] = std::min(
                {last[j] + 1, now[j - 1] + 1, last[j - 1] + (same(a[i - 1], b[j - 1]) ? 0u : 1u)});
            if (i > 1 && j > 1 && same(a[i - 1], b[j - 2]) && same(a[i - 2], b[j - 1]))
                now[j] = std::min(now[j], before[j - 2] + 1);
        }
        before.swap(last);
        last.swap(now);
    }
    return last[b.size()];
}

} // namespace

std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates) {
    std::string_view best;
    // Words of n letters that differ in more than about a third of them are other words.
    usize limit = std::max<usize>(1, std::min<usize>(name.size(), 64) / 3) + 1;
    if (name.size() > 64)
        return {};
    for (const std::string_view c : candidates)
        if (const usize d = distance(name, c); d < limit && d < c.size()) {
            best = c;
            limit = d;
        }
    return best;
}

std::string did_you_mean(std::string_view name, std::span<const std::string_view> candidates) {
    const std::string_view n = nearest(name, candidates);
    return n.empty() ? "" : ", did you mean '" + std::string(n) + "'?";
}

std::string join(std::span<const std::string_view> names) {
    std::string s;
    for (const std::string_view n : names)
        s += (s.empty() ? "" : ", ") + std::string(n);
    return s;
}

} // namespace rhea::config
