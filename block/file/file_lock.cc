#include "block/file/file_lock.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace rhea::block {

namespace {

struct Bit {
    bool Permissions::*used;
    bool Permissions::*shared;
    i64 number;
};
constexpr Bit bits[] = {{&Permissions::read, &Permissions::share_read, 0},
                        {&Permissions::write, &Permissions::share_write, 1},
                        {&Permissions::resize, &Permissions::share_resize, 3}};

struct flock one_byte(i64 at, int type) {
    struct flock l {};
    l.l_type = static_cast<short>(type);
    l.l_whence = SEEK_SET;
    l.l_start = at;
    l.l_len = 1;
    return l;
}

bool unsupported(int code) {
    return code == ENOLCK || code == EOPNOTSUPP || code == EINVAL;
}

using Directory = std::unique_ptr<DIR, int (*)(DIR *)>;
Directory open_directory(const std::string &path) {
    return {opendir(path.c_str()), closedir};
}

/// A descriptor of `process` has locks on this file, which is not our descriptor `own`.
bool holds(const std::string &process, const struct stat &file, int own) {
    const Directory d = open_directory(process + "/fd");
    if (!d)
        return false;
    while (const dirent *e = readdir(d.get())) {
        struct stat s {};
        if (e->d_name[0] == '.' || (own >= 0 && std::to_string(own) == e->d_name) ||
            stat((process + "/fd/" + e->d_name).c_str(), &s) != 0 || s.st_dev != file.st_dev ||
            s.st_ino != file.st_ino)
            continue;
        std::ifstream info(process + "/fdinfo/" + e->d_name);
        for (std::string line; std::getline(info, line);)
            if (line.find("OFDLCK") != std::string::npos)
                return true;
    }
    return false;
}

} // namespace

std::string lock_holders(int fd) {
    struct stat file {};
    std::string names;
    const Directory d = open_directory("/proc");
    if (!d || fstat(fd, &file) != 0)
        return names;
    while (const dirent *e = readdir(d.get())) {
        const std::string_view pid = e->d_name;
        if (pid.empty() || !std::ranges::all_of(pid, [](char c) { return c >= '0' && c <= '9'; }))
            continue;
        const std::string process = "/proc/" + std::string(pid);
        if (!holds(process, file, pid == std::to_string(getpid()) ? fd : -1))
            continue;
        std::string name = "a program";
        std::ifstream comm(process + "/comm");
        std::getline(comm, name);
        names += (names.empty() ? "" : ", ") + name + " (pid " + std::string(pid) + ")";
    }
    return names;
}

Result<> lock_file(int fd, const std::string &name, const Permissions &p) {
    const auto set = [&](i64 at, int type) {
        struct flock l = one_byte(at, type);
        return fcntl(fd, F_OFD_SETLK, &l) == 0 ? 0 : errno;
    };
    const auto others = [&](i64 at) { // somebody else has this byte
        struct flock l = one_byte(at, F_WRLCK);
        return fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
    };
    bool conflict = false;
    for (const Bit &b : bits)
        for (const i64 at : {p.*b.used ? 100 + b.number : 0, p.*b.shared ? 0 : 200 + b.number}) {
            const int code = at ? set(at, F_RDLCK) : 0;
            if (unsupported(code))
                return {};
            conflict |= code != 0;
        }
    // Ours are in place before we look, so that of two that start together at least one gives way.
    for (const Bit &b : bits)
        conflict |=
            (p.*b.used && others(200 + b.number)) || (!(p.*b.shared) && others(100 + b.number));
    if (!conflict)
        return {};
    for (const Bit &b : bits) {
        set(100 + b.number, F_UNLCK);
        set(200 + b.number, F_UNLCK);
    }
    const std::string holders = lock_holders(fd);
    return fail(EAGAIN,
                name + ": is in use by " +
                    (holders.empty() ? "a program that is not visible from here" : holders));
}

} // namespace rhea::block
