#include "dm/core/log.h"
#include <cstdarg>
#include <cstdio>
#include <unistd.h>

namespace rhea {

void log(Severity severity, const char *format, ...) noexcept {
    static constexpr const char *prefix[] = {"rhea: ", "rhea: warning: ", "rhea: error: "};
    char line[1024];
    int n = std::snprintf(line, sizeof line, "%s", prefix[static_cast<int>(severity)]);
    va_list args;
    va_start(args, format);
    const int m =
        std::vsnprintf(line + n, sizeof line - static_cast<unsigned>(n) - 1, format, args);
    va_end(args);
    n = m < 0 ? n : n + m;
    if (n > static_cast<int>(sizeof line) - 2)
        n = static_cast<int>(sizeof line) - 2;
    line[n++] = '\n';
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line, static_cast<size_t>(n));
}

} // namespace rhea
