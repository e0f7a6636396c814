// ConfigError: what is wrong with a configuration, thrown only before the guest runs and for
// hot-plug.
//
// The text names the option, what was wrong with it, and what would be right; each entry point
// (main, a QMP command) catches it in one place and shows it as it is.
#pragma once
#include <stdexcept>

namespace rhea {

class ConfigError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

} // namespace rhea
