// describe: one list of a struct's members, from which saved state, options and monitor commands
// are made.
//
//     struct UartState {
//         u8 lcr = 0;
//         u16 divisor = 12;
//         static constexpr auto fields() {
//             return describe<UartState>(Field<&UartState::lcr>{},
//                                        Field<&UartState::divisor>{.help = "baud divisor", .since
//                                        = 2});
//         }
//     };
//
// The list is compared with the aggregate at compile time: a member that is forgotten or listed
// twice does not compile. Members must be values (std::array, not C arrays; no references), at most
// a few dozen of them.
#pragma once
#include "dm/core/types.h"
#include <array>
#include <cstddef>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace rhea {

namespace detail {

template <auto M> consteval std::string_view member_name() {
    std::string_view s = __PRETTY_FUNCTION__;
    s = s.substr(s.find("M = ") + 4);
    s = s.substr(0, s.find_first_of(";]"));
    return s.substr(s.rfind(':') + 1);
}

struct Anything {
    template <class T> operator T() const noexcept; // for types alone: there is no definition
};

template <class T, class... A> consteval std::size_t arity() {
    if constexpr (requires { T{A{}..., Anything{}}; })
        return arity<T, A..., Anything>();
    else
        return sizeof...(A);
}

template <class S, class T> S owner_of(T S::*);
template <class S, class T> T type_of(T S::*);

template <std::size_t N> consteval bool distinct(const std::array<std::string_view, N> &names) {
    for (std::size_t i = 0; i < N; ++i)
        for (std::size_t j = i + 1; j < N; ++j)
            if (names[i] == names[j])
                return false;
    return true;
}

} // namespace detail

// One member: what it is for, since which version of its owner's saved form it exists (absent
// before: the initialiser stays), and the largest value that a loaded integer, enumerator or
// element may have.
template <auto M> struct Field {
    std::string_view help{};
    u16 since = 1;
    u64 max = ~u64{0};

    using Owner = decltype(detail::owner_of(M));
    using Type = decltype(detail::type_of(M));
    static constexpr std::string_view name = detail::member_name<M>();
    static constexpr auto member = M;
};

template <class S, auto... M> consteval std::tuple<Field<M>...> describe(Field<M>... f) {
    static_assert(std::is_aggregate_v<S>);
    static_assert((std::is_same_v<typename Field<M>::Owner, S> && ...), "a member of another type");
    static_assert(sizeof...(M) == detail::arity<S>(), "every member must be described, once");
    static_assert(detail::distinct(std::array<std::string_view, sizeof...(M)>{Field<M>::name...}),
                  "a member is described twice");
    return {f...};
}

template <class S>
concept Described = requires {
    std::remove_cvref_t<S>::fields();
};

// fn(field, member) for each member in the order of the list.
template <class S, class Fn>
requires Described<S>
constexpr void each_field(S &s, Fn &&fn) {
    constexpr auto fields = std::remove_cvref_t<S>::fields();
    std::apply(
        [&](const auto &...f) { (fn(f, s.*(std::remove_cvref_t<decltype(f)>::member)), ...); },
        fields);
}

} // namespace rhea
