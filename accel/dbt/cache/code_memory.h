#pragma once
// The memory that generated code lives in: one reservation, mapped twice (writable here, executable
// there), so that no page is ever both. Written by the thread that translates; executed by all.

#include "dm/core/types.h"

namespace rhea::dbt::cache {

class CodeMemory {
public:
    // `size`: bytes, rounded up to pages. `valid()` is false if the host refuses (then only the
    // interpreter can run).
    explicit CodeMemory(u64 size) noexcept;
    ~CodeMemory();
    CodeMemory(const CodeMemory &) = delete;
    CodeMemory &operator=(const CodeMemory &) = delete;

    bool valid() const noexcept { return writable_ != nullptr; }
    i64 executable_delta() const noexcept { return executable_ - writable_; }
    u8 *here() noexcept { return writable_ + used_; }
    u8 *end() noexcept { return writable_ + size_; }
    void take(u64 bytes) noexcept { used_ = (used_ + bytes + 15) & ~u64{15}; }
    void rewind(u64 used) noexcept { used_ = used; }
    u64 used() const noexcept { return used_; }
    u64 size() const noexcept { return size_; }

private:
    u8 *writable_ = nullptr, *executable_ = nullptr;
    u64 size_, used_ = 0;
};

} // namespace rhea::dbt::cache
