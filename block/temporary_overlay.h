// TemporaryOverlay: takes the writes to an image, which itself stays as it is; they are gone when
// it is closed (snapshot=on).
//
// What was written lies at its own offset in an unlinked sparse file (in TMPDIR or /var/tmp), and a
// bitmap in memory says which sectors are there: 32 KiB for each 128 MiB of image.
#pragma once
#include "block/node.h"

#include <vector>

namespace rhea::block {

class TemporaryOverlay final : public Node {
public:
    /// Configuration time. `base` may be read-only; its length stays what it is.
    static Result<std::unique_ptr<Node>> create(loop::Loop &loop, std::unique_ptr<Node> base);

    std::string_view format() const noexcept override { return "overlay"; }
    Node *file() const noexcept override { return written_.get(); }
    Node *backing() const noexcept override { return base_.get(); }
    Task<> close() override { return base_->close(); } // what was written need not stay

private:
    TemporaryOverlay(std::unique_ptr<Node> base, std::unique_ptr<Node> written);

    Task<> do_read(u64 at, ConstVectors into) override;
    Task<> do_write(u64 at, ConstVectors from) override;
    Task<> do_write_zeroes(u64 at, u64 length, bool may_unmap) override;
    Task<> do_discard(u64 at, u64 length) override;
    Task<> do_flush() override;
    Task<Extent> do_block_status(u64 at, u64 length) override;

    bool has(u64 sector) const noexcept { return map_[sector / 64] >> sector % 64 & 1; }
    /// How many bytes from `at`, at most `length`, are all written or all not.
    u64 stretch(u64 at, u64 length) const noexcept;
    void mark(u64 at, u64 length) noexcept;
    Task<> fill_edge(u64 sector);

    std::unique_ptr<Node> base_, written_;
    std::vector<u64> map_; // a bit a sector
};

} // namespace rhea::block
