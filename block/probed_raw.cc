#include "block/probed_raw.h"

#include <array>
#include <cerrno>

#include "block/open.h"
#include "block/vectors.h"

namespace rhea::block {

ProbedRaw::ProbedRaw(std::unique_ptr<Node> file) : Node(file->name()), file_(std::move(file)) {
    set_read_only(file_->read_only());
    set_length(file_->length());
}

Task<> ProbedRaw::do_write(u64 at, ConstVectors from) {
    return at < sector_size ? write_first(at, from) : file_->write(at, from);
}

Task<> ProbedRaw::write_first(u64 at, ConstVectors from) {
    std::array<u8, sector_size> sector{};
    co_await file_->read(0, std::span<u8>(sector));
    const u64 n = std::min(total(from), sector_size - at);
    copy_out(from, 0, std::span<u8>(sector).subspan(at, n));
    if (probe_format(sector) != "raw") {
        const Error e{EPERM, name() + ": a write that would make this image look like another "
                                      "format; give its format (format=raw) to allow it"};
        co_await loop::raise(e);
    }
    co_await file_->write(at, from);
}

Task<> ProbedRaw::do_truncate(u64 n) {
    co_await file_->truncate(n);
    set_length(file_->length());
}

} // namespace rhea::block
