#include "dm/mem/target.h"
#include "dm/core/endian.h"

namespace rhea {

void Target::read_run(u64 at, unsigned size, u8 *data, u32 count, i32 step) noexcept {
    for (u32 i = 0; i < count; ++i) {
        if (i)
            owner_.settle();
        store_le(data + i64{step} * i, size, read(at, size));
    }
}

void Target::write_run(u64 at, unsigned size, const u8 *data, u32 count, i32 step) noexcept {
    for (u32 i = 0; i < count; ++i) {
        if (i)
            owner_.settle();
        write(at, size, load_le(data + i64{step} * i, size));
    }
}

} // namespace rhea
