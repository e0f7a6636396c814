// Trace points: named places in the code that can be made to print, off at the cost of one relaxed
// load.
//
//     TRACE_POINT(uart_write, "a register of the UART is written");     // in a .cc, at namespace
//     scope TRACE(uart_write, "at %u value 0x%02x", at, value);               // arguments are
//     evaluated only when on
//
// A point is a constant-initialised object in a section of its own; the linker lines them up, so
// there is no registration at start-up and a program has exactly the points of the code that it
// links. Points are turned on by glob patterns (`-trace 'ide_*'`), from any thread, and print one
// line each on standard error with the time since the program's first trace line.
#pragma once
#include "dm/core/types.h"
#include <atomic>
#include <span>
#include <string_view>

namespace rhea {

class alignas(32) TracePoint {
public:
    constexpr TracePoint(const char *name, const char *help) noexcept : name_(name), help_(help) {}
    TracePoint(const TracePoint &) = delete;
    TracePoint &operator=(const TracePoint &) = delete;

    bool on() const noexcept { return on_.load(std::memory_order_relaxed); }
    void turn(bool on) noexcept { on_.store(on, std::memory_order_relaxed); }
    const char *name() const noexcept { return name_; }
    const char *help() const noexcept { return help_; }

    [[gnu::format(printf, 2, 3)]] void print(const char *format, ...) const noexcept;

private:
    const char *name_;
    const char *help_;
    std::atomic<bool> on_{false};
};

// Every trace point of this program, in link order.
std::span<TracePoint> trace_points() noexcept;

// Turns every point whose name matches the glob pattern (* and ?) on or off; returns how many
// matched.
std::size_t trace_set(std::string_view pattern, bool on) noexcept;

bool glob_match(std::string_view pattern, std::string_view text) noexcept;

// A guest did what the data sheet forbids or nothing answers to. Printed when the trace point
// `guest_error` is on, at most 100 lines a second for the whole program; then one line says how
// many were left out.
#define guest_error(...)                                                                           \
    do {                                                                                           \
        if (::rhea::guest_errors_on()) [[unlikely]]                                                \
            ::rhea::guest_error_print(__VA_ARGS__);                                                \
    } while (false)

extern TracePoint trace_guest_error;
inline bool guest_errors_on() noexcept {
    return trace_guest_error.on();
}
[[gnu::format(printf, 1, 2)]] void guest_error_print(const char *format, ...) noexcept;

} // namespace rhea

#define TRACE_POINT(name, help)                                                                    \
    [[gnu::section("rhea_trace"), gnu::used]] static constinit ::rhea::TracePoint trace_##name {   \
#name, help                                                                                \
    }

#define TRACE(name, ...)                                                                           \
    do {                                                                                           \
        if (trace_##name.on()) [[unlikely]]                                                        \
            trace_##name.print(__VA_ARGS__);                                                       \
    } while (false)
