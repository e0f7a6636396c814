// What a guest may ask of the machine as a whole. Implemented by the machine's owner.
//
// Called on a vCPU's or the clock's thread with a device's lock held: note it, wake whoever acts on
// it (with every vCPU paused), and return. Several requests may come before the first is acted on.
#pragma once
#include "dm/core/types.h"

namespace rhea::hw {

class MachineEvents {
public:
    virtual void reset_requested() noexcept = 0;
    virtual void power_off_requested() noexcept = 0;
    // The guest ends the program with a status of its choice (isa-debug-exit).
    virtual void exit_requested(u8 status) noexcept = 0;
    // A processor has shut down (triple fault); a PC's chip set answers with a reset.
    virtual void processor_shut_down(unsigned index) noexcept = 0;

protected:
    ~MachineEvents() = default;
};

} // namespace rhea::hw
