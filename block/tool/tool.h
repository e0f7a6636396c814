// What the commands of rhea-img share: arguments, messages, opening images, progress.
//
// One thread and one loop; a command is a function from its words to an exit status. What is wrong
// with the arguments or an image is a ConfigError, caught in main.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/node.h"
#include "block/open.h"
#include "block/qcow2/image.h"
#include "dm/core/config_error.h"

namespace rhea::tool {

/// The words behind a command's name, sorted into options and operands.
class Arguments {
public:
    /// `flags`: letters or long names without an argument, separated by blanks; `valued`: with one.
    /// Letters may be joined ("-cp", "-fraw"), long ones written "--output json" or with "=".
    Arguments(std::span<char *const> words, std::string_view flags, std::string_view valued);

    bool has(std::string_view name) const { return values_.contains(std::string(name)); }
    /// The last value given, or `otherwise`.
    std::string value(std::string_view name, std::string_view otherwise = "") const;
    std::vector<std::string> all(std::string_view name) const;
    /// Throws unless there are between `least` and `most` operands.
    const std::vector<std::string> &operands(usize least, usize most) const;
    /// --output=json (true) or human.
    bool json() const;

private:
    std::map<std::string, std::vector<std::string>> values_;
    std::vector<std::string> operands_;
};

/// "key=value,..." of all -o, in order.
std::map<std::string, std::string> key_values(const std::vector<std::string> &options);

template <class T> T checked(Result<T> r) {
    if (!r)
        throw ConfigError(to_string(r.error()));
    return detail::take(std::move(r));
}

/// Never probes for raw when `format` is given; read-only unless `writable`.
std::unique_ptr<block::Node> open(loop::Loop &loop, const std::string &path,
                                  const std::string &format, bool writable,
                                  const Arguments &arguments, bool backing = true);
/// As qcow2, or says that it is not.
block::qcow2::Image *as_qcow2(block::Node &node) noexcept;

/// Makes the file, empty, and the image in it. Returns the words that describe it.
std::string create_image(loop::Loop &loop, const std::string &path, const std::string &format,
                         u64 size, std::map<std::string, std::string> options);

/// "1 GiB", "1.5 MiB": three digits at most behind the point.
std::string human_size(u64 bytes);

/// A line "    (12.34/100%)" that is drawn again, with rate and time left; on SIGUSR1 one line.
class Progress {
public:
    Progress(bool shown, u64 total);
    ~Progress();
    void add(u64 bytes);

private:
    void draw(bool line);
    bool shown_;
    u64 total_, done_ = 0;
    i64 begin_ = 0, drawn_ = 0;
};

int command_create(loop::Loop &loop, std::span<char *const> words);
int command_info(loop::Loop &loop, std::span<char *const> words);
int command_convert(loop::Loop &loop, std::span<char *const> words);
int command_check(loop::Loop &loop, std::span<char *const> words);
int command_resize(loop::Loop &loop, std::span<char *const> words);
int command_snapshot(loop::Loop &loop, std::span<char *const> words);
int command_map(loop::Loop &loop, std::span<char *const> words);
int command_compare(loop::Loop &loop, std::span<char *const> words);

} // namespace rhea::tool
