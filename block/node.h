// Node: one layer of a disk image (a file, a format, a filter), and Disk: a tree of them as a
// device sees it.
//
// A node lives on one loop's thread: it is opened, used and destroyed there, and every request is a
// coroutine on that loop. Its parent owns it by unique_ptr. Requests may overlap in time, and are
// then in no order; what a request that ended has written is on stable storage once a flush that
// began after that has ended. Offsets and lengths are bytes.
//
// A device does not touch nodes. It is given a Disk and sends it Requests, from any thread:
//
//     struct Transfer final : block::Request {            // a member of the device, reused
//         void completed(const Result<> &r) noexcept override {   // on the loop's thread
//             device.enter([&] { ... DMA, status, irq ... });      // takes the device's lock
//         }
//     };
//     transfer.kind = block::Request::Kind::read;          // write, write_zeroes, discard, flush
//     transfer.at = lba * 512;
//     transfer.length = n * 512;
//     transfer.data = {iov, count};                        // memory that stays until completed()
//     disk.submit(transfer);                               // never blocks, allocates nothing here
//
// The lengths of `data` add up to `length`. A request outside of the disk completes with EINVAL, a
// write to a read-only disk with EROFS, what the host refuses with its errno (ENOSPC, EIO). The
// device checks its own limits before: these errors are a safety net, not a data sheet's behaviour.
#pragma once
#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <sys/uio.h>
#include <vector>

#include "dm/core/callback.h"
#include "dm/core/result.h"
#include "dm/core/types.h"
#include "dm/loop/loop.h"
#include "dm/loop/task.h"
#include "dm/loop/task_group.h"

namespace rhea::block {

using loop::Task;
using ConstVectors = std::span<const iovec>;

constexpr u64 sector_size = 512;

/// What is at a place of a node, and how far that holds.
struct Extent {
    u64 length = 0;
    bool allocated = false; // stored in this node; false: a backing node, or nothing, is behind it
    bool zero = false;      // reads as zeroes (and if not allocated: whatever is behind)
    bool compressed = false;
    bool has_offset = false; // the bytes stand as they are at `offset` of the file below
    u64 offset = 0;
};

/// What a user of a node does with it, and what it lets others do meanwhile.
struct Permissions {
    bool read = true;
    bool write = false;
    bool resize = false;
    bool share_read = true;
    bool share_write = false;
    bool share_resize = false;
};

class Node {
public:
    virtual ~Node() = default;
    Node(const Node &) = delete;
    Node &operator=(const Node &) = delete;

    /// A multiple of 512. A file that ends inside a sector reads as zeroes up to the sector's end.
    u64 length() const noexcept { return length_; }
    bool read_only() const noexcept { return read_only_; }
    /// What it is, for messages: the file's name.
    const std::string &name() const noexcept { return name_; }
    /// "file", "qcow2" ...
    virtual std::string_view format() const noexcept = 0;
    /// The file below, or null.
    virtual Node *file() const noexcept { return nullptr; }
    /// What is read where this node has nothing, or null.
    virtual Node *backing() const noexcept { return nullptr; }

    Task<> read(u64 at, ConstVectors into);
    Task<> write(u64 at, ConstVectors from);
    /// Reads back as zeroes; `may_unmap`: the space may be given back.
    Task<> write_zeroes(u64 at, u64 length, bool may_unmap);
    /// The bytes are not needed any more: they may keep their value, or become zeroes.
    Task<> discard(u64 at, u64 length);
    Task<> flush();
    /// Of the bytes from `at`, as many as have the same status, at most `length`, at least one.
    Task<Extent> block_status(u64 at, u64 length);
    /// Growing adds zeroes.
    Task<> truncate(u64 length);
    /// Writes back what is cached and marks the image clean. Before destruction; nothing may be
    /// in flight. Also after a failed one the node is good for nothing but destruction.
    virtual Task<> close();

    /// One piece of memory instead of a list. It stays until the task ended.
    Task<> read(u64 at, std::span<u8> into);
    Task<> write(u64 at, std::span<const u8> from);

