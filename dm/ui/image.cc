#include "dm/ui/image.h"

#include "dm/core/endian.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>
#include <zlib.h>

namespace rhea::ui {

namespace {

void put_rgb(std::vector<u8> &to, u32 pixel) {
    to.push_back(static_cast<u8>(pixel >> 16));
    to.push_back(static_cast<u8>(pixel >> 8));
    to.push_back(static_cast<u8>(pixel));
}

void put_be32(std::vector<u8> &to, u32 value) {
    to.resize(to.size() + 4);
    store_be<u32>(&to[to.size() - 4], value);
}

// 5.3: length, type, data, CRC of type and data.
void put_chunk(std::vector<u8> &to, std::string_view type, std::span<const u8> data) {
    put_be32(to, static_cast<u32>(data.size()));
    const std::size_t start = to.size();
    to.insert(to.end(), type.begin(), type.end());
    to.insert(to.end(), data.begin(), data.end());
    put_be32(to, static_cast<u32>(crc32_z(0, &to[start], to.size() - start)));
}

Result<> failure(int code, const std::string &what) {
    return fail(code, what);
}

Result<> write_file(std::span<const u8> bytes, const std::string &path) {
    const std::string fresh = path + ".new";
    const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return failure(errno, fresh);
    int error = 0;
    while (!bytes.empty() && !error) {
        const ssize_t n = ::write(fd, bytes.data(), bytes.size());
        if (n > 0)
            bytes = bytes.subspan(static_cast<std::size_t>(n));
        else if (n == 0 || errno != EINTR)
            error = n == 0 ? EIO : errno;
    }
    if (::close(fd) != 0 && !error)
        error = errno;
    if (!error && std::rename(fresh.c_str(), path.c_str()) != 0)
        error = errno;
    if (!error)
        return {};
    ::unlink(fresh.c_str());
    return failure(error, path);
}

} // namespace

std::vector<u8> encode_ppm(const Surface &surface) {
    const std::string head =
        "P6\n" + std::to_string(surface.width) + ' ' + std::to_string(surface.height) + "\n255\n";
    std::vector<u8> out(head.begin(), head.end());
    out.reserve(out.size() + 3 * surface.pixels.size());
    for (const u32 pixel : surface.pixels)
        put_rgb(out, pixel);
    return out;
}

std::vector<u8> encode_png(const Surface &surface) {
    std::vector<u8> header;
    put_be32(header, surface.width);
    put_be32(header, surface.height);
    for (const u8 b :
         std::to_array<u8>({8, 2, 0, 0, 0})) // bits, RGB, deflate, filters, not interlaced
        header.push_back(b);
    std::vector<u8> rows;
    rows.reserve((3 * std::size_t{surface.width} + 1) * surface.height);
    for (u32 y = 0; y < surface.height; ++y) {
        rows.push_back(0); // no filter
        for (const u32 pixel : surface.row(y))
            put_rgb(rows, pixel);
    }
    uLongf size = compressBound(rows.size());
    std::vector<u8> packed(size);
    // It cannot fail: the buffer is as large as it may become.
    compress2(packed.data(), &size, rows.data(), rows.size(), Z_DEFAULT_COMPRESSION);
    packed.resize(size);

    std::vector<u8> out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    put_chunk(out, "IHDR", header);
    put_chunk(out, "IDAT", packed);
    put_chunk(out, "IEND", {});
    return out;
}

Result<> write_ppm(const Surface &surface, const std::string &path) {
    return write_file(encode_ppm(surface), path);
}
Result<> write_png(const Surface &surface, const std::string &path) {
    return write_file(encode_png(surface), path);
}

} // namespace rhea::ui
