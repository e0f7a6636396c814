#include "block/temporary_overlay.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

#include "block/file/file_node.h"
#include "block/vectors.h"

namespace rhea::block {

TemporaryOverlay::TemporaryOverlay(std::unique_ptr<Node> base, std::unique_ptr<Node> written)
    : Node(base->name()), base_(std::move(base)), written_(std::move(written)),
      map_((base_->length() / sector_size + 63) / 64) {
    set_length(base_->length());
}

Result<std::unique_ptr<Node>> TemporaryOverlay::create(loop::Loop &loop,
                                                       std::unique_ptr<Node> base) {
    const char *const set = std::getenv("TMPDIR");
    const std::string folder = set && *set ? set : "/var/tmp";
    std::string path = folder + "/rhea-XXXXXX";
    const int fd = ::mkostemp(path.data(), O_CLOEXEC);
    if (fd < 0)
        return fail_errno("a temporary file in " + folder);
    ::unlink(path.c_str());
    auto file = FileNode::adopt(loop, fd, folder + " (temporary)",
                                {.no_flush = true, .growable = true, .lock = false});
    if (!file)
        return tl::unexpected(file.error());
    std::unique_ptr<Node> written = std::move(*file);
    if (auto r = loop.block_on(written->truncate(base->length())); !r)
        return tl::unexpected(r.error());
    return std::unique_ptr<Node>(new TemporaryOverlay(std::move(base), std::move(written)));
}

u64 TemporaryOverlay::stretch(u64 at, u64 length) const noexcept {
    const u64 first = at / sector_size, end = (at + length + sector_size - 1) / sector_size;
    const bool here = has(first);
    u64 n = first + 1;
    while (n < end && has(n) == here)
        ++n;
    return std::min(n * sector_size - at, length);
}

void TemporaryOverlay::mark(u64 at, u64 length) noexcept {
    const u64 end = (at + length + sector_size - 1) / sector_size;
    for (u64 n = at / sector_size; n < end; ++n)
        map_[n / 64] |= u64{1} << n % 64;
}

Task<> TemporaryOverlay::do_read(u64 at, ConstVectors into) {
    const u64 all = total(into);
    for (u64 done = 0; done < all;) {
        const u64 n = stretch(at + done, all - done);
        Node &from = has((at + done) / sector_size) ? *written_ : *base_;
        const Slice piece(into, done, n);
        co_await from.read(at + done, piece.vectors());
        done += n;
    }
}

// A sector of which a part is written is completed from the base first.
Task<> TemporaryOverlay::fill_edge(u64 sector) {
    if (has(sector))
        co_return;
    std::array<u8, sector_size> bytes;
    const std::span<u8> all(bytes);
    const std::span<const u8> same(bytes);
    co_await base_->read(sector * sector_size, all);
    co_await written_->write(sector * sector_size, same);
    mark(sector * sector_size, sector_size);
}

Task<> TemporaryOverlay::do_write(u64 at, ConstVectors from) {
    const u64 n = total(from), end = at + n;
    if (at % sector_size)
        co_await fill_edge(at / sector_size);
    if (end % sector_size)
        co_await fill_edge(end / sector_size);
    co_await written_->write(at, from);
    mark(at, n);
}

Task<> TemporaryOverlay::do_write_zeroes(u64 at, u64 length, bool may_unmap) {
    const u64 end = at + length;
    if (at % sector_size)
        co_await fill_edge(at / sector_size);
    if (end % sector_size)
        co_await fill_edge(end / sector_size);
    co_await written_->write_zeroes(at, length, may_unmap);
    mark(at, length);
}

Task<> TemporaryOverlay::do_discard(u64, u64) {
    co_return; // the bytes may keep their value
}

Task<> TemporaryOverlay::do_flush() {
    co_return; // nothing of it outlives the program
}

Task<Extent> TemporaryOverlay::do_block_status(u64 at, u64 length) {
    const u64 n = stretch(at, length);
    if (!has(at / sector_size))
        co_return Extent{.length = n};
    auto extent = co_await written_->block_status(at, n);
    extent.allocated = true;
    extent.has_offset = false;
    co_return extent;
}

} // namespace rhea::block
