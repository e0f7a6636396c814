#pragma once
// Described structs (dm/core/describe.h) to and from JSON: how a command's arguments and answers
// are declared once and checked nowhere else.
//
// A member's name is its key, with '-' for '_'. A plain member must be there, a std::optional one
// may be absent; a key that no member has is an error that names the nearest. Members are bool,
// integers, strings, Json (anything), vectors and described structs of these. Plain functions.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "dm/config/key_value.h"
#include "dm/core/describe.h"
#include "dm/core/result.h"
#include "dm/core/types.h"

namespace rhea::monitor {

using Json = nlohmann::json;

namespace detail {

template <class T> inline constexpr bool is_optional = false;
template <class T> inline constexpr bool is_optional<std::optional<T>> = true;
template <class T> inline constexpr bool is_vector = false;
template <class T> inline constexpr bool is_vector<std::vector<T>> = true;

inline std::string key(std::string_view member) {
    std::string s(member);
    for (char &c : s)
        c = c == '_' ? '-' : c;
    return s;
}

Error wrong_type(const std::string &path, const char *wanted);
Error unexpected(const std::string &path, const std::string &key,
                 const std::vector<std::string> &known);

} // namespace detail

/// Fills `out`; `path` is how messages name it ("" for the arguments themselves).
template <class T> Result<> from_json(const Json &from, T &out, const std::string &path) {
    if constexpr (std::is_same_v<T, Json>) {
        out = from;
    } else if constexpr (detail::is_optional<T>) {
        return from_json(from, out.emplace(), path);
    } else if constexpr (std::is_same_v<T, bool>) {
        if (!from.is_boolean())
            return tl::unexpected(detail::wrong_type(path, "true or false"));
        out = from.get<bool>();
    } else if constexpr (std::is_integral_v<T>) {
        if (!from.is_number_integer())
            return tl::unexpected(detail::wrong_type(path, "a whole number"));
        const bool fits = from.is_number_unsigned() ? std::in_range<T>(from.get<u64>())
                                                    : std::in_range<T>(from.get<i64>());
        if (!fits)
            return tl::unexpected(detail::wrong_type(path, "a number in its range"));
        out = from.get<T>();
    } else if constexpr (std::is_same_v<T, std::string>) {
        if (!from.is_string())
            return tl::unexpected(detail::wrong_type(path, "a string"));
        out = from.get<std::string>();
    } else if constexpr (detail::is_vector<T>) {
        if (!from.is_array())
            return tl::unexpected(detail::wrong_type(path, "an array"));
        for (const Json &item : from)
            TRY(from_json(item, out.emplace_back(), path + '[' + std::to_string(out.size()) + ']'));
    } else {
        static_assert(Described<T>);
        if (!from.is_object())
            return tl::unexpected(detail::wrong_type(path, "an object"));
        Result<> done;
        std::vector<std::string> known;
        each_field(out, [&](const auto &field, auto &value) {
            known.push_back(detail::key(field.name));
            if (!done)
                return;
            const std::string name = path.empty() ? known.back() : path + '.' + known.back();
            if (const auto i = from.find(known.back()); i != from.end())
                done = from_json(*i, value, name);
            else if (!detail::is_optional<std::remove_cvref_t<decltype(value)>>)
                done = fail(EINVAL, "Parameter '" + name + "' is missing");
        });
        for (auto i = from.begin(); i != from.end(); ++i)
            if (std::find(known.begin(), known.end(), i.key()) == known.end())
                return tl::unexpected(detail::unexpected(path, i.key(), known));
        return done;
    }
    return {};
}

template <class T> Json to_json(const T &from) {
    if constexpr (detail::is_vector<T>) {
        Json out = Json::array();
        for (const auto &item : from)
            out.push_back(to_json(item));
        return out;
    } else if constexpr (Described<T>) {
        Json out = Json::object();
        each_field(from, [&](const auto &field, const auto &value) {
            if constexpr (detail::is_optional<std::remove_cvref_t<decltype(value)>>) {
                if (value)
                    out[detail::key(field.name)] = to_json(*value);
            } else {
                out[detail::key(field.name)] = to_json(value);
            }
        });
        return out;
    } else {
        return Json(from);
    }
}

} // namespace rhea::monitor
