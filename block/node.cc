#include "block/node.h"

#include <algorithm>
#include <cerrno>

#include "block/vectors.h"
#include "dm/core/log.h"

namespace rhea::block {

namespace {

Task<> nothing() {
    co_return;
}

Task<> refuse(int code, const std::string &name, const char *why) {
    const std::string text = name + ": " + why;
    co_await loop::raise(code, text);
}

Task<Extent> refuse_status(const std::string &name) {
    const std::string text = name + ": beyond the end";
    co_await loop::raise(EINVAL, text);
    co_return Extent{};
}

} // namespace

Task<> Node::read(u64 at, ConstVectors into) {
    const u64 n = total(into);
    if (!inside(at, n))
        return refuse(EINVAL, name_, "a read beyond the end");
    return n ? do_read(at, into) : nothing();
}

Task<> Node::write(u64 at, ConstVectors from) {
    const u64 n = total(from);
    if (read_only_)
        return refuse(EROFS, name_, "is read-only");
    if (!inside(at, n) && (!growable_ || at > u64{1} << 62))
        return refuse(EINVAL, name_, "a write beyond the end");
    return n ? do_write(at, from) : nothing();
}

Task<> Node::write_zeroes(u64 at, u64 length, bool may_unmap) {
    if (read_only_)
        return refuse(EROFS, name_, "is read-only");
    if (!inside(at, length))
        return refuse(EINVAL, name_, "a write beyond the end");
    return length ? do_write_zeroes(at, length, may_unmap) : nothing();
}

Task<> Node::discard(u64 at, u64 length) {
    if (read_only_)
        return refuse(EROFS, name_, "is read-only");
    if (!inside(at, length))
        return refuse(EINVAL, name_, "a discard beyond the end");
    return length ? do_discard(at, length) : nothing();
}

Task<> Node::flush() {
    return read_only_ ? nothing() : do_flush();
}

Task<Extent> Node::block_status(u64 at, u64 length) {
    if (at >= length_ || !length)
        return refuse_status(name_);
    return do_block_status(at, std::min(length, length_ - at));
}

Task<> Node::truncate(u64 length) {
    if (read_only_)
        return refuse(EROFS, name_, "is read-only");
    return do_truncate(length);
}

Task<> Node::do_truncate(u64) {
    return refuse(ENOTSUP, name_, "its length cannot be changed");
}

Task<> Node::close() {
    return flush();
}

Task<> Node::read_span(u64 at, std::span<u8> into) {
    const iovec v{into.data(), into.size()};
    co_await read(at, ConstVectors(&v, 1));
}
Task<> Node::write_span(u64 at, std::span<const u8> from) {
    const iovec v{const_cast<u8 *>(from.data()), from.size()};
    co_await write(at, ConstVectors(&v, 1));
}
Task<> Node::read(u64 at, std::span<u8> into) {
    return read_span(at, into);
}
Task<> Node::write(u64 at, std::span<const u8> from) {
    return write_span(at, from);
}

Result<Node::Use> Node::use(std::string_view who, const Permissions &p) {
    if ((p.write || p.resize) && read_only_)
        return fail(EROFS, name_ + ": is read-only");
    for (const Claim *c : claims_) {
        const Permissions &q = c->permissions;
        const bool read = (p.read && !q.share_read) || (q.read && !p.share_read);
        const bool write = (p.write && !q.share_write) || (q.write && !p.share_write);
        const bool resize = (p.resize && !q.share_resize) || (q.resize && !p.share_resize);
        if (read || write || resize)
            return fail(EBUSY, name_ + ": " + std::string(who) + " cannot " +
                                   (write    ? "share writing"
                                    : resize ? "share resizing"
                                             : "share reading") +
                                   " with " + c->who + ", which uses it");
    }
    auto claim = std::make_unique<Claim>(Claim{std::string(who), p});
    claims_.push_back(claim.get());
    return Use(*this, std::move(claim));
}

Node::Use::~Use() {
    if (node_)
        std::erase(node_->claims_, claim_.get());
}

// --- Disk

void Request::run() noexcept {
    disk_->requests_.spawn(disk_->serve(*this));
}

Disk::Disk(loop::Loop &loop, std::unique_ptr<Node> root)
    : loop_(loop), root_(std::move(root)), requests_(loop), length_(root_->length()),
      read_only_(root_->read_only()) {
    if (auto use = root_->use("a device", {.write = !read_only_, .resize = !read_only_}))
        use_ = std::move(*use);
}

Disk::~Disk() {
    if (auto r = requests_.join(); !r)
        RHEA_LOG(warning, "%s", to_string(r.error()).c_str());
    if (auto r = loop_.block_on(root_->close()); !r)
        RHEA_LOG(error, "closing the disk failed: %s", to_string(r.error()).c_str());
}

Task<> Disk::serve(Request &request) {
    const auto begin = [&]() -> Task<> {
        switch (request.kind) {
        case Request::Kind::read: return root_->read(request.at, request.data);
        case Request::Kind::write: return root_->write(request.at, request.data);
        case Request::Kind::write_zeroes:
            return root_->write_zeroes(request.at, request.length, request.may_unmap);
        case Request::Kind::discard: return root_->discard(request.at, request.length);
        case Request::Kind::flush: break;
        }
        return root_->flush();
    };
    auto task = begin();
    const auto result = co_await task.caught();
    request.completed(result);
}

Task<> Disk::resize(u64 length) {
    co_await root_->truncate(length);
    length_.store(root_->length(), std::memory_order_relaxed);
    resized_();
}

} // namespace rhea::block
