#include "accel/dbt/cache/code_memory.h"

#include <sys/mman.h>
#include <unistd.h>

namespace rhea::dbt::cache {

CodeMemory::CodeMemory(u64 size) noexcept : size_((size + 4095) & ~u64{4095}) {
    const int fd = memfd_create("rhea-code", MFD_CLOEXEC);
    if (fd < 0)
        return;
    if (ftruncate(fd, i64(size_)) == 0) {
        void *const w =
            mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
        void *const x =
            mmap(nullptr, size_, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_NORESERVE, fd, 0);
        if (w != MAP_FAILED && x != MAP_FAILED) {
            writable_ = static_cast<u8 *>(w);
            executable_ = static_cast<u8 *>(x);
        } else {
            if (w != MAP_FAILED)
                munmap(w, size_);
            if (x != MAP_FAILED)
                munmap(x, size_);
        }
    }
    close(fd);
}

CodeMemory::~CodeMemory() {
    if (writable_) {
        munmap(writable_, size_);
        munmap(executable_, size_);
    }
}

} // namespace rhea::dbt::cache