    /// A claim on this node, held while the token lives. Refused with EBUSY and the name of whoever
    /// is in the way.
    class Use;
    Result<Use> use(std::string_view who, const Permissions &permissions);

protected:
    explicit Node(std::string name) : name_(std::move(name)) {}

    // In bounds (but for growable nodes' writes), not empty, and allowed when they are called.
    virtual Task<> do_read(u64 at, ConstVectors into) = 0;
    virtual Task<> do_write(u64 at, ConstVectors from) = 0;
    virtual Task<> do_write_zeroes(u64 at, u64 length, bool may_unmap) = 0;
    virtual Task<> do_discard(u64 at, u64 length) = 0;
    virtual Task<> do_flush() = 0;
    virtual Task<Extent> do_block_status(u64 at, u64 length) = 0;
    virtual Task<> do_truncate(u64 length);

    void set_length(u64 length) noexcept { length_ = length; }
    void set_read_only(bool on) noexcept { read_only_ = on; }
    /// Writes beyond the end extend it: a file under a format.
    void set_growable(bool on) noexcept { growable_ = on; }

private:
    Task<> read_span(u64 at, std::span<u8> into);
    Task<> write_span(u64 at, std::span<const u8> from);
    bool inside(u64 at, u64 length) const noexcept {
        return at <= length_ && length <= length_ - at;
    }
    struct Claim {
        std::string who;
        Permissions permissions;
    };
    std::string name_;
    u64 length_ = 0;
    bool read_only_ = false;
    bool growable_ = false;
    std::vector<const Claim *> claims_;
};

class Node::Use {
public:
    Use() = default;
    Use(Use &&o) noexcept : node_(std::exchange(o.node_, nullptr)), claim_(std::move(o.claim_)) {}
    Use &operator=(Use &&o) noexcept {
        std::swap(node_, o.node_);
        std::swap(claim_, o.claim_);
        return *this;
    }
    ~Use();

private:
    friend class Node;
    Use(Node &node, std::unique_ptr<Claim> claim) : node_(&node), claim_(std::move(claim)) {}
    Node *node_ = nullptr;
    std::unique_ptr<Claim> claim_;
};

class Disk;

/// What a device asks a Disk for. Belongs to the device; not touched, and not destroyed, between
/// submit() and completed().
class Request : private loop::Work {
public:
    enum class Kind : u8 { read, write, write_zeroes, discard, flush };

    Kind kind = Kind::read;
    bool may_unmap = false; // write_zeroes
    u64 at = 0;
    u64 length = 0;
    ConstVectors data; // read, write

    /// The loop's thread. The request may be submitted again, or destroyed, from here.
    virtual void completed(const Result<> &result) noexcept = 0;

protected:
    ~Request() = default;

private:
    friend class Disk;
    void run() noexcept final;
    Disk *disk_ = nullptr;
};

/// Owner of the root of a tree of nodes, and the way from a device's thread to it. Constructed and
/// destroyed on the loop's thread, after its device has stopped submitting.
class Disk {
public:
    Disk(loop::Loop &loop, std::unique_ptr<Node> root);
    /// Waits for what is in flight, flushes and closes the nodes (failures are logged).
    ~Disk();
    Disk(const Disk &) = delete;
    Disk &operator=(const Disk &) = delete;

    /// Any thread.
    u64 length() const noexcept { return length_.load(std::memory_order_relaxed); }
    bool read_only() const noexcept { return read_only_; }
    void submit(Request &request) noexcept {
        request.disk_ = this;
        loop_.post(static_cast<loop::Work &>(request));
    }

    /// The loop's thread: what is in flight has ended.
    Task<> drain() { return requests_.drain(); }
    /// The loop's thread: changes the length while the guest runs; `resized` tells the device.
    Task<> resize(u64 length);
    void set_resized(Callback resized) noexcept { resized_ = resized; }
    Node &root() noexcept { return *root_; }

private:
    friend class Request;
    Task<> serve(Request &request);

    loop::Loop &loop_;
    std::unique_ptr<Node> root_;
    Node::Use use_;
    loop::TaskGroup requests_;
    std::atomic<u64> length_;
    bool read_only_;
    Callback resized_;
};

} // namespace rhea::block
