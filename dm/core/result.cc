#include "dm/core/result.h"
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace rhea {

tl::unexpected<Error> fail_errno(std::string what) {
    const int code = errno;
    return fail(code ? code : EIO, std::move(what));
}

std::string to_string(const Error &error) {
    if (!error.code)
        return error.what;
    char text[128];
    return error.what + ": " + strerror_r(error.code, text, sizeof text);
}

void verify_failed(const char *expression, const char *file, int line) noexcept {
    std::fprintf(stderr, "rhea: internal error at %s:%d: %s\n", file, line, expression);
    std::abort();
}

} // namespace rhea
