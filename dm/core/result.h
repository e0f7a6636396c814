// Errors at run time: Error, Result<T>, TRY, and VERIFY for our own invariants.
//
// Result<T> is for what the host may refuse (a file, a socket, a system call) while the guest runs.
// A mistake in the configuration is a ConfigError (config_error.h) instead, and what a guest does
// wrong has a guest-visible outcome and never reaches this file. VERIFY is for invariants of our
// own code alone: no guest input, file or packet may reach it.
#pragma once
#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace rhea {

struct Error {
    int code = 0; // an errno value, never 0 in a failure
    std::string what;
};

template <class T = void> using Result = tl::expected<T, Error>;

inline tl::unexpected<Error> fail(int code, std::string what) {
    return tl::unexpected<Error>(Error{code, std::move(what)});
}

// From the calling thread's errno: fail_errno("open disk.img").
tl::unexpected<Error> fail_errno(std::string what);

// "open disk.img: No such file or directory"
std::string to_string(const Error &error);

[[noreturn]] void verify_failed(const char *expression, const char *file, int line) noexcept;

namespace detail {
template <class T> T take(Result<T> &&r) {
    return std::move(*r);
}
inline void take(Result<void> &&) {}
} // namespace detail

} // namespace rhea

#define VERIFY(x)                                                                                  \
    do {                                                                                           \
        if (!(x)) [[unlikely]]                                                                     \
            ::rhea::verify_failed(#x, __FILE__, __LINE__);                                         \
    } while (false)

#define RHEA_JOIN2(a, b) a##b
#define RHEA_JOIN(a, b) RHEA_JOIN2(a, b)
#define RHEA_TRY(name, ...)                                                                        \
    ({                                                                                             \
        auto name = (__VA_ARGS__);                                                                 \
        if (!name) [[unlikely]]                                                                    \
            return tl::unexpected<::rhea::Error>(std::move(name.error()));                         \
        ::rhea::detail::take(std::move(name));                                                     \
    })
// The value of a Result, or return its error from the enclosing function. Not in coroutines.
#define TRY(...) RHEA_TRY(RHEA_JOIN(try_result_, __COUNTER__), __VA_ARGS__)
