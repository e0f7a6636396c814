#include "block/memory_node.h"

#include <cerrno>

#include "block/vectors.h"
#include "dm/core/bits.h"

namespace rhea::block {

MemoryNode::MemoryNode(u64 length, bool growable, std::string name)
    : Node(std::move(name)), bytes_(align_up(length, sector_size)) {
    set_length(bytes_.size());
    set_growable(growable);
}

Task<> MemoryNode::do_read(u64 at, ConstVectors into) {
    copy_in(into, 0, std::span(bytes_).subspan(at, total(into)));
    co_return;
}

Task<> MemoryNode::do_write(u64 at, ConstVectors from) {
    const u64 end = at + total(from);
    constexpr u64 limit = u64{1} << 32; // a wild offset is not met with an allocation
    if (end > limit)
        co_await loop::raise(EFBIG, "memory");
    if (end > bytes_.size()) {
        bytes_.resize(align_up(end, sector_size));
        set_length(bytes_.size());
    }
    copy_out(from, 0, std::span(bytes_).subspan(at, end - at));
}

Task<> MemoryNode::do_write_zeroes(u64 at, u64 n, bool) {
    std::fill_n(bytes_.begin() + static_cast<i64>(at), n, u8{0});
    co_return;
}

Task<> MemoryNode::do_discard(u64, u64) {
    co_return;
}

Task<> MemoryNode::do_flush() {
    co_return;
}

Task<Extent> MemoryNode::do_block_status(u64 at, u64 n) {
    co_return Extent{.length = n, .allocated = true, .has_offset = true, .offset = at};
}

Task<> MemoryNode::do_truncate(u64 n) {
    bytes_.resize(align_up(n, sector_size));
    set_length(bytes_.size());
    co_return;
}

} // namespace rhea::block
