#include "dm/core/trace.h"
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <ctime>
#include <unistd.h>

// The linker defines these around the section of that name.
extern "C" {
extern rhea::TracePoint __start_rhea_trace[];
extern rhea::TracePoint __stop_rhea_trace[];
}

namespace rhea {

[[gnu::section("rhea_trace"), gnu::used]] constinit TracePoint trace_guest_error{
    "guest_error", "the guest did something that the hardware does not define"};

namespace {

i64 host_ns() noexcept {
    timespec t{};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return i64{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

// Nanoseconds since the first trace line of this program.
i64 trace_time() noexcept {
    static constinit std::atomic<i64> start{0};
    const i64 now = host_ns();
    i64 expected = 0;
    if (start.compare_exchange_strong(expected, now, std::memory_order_relaxed))
        return 0;
    return now - expected;
}

[[gnu::format(printf, 2, 0)]] void print_line(const char *name, const char *format,
                                              va_list args) noexcept {
    char line[1024];
    const i64 t = trace_time();
    int n = std::snprintf(line, sizeof line, "[%5ld.%06ld] %s: ", t / 1'000'000'000,
                          t / 1000 % 1'000'000, name);
    const int room = static_cast<int>(sizeof line) - 1;
    const int m = std::vsnprintf(line + n, static_cast<size_t>(room - n), format, args);
    n = std::clamp(n + m, n, room - 1);
    line[n++] = '\n';
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line, static_cast<size_t>(n));
}

} // namespace

void TracePoint::print(const char *format, ...) const noexcept {
    va_list args;
    va_start(args, format);
    print_line(name_, format, args);
    va_end(args);
}

std::span<TracePoint> trace_points() noexcept {
    return {__start_rhea_trace, __stop_rhea_trace};
}

bool glob_match(std::string_view pattern, std::string_view text) noexcept {
    // Iterative, with one point to come back to: linear but for the product of the two lengths at
    // worst.
    std::size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
    while (t < text.size()) {
        if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t]) &&
            pattern[p] != '*') {
            ++p, ++t;
        } else if (p < pattern.size() && pattern[p] == '*') {
            star = p++;
            mark = t;
        } else if (star != std::string_view::npos) {
            p = star + 1;
            t = ++mark;
        } else {
            return false;
        }
    }
    while (p < pattern.size() && pattern[p] == '*')
        ++p;
    return p == pattern.size();
}

std::size_t trace_set(std::string_view pattern, bool on) noexcept {
    std::size_t matched = 0;
    for (TracePoint &point : trace_points())
        if (glob_match(pattern, point.name())) {
            point.turn(on);
            ++matched;
        }
    return matched;
}

void guest_error_print(const char *format, ...) noexcept {
    constexpr u64 lines_per_second = 100;
    // Second of the current budget in the high half, lines used in the low half: one word, so no
    // lock.
    static constinit std::atomic<u64> budget{0};
    const u64 second = static_cast<u64>(host_ns() / 1'000'000'000);
    u64 seen = budget.load(std::memory_order_relaxed), next = 0;
    do
        next = seen >> 32 == (second & 0xffffffff) ? seen + 1 : second << 32 | 1;
    while (!budget.compare_exchange_weak(seen, next, std::memory_order_relaxed));
    const u64 left_out = seen >> 32 == next >> 32 ? 0 : seen & 0xffffffff;
    if (left_out > lines_per_second)
        trace_guest_error.print("%lu more like these were not shown", left_out - lines_per_second);
    if ((next & 0xffffffff) > lines_per_second)
        return;
    va_list args;
    va_start(args, format);
    print_line("guest_error", format, args);
    va_end(args);
}

} // namespace rhea
