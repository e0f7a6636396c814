// Message-signalled interrupts: a write of `data` to `address`, and who takes it (the local APICs,
// an irqfd route).
#pragma once
#include "dm/core/types.h"

namespace rhea {

struct MsiMessage {
    u64 address = 0;
    u32 data = 0;
    bool operator==(const MsiMessage &) const = default;
};

// Any thread, with device locks held; posts and returns.
class MsiSink {
public:
    virtual void send(const MsiMessage &message) noexcept = 0;

protected:
    ~MsiSink() = default;
};

} // namespace rhea
