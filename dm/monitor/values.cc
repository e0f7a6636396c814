#include "dm/monitor/values.h"

namespace rhea::monitor::detail {

Error wrong_type(const std::string &path, const char *wanted) {
    return {EINVAL, "Invalid parameter type for '" + (path.empty() ? "arguments" : path) +
                        "', expected: " + wanted};
}

Error unexpected(const std::string &path, const std::string &key,
                 const std::vector<std::string> &known) {
    const std::vector<std::string_view> names(known.begin(), known.end());
    const std::string hint = config::did_you_mean(key, names);
    return {EINVAL, "Parameter '" + (path.empty() ? key : path + '.' + key) + "' is unexpected" +
                        (!hint.empty()   ? hint
                         : names.empty() ? std::string(" (there are none)")
                                         : " (known: " + config::join(names) + ")")};
}

} // namespace rhea::monitor::detail
