#pragma once
// Command: one thing that a client of the monitor may ask for. Commands live beside what they are
// about, as functions of an object with typed arguments and a typed answer, and whoever puts the
// program together concatenates the tables:
//
//     struct Status { bool running = false; ... fields() };
//     Result<Status> query_status(Nothing);
//     commands.push_back(command<&Session::query_status>("query-status", *this, "help"));
//
// A function takes one described struct and returns Result<described struct>, or a Task of one if
// it has to wait. It runs on the main loop's thread; the object outlives the monitor. An error's
// message goes to the client; ENODEV is the protocol's class DeviceNotFound, all others are
// GenericError.
#include <string_view>
#include <vector>

#include "dm/loop/task.h"
#include "dm/monitor/values.h"

namespace rhea::monitor {

struct Command {
    std::string_view name;
    std::string_view help; // one line
    void *object = nullptr;
    loop::Task<Json> (*run)(void *object, const Json &arguments) = nullptr;
};

struct Nothing {
    static constexpr auto fields() { return describe<Nothing>(); }
};

namespace detail {

template <class> struct Signature;
template <class O, class R, class A> struct Signature<Result<R> (O::*)(const A &)> {
    using Object = O;
    using Arguments = A;
    static constexpr bool waits = false;
};
template <class O, class R, class A> struct Signature<loop::Task<R> (O::*)(const A &)> {
    using Object = O;
    using Arguments = A;
    static constexpr bool waits = true;
};

template <auto Method> loop::Task<Json> run(void *object, const Json &given) {
    using S = Signature<decltype(Method)>;
    auto &self = *static_cast<typename S::Object *>(object);
    typename S::Arguments arguments{};
    const Result<> parsed = from_json(given, arguments, "");
    if (!parsed)
        co_await loop::raise(parsed.error());
    if constexpr (S::waits) {
        auto task = (self.*Method)(arguments);
        auto answer = co_await std::move(task);
        co_return to_json(answer);
    } else {
        auto answer = (self.*Method)(arguments);
        if (!answer)
            co_await loop::raise(answer.error());
        co_return to_json(*answer);
    }
}

} // namespace detail

template <auto Method, class Object>
Command command(std::string_view name, Object &object, std::string_view help) {
    using Target = typename detail::Signature<decltype(Method)>::Object;
    return {name, help, static_cast<Target *>(&object), &detail::run<Method>};
}

} // namespace rhea::monitor
