#pragma once
// File: a file that the configuration names, read while the machine is put together. Errors are
// ConfigError with the reason alone; the caller puts the option and the name in front.
#include <span>
#include <string>

#include "dm/core/types.h"

namespace rhea::hw {

class File {
public:
    /// A regular file, for reading.
    explicit File(const std::string &path);
    ~File();
    File(const File &) = delete;
    File &operator=(const File &) = delete;

    u64 size() const { return size_; }
    /// All of `into`; that the file ends earlier is an error.
    void read(u64 at, std::span<u8> into) const;

private:
    int fd_ = -1;
    u64 size_ = 0;
};

} // namespace rhea::hw
