#pragma once
// The canonical states of a PC's interrupt controllers: what hw/intc saves, and what an engine with
// controllers of its own (KVM's in-kernel irqchip, Xen's) gives and takes. Plain values, described
// for the saved-state stream.
//
// Facts: Intel 8259A data sheet (231468); Intel 82093AA data sheet (290566); Intel SDM volume 3,
// chapter "Advanced programmable interrupt controller".

#include "dm/core/describe.h"
#include "dm/core/types.h"

#include <array>

namespace rhea::accel {

// One 8259A. A bit n stands for IRn.
struct I8259State {
    u8 irr = 0, imr = 0, isr = 0;
    u8 lines = 0;       // levels of the inputs
    u8 elcr = 0;        // 1: level sensitive
    u8 vector_base = 0; // ICW2, bits 7..3
    u8 lowest = 7;      // the level of the lowest priority
    u8 next_icw = 0;    // 2..4: the initialisation word that is expected; 0: ready
    u8 icw1 = 0, icw3 = 0, icw4 = 0;
    bool read_isr = false, poll = false, special_mask = false, rotate_on_aeoi = false;

    static constexpr auto fields() {
        using S = I8259State;
        return describe<S>(Field<&S::irr>{}, Field<&S::imr>{}, Field<&S::isr>{}, Field<&S::lines>{},
                           Field<&S::elcr>{}, Field<&S::vector_base>{}, Field<&S::lowest>{.max = 7},
                           Field<&S::next_icw>{.max = 4}, Field<&S::icw1>{}, Field<&S::icw3>{},
                           Field<&S::icw4>{}, Field<&S::read_isr>{}, Field<&S::poll>{},
                           Field<&S::special_mask>{}, Field<&S::rotate_on_aeoi>{});
    }
};

struct I8259PairState {
    std::array<I8259State, 2> chip{}; // master, slave

    static constexpr auto fields() {
        return describe<I8259PairState>(Field<&I8259PairState::chip>{});
    }
};

struct IoApicState {
    u8 id = 0, select = 0;
    u32 lines = 0; // levels of the inputs
    std::array<u64, 24>
        redirection{}; // as the guest reads it, delivery status and remote IRR included

    static constexpr auto fields() {
        using S = IoApicState;
        return describe<S>(Field<&S::id>{.max = 15}, Field<&S::select>{}, Field<&S::lines>{},
                           Field<&S::redirection>{});
    }
};

// Registers as the guest reads them. Times are guest nanoseconds.
struct LocalApicState {
    u64 base = 0; // IA32_APIC_BASE
    u32 id = 0, tpr = 0, ldr = 0, dfr = 0xffff'ffff, svr = 0xff;
    u32 esr = 0, esr_pending = 0;
    u32 icr_low = 0, icr_high = 0;
    std::array<u32, 8> isr{}, tmr{}, irr{};
    std::array<u32, 6> lvt{}; // timer, thermal, performance, LINT0, LINT1, error
    u32 timer_initial = 0, timer_divide = 0;
    i64 timer_start = 0;   // when the count was written
    u64 timer_periods = 0; // expiries since then that have been delivered
    bool extint = false;   // an ExtINT message has come and waits for its acknowledge cycle

    static constexpr auto fields() {
        using S = LocalApicState;
        return describe<S>(Field<&S::base>{}, Field<&S::id>{}, Field<&S::tpr>{.max = 0xff},
                           Field<&S::ldr>{}, Field<&S::dfr>{}, Field<&S::svr>{}, Field<&S::esr>{},
                           Field<&S::esr_pending>{}, Field<&S::icr_low>{}, Field<&S::icr_high>{},
                           Field<&S::isr>{}, Field<&S::tmr>{}, Field<&S::irr>{}, Field<&S::lvt>{},
                           Field<&S::timer_initial>{}, Field<&S::timer_divide>{},
                           Field<&S::timer_start>{}, Field<&S::timer_periods>{},
                           Field<&S::extint>{});
    }
};

} // namespace rhea::accel
