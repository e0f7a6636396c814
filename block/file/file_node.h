// FileNode: a file or a block device of the host, its bytes as they are, by io_uring.
//
// Holes are told by SEEK_DATA; zeroes and discards are FALLOC_FL_ZERO_RANGE and PUNCH_HOLE, or
// written where the file system has neither. With `direct` the page cache is passed by (O_DIRECT):
// requests that are not aligned as the file system wants go through a bounce buffer, and unaligned
// writes read what is around them, excluding other writes to the same blocks meanwhile.
#pragma once
#include "block/node.h"
#include "block/sync.h"

namespace rhea::block {

struct FileOptions {
    bool read_only = false;
    bool direct = false;        // O_DIRECT
    bool no_flush = false;      // cache=unsafe: flush does nothing
    bool write_through = false; // each write is stable when it ends
    bool unmap = true;          // discard is passed on; otherwise it does nothing
    bool growable = false;      // writes beyond the end extend it
    bool lock = true;           // refuse a file that others use
    bool share_writers = false; // a reader that does not mind somebody writing
};

class FileNode final : public Node {
public:
    /// Opens with blocking system calls: configuration time. The name is the path, or of form
    /// file:PATH.
    static Result<std::unique_ptr<FileNode>> open(loop::Loop &loop, const std::string &path,
                                                  const FileOptions &options);
    /// Takes over a descriptor (an unlinked temporary file, or one that a manager passed).
    static Result<std::unique_ptr<FileNode>>
    adopt(loop::Loop &loop, int fd, const std::string &name, const FileOptions &options);
    ~FileNode() override;

    std::string_view format() const noexcept override { return device_ ? "host_device" : "file"; }
    /// As the host has it: not rounded up to sectors.
    u64 exact_length() const noexcept { return exact_; }
    int fd() const noexcept { return fd_; }

private:
    FileNode(loop::Loop &loop, int fd, const std::string &name, const FileOptions &options);
    Result<> inspect();

    Task<> do_read(u64 at, ConstVectors into) override;
    Task<> do_write(u64 at, ConstVectors from) override;
    Task<> do_write_zeroes(u64 at, u64 length, bool may_unmap) override;
    Task<> do_discard(u64 at, u64 length) override;
    Task<> do_flush() override;
    Task<Extent> do_block_status(u64 at, u64 length) override;
    Task<> do_truncate(u64 length) override;

    bool aligned(u64 at, ConstVectors v) const noexcept;
    Task<> read_at(u64 at, ConstVectors into);
    Task<> write_at(u64 at, ConstVectors from);
    Task<> read_bounced(u64 at, ConstVectors into);
    Task<> write_bounced(u64 at, ConstVectors from);
    Task<> write_locked(u64 at, ConstVectors from, bool straight);
    Task<> write_zero_bytes(u64 at, u64 length);
    void extended_to(u64 end) noexcept;
    Error named(const Error &e) const;

    loop::Loop &loop_;
    int fd_;
    FileOptions options_;
    bool device_ = false;
    u32 block_ = 1;        // alignment of offsets and lengths
    u32 memory_block_ = 1; // and of memory
    u64 exact_ = 0;
    bool can_zero_ = true, can_punch_ = true; // until the file system said no
    RangeLock writes_;
};

} // namespace rhea::block
