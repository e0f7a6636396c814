// ProbedRaw: a raw image whose format nobody stated. Passes everything on, but for writes that
// would make its first sector look like another format's: these fail with EPERM.
#pragma once
#include "block/node.h"

namespace rhea::block {

class ProbedRaw final : public Node {
public:
    explicit ProbedRaw(std::unique_ptr<Node> file);

    std::string_view format() const noexcept override { return "raw"; }
    Node *file() const noexcept override { return file_.get(); }
    Task<> close() override { return file_->close(); }

private:
    Task<> do_read(u64 at, ConstVectors into) override { return file_->read(at, into); }
    Task<> do_write(u64 at, ConstVectors from) override;
    Task<> do_write_zeroes(u64 at, u64 n, bool unmap) override {
        return file_->write_zeroes(at, n, unmap);
    }
    Task<> do_discard(u64 at, u64 n) override { return file_->discard(at, n); }
    Task<> do_flush() override { return file_->flush(); }
    Task<Extent> do_block_status(u64 at, u64 n) override { return file_->block_status(at, n); }
    Task<> do_truncate(u64 n) override;
    Task<> write_first(u64 at, ConstVectors from);

    std::unique_ptr<Node> file_;
};

} // namespace rhea::block
