// full_fence: no later load passes an earlier store, for plain memory that a guest or another
// master also writes.
//
// Not std::atomic_thread_fence, which ThreadSanitizer does not model and GCC warns about.
#pragma once
#include <atomic>

namespace rhea {

inline void full_fence() noexcept {
#if defined(__x86_64__)
    asm volatile("lock; orl $0, (%%rsp)" ::: "memory", "cc");
#else
    std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

} // namespace rhea
