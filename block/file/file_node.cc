#include "block/file/file_node.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/file/file_lock.h"
#include "block/vectors.h"
#include "dm/core/bits.h"

namespace rhea::block {

namespace {

constexpr u64 bounce_size = u64{1} << 20;
constexpr u64 zeroes_size = u64{64} << 10;
alignas(4096) constexpr u8 zeroes[zeroes_size]{};

} // namespace

FileNode::FileNode(loop::Loop &loop, int fd, const std::string &name, const FileOptions &options)
    : Node(name), loop_(loop), fd_(fd), options_(options), writes_(loop) {}

FileNode::~FileNode() {
    ::close(fd_);
}

Result<std::unique_ptr<FileNode>> FileNode::open(loop::Loop &loop, const std::string &path,
                                                 const FileOptions &options) {
    const int flags = (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC |
                      (options.direct ? O_DIRECT : 0) | (options.write_through ? O_DSYNC : 0);
    const int fd = ::open(path.c_str(), flags);
    if (fd < 0)
        return options.direct && errno == EINVAL
                   ? fail(EINVAL, path + ": its file system has no direct I/O (cache=none)")
                   : fail_errno(path);
    return adopt(loop, fd, path, options);
}

Result<std::unique_ptr<FileNode>> FileNode::adopt(loop::Loop &loop, int fd, const std::string &name,
                                                  const FileOptions &options) {
    std::unique_ptr<FileNode> node(new FileNode(loop, fd, name, options));
    TRY(node->inspect());
    if (options.lock)
        TRY(lock_file(fd, name,
                      {.write = !options.read_only,
                       .resize = !options.read_only,
                       .share_write = options.share_writers,
                       .share_resize = options.share_writers}));
    return node;
}

Result<> FileNode::inspect() {
    struct stat s {};
    if (fstat(fd_, &s) != 0)
        return fail_errno(name());
    device_ = S_ISBLK(s.st_mode);
    if (!device_ && !S_ISREG(s.st_mode))
        return fail(S_ISDIR(s.st_mode) ? EISDIR : EINVAL,
                    name() + ": neither a file nor a block device");
    const off_t end = lseek(fd_, 0, SEEK_END);
    if (end < 0)
        return fail_errno(name());
    if (options_.direct) {
        block_ = memory_block_ = 4096; // where the kernel does not say
        int sector = 0;
        if (device_ && ioctl(fd_, BLKSSZGET, &sector) == 0 && sector > 0)
            block_ = memory_block_ = static_cast<u32>(sector);
#ifdef STATX_DIOALIGN
        struct statx x {};
        if (!device_ && statx(fd_, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) == 0 &&
            (x.stx_mask & STATX_DIOALIGN) && x.stx_dio_offset_align) {
            block_ = x.stx_dio_offset_align;
            memory_block_ = x.stx_dio_mem_align;
        }
#endif
    }
    set_read_only(options_.read_only);
    set_growable(options_.growable && !device_);
    exact_ = static_cast<u64>(end);
    set_length(align_up(exact_, sector_size));
    return {};
}

Error FileNode::named(const Error &e) const {
    return {e.code, name() + ": " + e.what};
}

bool FileNode::aligned(u64 at, ConstVectors v) const noexcept {
    if (block_ == 1)
        return true;
    if (!is_aligned(at, block_))
        return false;
    return std::ranges::all_of(v, [&](const iovec &i) {
        return is_aligned(i.iov_len, block_) &&
               is_aligned(reinterpret_cast<u64>(i.iov_base), memory_block_);
    });
}

void FileNode::extended_to(u64 end) noexcept {
    if (end > exact_) {
        exact_ = end;
        set_length(std::max(length(), align_up(end, sector_size)));
    }
}

// --- data

Task<> FileNode::do_read(u64 at, ConstVectors into) {
    return aligned(at, into) ? read_at(at, into) : read_bounced(at, into);
}

Task<> FileNode::read_at(u64 at, ConstVectors into) {
    u64 left = total(into), done = 0;
    while (left) {
        // The first try takes the caller's list as it is; what a short read left, and lists that
        // are too long for one call, are cut.
        const bool whole = done == 0 && into.size() <= IOV_MAX;
        Slice rest(into, done, whole && into.size() > 1 ? 0 : left);
        ConstVectors v = whole ? into : rest.vectors();
        v = v.first(std::min<usize>(v.size(), IOV_MAX));
        const auto r = co_await loop_.readv(fd_, v, at + done).caught();
        if (!r) {
            const Error e = named(r.error());
            co_await loop::raise(e);
        }
        if (*r == 0) { // the end of the file: the rest of its last sector is zero
            fill_zero(into, done, left);
            co_return;
        }
        done += static_cast<u64>(*r);
        left -= static_cast<u64>(*r);
    }
}

Task<> FileNode::write_at(u64 at, ConstVectors from) {
    u64 left = total(from), done = 0;
    while (left) {
        const bool whole = done == 0 && from.size() <= IOV_MAX;
        Slice rest(from, done, whole && from.size() > 1 ? 0 : left);
        ConstVectors v = whole ? from : rest.vectors();
        v = v.first(std::min<usize>(v.size(), IOV_MAX));
        const auto r = co_await loop_.writev(fd_, v, at + done).caught();
        if (!r || *r == 0) {
            const Error e = r ? named({EIO, "write: no progress"}) : named(r.error());
            co_await loop::raise(e);
        }
        done += static_cast<u64>(*r);
        left -= static_cast<u64>(*r);
    }
    extended_to(at + done);
}

Task<> FileNode::read_bounced(u64 at, ConstVectors into) {
    const u64 end = at + total(into);
    Buffer bounce(std::min(align_up(end, block_) - align_down(at, block_), bounce_size));
    for (u64 p = at; p < end;) {
        const u64 begin = align_down(p, block_);
        const u64 n = std::min<u64>(align_up(end, block_) - begin, bounce.size());
        const iovec v{bounce.data(), n};
        co_await read_at(begin, ConstVectors(&v, 1));
        const u64 take = std::min(end, begin + n) - p;
        copy_in(into, p - at, bounce.span().subspan(p - begin, take));
        p += take;
    }
}

Task<> FileNode::do_write(u64 at, ConstVectors from) {
    if (block_ == 1)
        return write_at(at, from);
    return write_locked(at, from, aligned(at, from));
}

Task<> FileNode::write_locked(u64 at, ConstVectors from, bool straight) {
    const u64 begin = align_down(at, block_), end = align_up(at + total(from), block_);
    const bool around = begin != at || end != at + total(from); // others' bytes are written too
    const auto held = co_await writes_.acquire(begin, end - begin, around);
    auto task = straight ? write_at(at, from) : write_bounced(at, from);
    const auto r = co_await task.caught();
    writes_.release(held);
    if (!r)
        co_await loop::raise(r.error());
}

Task<> FileNode::write_bounced(u64 at, ConstVectors from) {
    const u64 end = at + total(from);
    const u64 before = exact_;
    Buffer bounce(std::min(align_up(end, block_) - align_down(at, block_), bounce_size));
    for (u64 p = at; p < end;) {
        const u64 begin = align_down(p, block_);
        const u64 n = std::min<u64>(align_up(end, block_) - begin, bounce.size());
        const u64 take = std::min(end, begin + n) - p;
        const iovec v{bounce.data(), n};
        const iovec first{bounce.data(), block_};
        const iovec last{bounce.data() + n - block_, block_};
        if (begin != p || take < block_)
            co_await read_at(begin, ConstVectors(&first, 1));
        if (begin + n != p + take && n > block_)
            co_await read_at(begin + n - block_, ConstVectors(&last, 1));
        copy_out(from, p - at, bounce.span().subspan(p - begin, take));
        co_await write_at(begin, ConstVectors(&v, 1));
        p += take;
    }
    // The file keeps the length that it would have without rounding up to blocks.
    if (const u64 want = std::max(before, end); exact_ > want && !device_) {
        if (ftruncate(fd_, static_cast<off_t>(want)) == 0)
            exact_ = want;
    }
}

Task<> FileNode::do_flush() {
    if (options_.no_flush)
        co_return;
    const auto r = co_await loop_.sync(fd_, true).caught();
    if (!r) {
        const Error e = named(r.error());
        co_await loop::raise(e);
    }
}

// --- zeroes, holes, length

Task<> FileNode::write_zero_bytes(u64 at, u64 length) {
    for (u64 done = 0; done < length;) {
        const u64 n = std::min(length - done, zeroes_size);
        const iovec v{const_cast<u8 *>(zeroes), n};
        co_await do_write(at + done, ConstVectors(&v, 1));
        done += n;
    }
}

Task<> FileNode::do_write_zeroes(u64 at, u64 length, bool may_unmap) {
    // Inside the last, incomplete sector of a file the calls below would not extend it: they need
    // not, it reads as zeroes there.
    if (may_unmap && can_punch_) {
        const auto r =
            co_await loop_.allocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length)
                .caught();
        if (r)
            co_return;
        can_punch_ = r.error().code != EOPNOTSUPP && r.error().code != ENOSYS;
    }
    if (can_zero_) {
        const auto r =
            co_await loop_.allocate(fd_, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, at, length)
                .caught();
        if (r)
            co_return;
        can_zero_ = r.error().code != EOPNOTSUPP && r.error().code != ENOSYS;
    }
    co_await write_zero_bytes(at, length);
}

Task<> FileNode::do_discard(u64 at, u64 length) {
    if (!options_.unmap || !can_punch_)
        co_return;
    // A hint: that the file system has no holes, or wants larger pieces, is no error.
    const auto r =
        co_await loop_.allocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, length)
            .caught();
    if (!r)
        can_punch_ = r.error().code != EOPNOTSUPP && r.error().code != ENOSYS;
}

Task<Extent> FileNode::do_block_status(u64 at, u64 n) {
    Extent e{.length = n, .allocated = true, .has_offset = true, .offset = at};
    if (device_)
        co_return e;
    const off_t data = lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) { // nothing but a hole up to the end
        e.zero = true;
        co_return e;
    }
    if (data < 0)
        co_return e; // cannot say: data
    if (static_cast<u64>(data) > at) {
        e.zero = true;
        e.length = std::min(n, static_cast<u64>(data) - at);
        co_return e;
    }
    const off_t hole = lseek(fd_, static_cast<off_t>(at), SEEK_HOLE);
    if (hole > static_cast<off_t>(at) && static_cast<u64>(hole) < exact_)
        e.length = std::min(n, static_cast<u64>(hole) - at);
    co_return e;
}

Task<> FileNode::do_truncate(u64 want) {
    if (device_) {
        const Error e = named({ENOTSUP, "a device's length cannot be changed"});
        co_await loop::raise(e);
    }
    if (ftruncate(fd_, static_cast<off_t>(want)) != 0) {
        const Error e = named({errno, "truncate"});
        co_await loop::raise(e);
    }
    exact_ = want;
    set_length(align_up(want, sector_size));
}

} // namespace rhea::block
