#include "hw/firmware/file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dm/core/config_error.h"

namespace rhea::hw {

File::File(const std::string &path) {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK); // a FIFO would block
    if (fd_ < 0)
        throw ConfigError(std::strerror(errno));
    struct stat s {};
    if (::fstat(fd_, &s) != 0 || !S_ISREG(s.st_mode)) {
        ::close(fd_);
        throw ConfigError(S_ISDIR(s.st_mode) ? "is a directory, a file is expected"
                                             : "is no regular file");
    }
    size_ = u64(s.st_size);
}

File::~File() {
    ::close(fd_);
}

void File::read(u64 at, std::span<u8> into) const {
    while (!into.empty()) {
        const ssize_t n = ::pread(fd_, into.data(), into.size(), off_t(at));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            throw ConfigError(std::string("cannot be read: ") + std::strerror(errno));
        if (n == 0)
            throw ConfigError("ends at byte " + std::to_string(at) + " while it is being read");
        into = into.subspan(usize(n));
        at += u64(n);
    }
}

} // namespace rhea::hw
