// MemoryNode: a disk in memory, for tests and scratch. Every request completes at once.
#pragma once
#include <vector>

#include "block/node.h"

namespace rhea::block {

class MemoryNode : public Node {
public:
    explicit MemoryNode(u64 length, bool growable = false, std::string name = "memory");

    std::string_view format() const noexcept override { return "memory"; }
    std::vector<u8> &bytes() noexcept { return bytes_; }

protected:
    Task<> do_read(u64 at, ConstVectors into) override;
    Task<> do_write(u64 at, ConstVectors from) override;
    Task<> do_write_zeroes(u64 at, u64 length, bool may_unmap) override;
    Task<> do_discard(u64 at, u64 length) override;
    Task<> do_flush() override;
    Task<Extent> do_block_status(u64 at, u64 length) override;
    Task<> do_truncate(u64 length) override;

private:
    std::vector<u8> bytes_;
};

} // namespace rhea::block
