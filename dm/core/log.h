// Messages for the person who runs the program: "rhea: warning: ...", one line each, on standard
// error.
//
// Any thread; a line is written by one system call, so lines do not mix. What a developer wants to
// see is a trace point (trace.h) instead. A guest must not be able to make these lines without
// bound: use guest_error for that.
#pragma once

namespace rhea {

enum class Severity { info, warning, error };

[[gnu::format(printf, 2, 3)]] void log(Severity severity, const char *format, ...) noexcept;

#define RHEA_LOG(severity, ...) ::rhea::log(::rhea::Severity::severity, __VA_ARGS__)

} // namespace rhea
