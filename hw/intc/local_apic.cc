#include "hw/intc/local_apic.h"

#include "dm/core/bits.h"
#include "dm/core/trace.h"

#include <algorithm>
#include <bit>

namespace rhea::hw {

namespace {

// Register offsets, divided by 16.
enum : u32 {
    ID = 0x02,
    VERSION = 0x03,
    TPR = 0x08,
    APR = 0x09,
    PPR = 0x0a,
    EOI = 0x0b,
    RRD = 0x0c,
    LDR = 0x0d,
    DFR = 0x0e,
    SVR = 0x0f,
    ISR = 0x10,
    TMR = 0x18,
    IRR = 0x20,
    ESR = 0x28,
    ICR_LOW = 0x30,
    ICR_HIGH = 0x31,
    LVT = 0x32,
    TIMER_INITIAL = 0x38,
    TIMER_CURRENT = 0x39,
    TIMER_DIVIDE = 0x3e,
};
enum : unsigned { LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR };

constexpr u32 version = 0x0005'0014; // 6 local vectors, integrated
constexpr u32 SVR_ENABLE = 1u << 8;
constexpr u32 LVT_MASKED = 1u << 16, LVT_LEVEL = 1u << 15, LVT_PERIODIC = 1u << 17;
constexpr std::array<u32, 6> lvt_writable{0x300ff, 0x107ff, 0x107ff, 0x1a7ff, 0x1a7ff, 0x100ff};
constexpr u32 ESR_SEND_ILLEGAL = 0x20, ESR_RECEIVE_ILLEGAL = 0x40, ESR_REGISTER = 0x80;

constexpr u32 IA32_APIC_BASE = 0x1b;
constexpr u64 BASE_BSP = 1u << 8, BASE_ENABLE = 1u << 11;
constexpr u64 base_address = low_bits(40) & ~low_bits(12);

// A guest that asks for less must not keep the host's timer thread busy.
constexpr Time shortest_period = 20'000;
// Bounds of a loaded state: no sum of them leaves Time's range.
constexpr Time latest_start = Time{1} << 60;
constexpr u64 most_periods = u64{1} << 60;

template <class Set> auto &word(Set &set, u8 vector) noexcept {
    return set[vector >> 5];
}
constexpr u32 mask_of(u8 vector) noexcept {
    return u32{1} << (vector & 31);
}

// The highest vector in a register of 256 bits, or -1.
template <class Set> int highest(const Set &set) noexcept {
    for (int n = 7; n >= 0; --n)
        if (const u32 w = set[static_cast<usize>(n)])
            return 32 * n + 31 - std::countl_zero(w);
    return -1;
}

DeliveryMode mode_of(u32 lvt) noexcept {
    return static_cast<DeliveryMode>(bits(lvt, 10, 8));
}

} // namespace

LocalApic::LocalApic(std::string name, unsigned index, ApicBus &bus, Clock &clock,
                     MachineEvents &board) noexcept
    : StateDevice(std::move(name)), index_(index), bus_(bus), clock_(clock), board_(board),
      timer_(clock, *this, Callback::to<&LocalApic::timer_expired>(this)) {
    s = LocalApic::reset_state();
    LocalApic::settle();
    bus.attach(*this);
}

void LocalApic::attach(accel::Vcpu *vcpu) noexcept {
    enter([&] { vcpu_.store(vcpu); });
}

// "Local APIC state after power-up or reset".
LocalApic::State LocalApic::reset_state() const noexcept {
    State fresh;
    fresh.base = default_base | BASE_ENABLE | (index_ == 0 ? BASE_BSP : 0);
    fresh.id = index_ << 24;
    fresh.lvt.fill(LVT_MASKED);
    if (index_ == 0)
        fresh.lvt[LVT_LINT0] = static_cast<u32>(DeliveryMode::extint) << 8;
    return fresh;
}

const char *LocalApic::validate(const State &state) const noexcept {
    if (state.base & ~(base_address | BASE_ENABLE | BASE_BSP))
        return "base: reserved bits are set";
    if (state.timer_start < 0 || state.timer_start > latest_start)
        return "timer_start: beyond the clock's range";
    if (state.timer_periods > most_periods)
        return "timer_periods: more than can have passed";
    return nullptr;
}

// INIT: as a reset, but the ID and the base stay.
void LocalApic::initialise() noexcept {
    const u64 base = s.base;
    const u32 id = s.id;
    s = reset_state();
    s.base = base;
    s.id = id;
    loaded();
}

void LocalApic::on_reset() noexcept {
    s = reset_state();
    loaded();
}

// From the state into what other threads see, and back.
void LocalApic::loaded() noexcept {
    for (usize n = 0; n < irr_.size(); ++n) {
        irr_[n].store(s.irr[n]);
        tmr_[n].store(s.tmr[n]);
    }
    esr_pending_.store(s.esr_pending);
    extint_.store(s.extint);
}

void LocalApic::save_fields(state::FieldWriter &out) const {
    State whole = s;
    for (usize n = 0; n < irr_.size(); ++n) {
        whole.irr[n] = irr_[n].load();
        whole.tmr[n] = tmr_[n].load();
    }
    whole.esr_pending = esr_pending_.load();
    whole.extint = extint_.load();
    out.fields(whole);
}

// ------------------------------------------------------------------------------ what is pending

bool LocalApic::fixed_pending() const noexcept {
    const int vector = highest(irr_);
    return vector >= 0 && (vector >> 4) > (ppr_.load() >> 4) && takes_fixed();
}

bool LocalApic::extint_pending() const noexcept {
    if (extint_.load())
        return true;
    return bus_.intr_level() && takes_intr_.load();
}

// Makes set_interrupt say whether there is something to deliver. Lock-free, any thread.
void LocalApic::signal() noexcept {
    accel::Vcpu *const vcpu = vcpu_;
    if (!vcpu)
        return;
    if (!fixed_pending() && !extint_pending()) {
        vcpu->set_interrupt(false);
        if (!fixed_pending() && !extint_pending())
            return;
    }
    vcpu->set_interrupt(true);
}

bool LocalApic::takes_fixed() const noexcept {
    return enabled_.load();
}

void LocalApic::settle() noexcept {
    const bool present = s.base & BASE_ENABLE;
    const int served = highest(s.isr);
    const u32 served_class = served < 0 ? 0 : static_cast<u32>(served) & 0xf0;
    const u32 ppr = (s.tpr & 0xf0) >= served_class ? s.tpr : served_class;
    const u32 lint0 = s.lvt[LVT_LINT0];
    present_.store(present);
    enabled_.store(present && (s.svr & SVR_ENABLE));
    id_.store(static_cast<u8>(s.id >> 24));
    ldr_.store(static_cast<u8>(s.ldr >> 24));
    flat_.store(s.dfr >> 28 == 0xf);
    lint0_.store(lint0);
    lint1_.store(s.lvt[LVT_LINT1]);
    takes_intr_.store(!present ||
                      (!(lint0 & LVT_MASKED) && mode_of(lint0) == DeliveryMode::extint));
    ppr_.store(static_cast<u8>(ppr));
    timer_.arm(next_expiry());
    signal();
}

int LocalApic::acknowledge_interrupt() noexcept {
    int vector = -1;
    enter([&] {
        if (!fixed_pending())
            return;
        vector = highest(irr_);
        const u8 v = static_cast<u8>(vector);
        word(irr_, v).fetch_and(~mask_of(v));
        word(s.isr, v) |= mask_of(v);
    });
    if (vector >= 0 || !extint_pending())
        return vector;
    extint_.store(false);
    vector = bus_.acknowledge_extint();
    signal();
    return vector;
}

// --------------------------------------------------------------------------- messages and lines

bool LocalApic::matches(u8 destination, bool logical) const noexcept {
    if (!present_.load())
        return false;
    if (!logical)
        return destination == 0xff || destination == id_.load();
    const u8 ldr = ldr_.load();
    if (flat_.load())
        return destination & ldr;
    const bool cluster = destination >> 4 == 0xf || destination >> 4 == ldr >> 4;
    return cluster && (destination & ldr & 0xf);
}

void LocalApic::accept_fixed(u8 vector, bool level) noexcept {
    if (!takes_fixed())
        return;
    if (vector < 16) {
        esr_pending_.fetch_or(ESR_RECEIVE_ILLEGAL);
        return;
    }
    if (level)
        word(tmr_, vector).fetch_or(mask_of(vector));
    else
        word(tmr_, vector).fetch_and(~mask_of(vector));
    word(irr_, vector).fetch_or(mask_of(vector));
    if (accel::Vcpu *const vcpu = vcpu_; vcpu && fixed_pending())
        vcpu->set_interrupt(true);
}

void LocalApic::accept(const ApicMessage &message) noexcept {
    if (message.mode <= DeliveryMode::lowest_priority) {
        accept_fixed(message.vector, message.level);
        return;
    }
    accel::Vcpu *const vcpu = vcpu_;
    if (!vcpu)
        return;
    switch (message.mode) {
    case DeliveryMode::fixed:
    case DeliveryMode::lowest_priority: break;
    case DeliveryMode::nmi: vcpu->raise_nmi(); break;
    case DeliveryMode::init:
        enter([&] { initialise(); });
        vcpu->raise_init();
        break;
    case DeliveryMode::startup: vcpu->raise_startup(message.vector); break;
    case DeliveryMode::extint:
        extint_.store(true);
        vcpu->set_interrupt(true);
        break;
    case DeliveryMode::smi: // no SMM
    case DeliveryMode::reserved: break;
    }
}

void LocalApic::lint0_changed(bool level) noexcept {
    const u32 lint = lint0_.load();
    if (level && present_.load() && !(lint & LVT_MASKED) && mode_of(lint) != DeliveryMode::extint)
        accept({.vector = static_cast<u8>(lint), .mode = mode_of(lint)});
    signal();
}

void LocalApic::lint1_changed(bool level) noexcept {
    accel::Vcpu *const vcpu = vcpu_;
    if (!level || !vcpu)
        return;
    const u32 lint = lint1_.load();
    if (!present_.load())
        vcpu->raise_nmi();
    else if (!(lint & LVT_MASKED))
        accept({.vector = static_cast<u8>(lint), .mode = mode_of(lint)});
}

// --------------------------------------------------------------------------------------- timer

// Nanoseconds from the count's start to its first expiry; 0: stopped.
Time LocalApic::timer_period() const noexcept {
    const u32 code = (s.timer_divide & 3) | (s.timer_divide >> 1 & 4);
    const unsigned shift = code == 7 ? 0 : code + 1;
    return static_cast<Time>(u64{s.timer_initial} << shift);
}

Time LocalApic::next_expiry() const noexcept {
    const Time period = timer_period();
    const bool periodic = s.lvt[LVT_TIMER] & LVT_PERIODIC;
    if (!period || (!periodic && s.timer_periods))
        return never;
    const __int128 exact = s.timer_start + static_cast<__int128>(s.timer_periods + 1) * period;
    const Time at = exact < never ? static_cast<Time>(exact) : never; // loaded counts can be large
    return period < shortest_period && s.timer_periods
               ? std::max(at, last_expiry_ + shortest_period)
               : at;
}

void LocalApic::timer_expired() noexcept {
    const Time period = timer_period(), now = clock_.now();
    if (!period || now < s.timer_start + period)
        return;
    // Periods that have passed unseen are not made up for: their requests would have been one.
    const u64 passed = static_cast<u64>((now - s.timer_start) / period);
    last_expiry_ = now;
    if (passed <= s.timer_periods)
        return;
    s.timer_periods = s.lvt[LVT_TIMER] & LVT_PERIODIC ? passed : 1;
    if (!(s.lvt[LVT_TIMER] & LVT_MASKED))
        accept_fixed(static_cast<u8>(s.lvt[LVT_TIMER]), false);
}

u32 LocalApic::timer_current() const noexcept {
    const Time period = timer_period();
    if (!period)
        return 0;
    Time elapsed = clock_.now() - s.timer_start;
    if (elapsed >= period) {
        if (!(s.lvt[LVT_TIMER] & LVT_PERIODIC))
            return 0;
        elapsed %= period;
    }
    const Time divide = period / static_cast<Time>(s.timer_initial);
    return s.timer_initial - static_cast<u32>(elapsed / divide);
}

// ----------------------------------------------------------------------------------- registers

void LocalApic::error(u32 bit) noexcept {
    esr_pending_.fetch_or(bit);
    if (!(s.lvt[LVT_ERROR] & LVT_MASKED))
        accept_fixed(static_cast<u8>(s.lvt[LVT_ERROR]), false);
}

u32 LocalApic::read_register(u32 n) noexcept {
    if (n >= LVT && n < LVT + s.lvt.size()) {
        u32 value = s.lvt[n - LVT];
        return value;
    }
    if (n >= ISR && n < ISR + 8)
        return s.isr[n - ISR];
    if (n >= TMR && n < TMR + 8)
        return tmr_[n - TMR].load();
    if (n >= IRR && n < IRR + 8)
        return irr_[n - IRR].load();
    switch (n) {
    case ID: return s.id;
    case VERSION: return version;
    case TPR: return s.tpr;
    case APR:
    case PPR: return ppr_.load();
    case EOI:
    case RRD: return 0;
    case LDR: return s.ldr;
    case DFR: return s.dfr;
    case SVR: return s.svr;
    case ESR: return s.esr;
    case ICR_LOW: return s.icr_low;
    case ICR_HIGH: return s.icr_high;
    case TIMER_INITIAL: return s.timer_initial;
    case TIMER_CURRENT: return timer_current();
    case TIMER_DIVIDE: return s.timer_divide;
    default: error(ESR_REGISTER); return 0;
    }
}

void LocalApic::end_of_interrupt(Outgoing &out) noexcept {
    const int vector = highest(s.isr);
    if (vector < 0)
        return;
    const u8 v = static_cast<u8>(vector);
    word(s.isr, v) &= ~mask_of(v);
    if (word(tmr_, v).load() & mask_of(v))
        out.eoi = vector;
}

void LocalApic::write_lvt(unsigned n, u32 value) noexcept {
    value &= lvt_writable[n];
    if (!(s.svr & SVR_ENABLE)) // stays masked while the APIC is software-disabled
        value |= LVT_MASKED;
    s.lvt[n] = value;
}

void LocalApic::write_register(u32 n, u32 value, Outgoing &out) noexcept {
    if (n >= LVT && n < LVT + s.lvt.size()) {
        write_lvt(n - LVT, value);
        return;
    }
    switch (n) {
    case ID: s.id = value & 0xff00'0000; break;
    case TPR: s.tpr = value & 0xff; break;
    case EOI: end_of_interrupt(out); break;
    case LDR: s.ldr = value & 0xff00'0000; break;
    case DFR: s.dfr = value | 0x0fff'ffff; break;
    case SVR:
        s.svr = value & 0x3ff;
        if (!(s.svr & SVR_ENABLE))
            for (u32 &lvt : s.lvt)
                lvt |= LVT_MASKED;
        break;
    case ESR: s.esr = esr_pending_.exchange(0); break;
    case ICR_LOW:
        s.icr_low = value & 0x000c'cfff;
        out.ipi = true;
        out.low = s.icr_low;
        out.destination = static_cast<u8>(s.icr_high >> 24);
        break;
    case ICR_HIGH: s.icr_high = value & 0xff00'0000; break;
    case TIMER_INITIAL:
        s.timer_initial = value;
        s.timer_start = clock_.now();
        s.timer_periods = 0;
        break;
    case TIMER_DIVIDE:
        s.timer_divide = value & 0xb;
        s.timer_start = clock_.now();
        s.timer_periods = 0;
        break;
    case VERSION:
    case APR:
    case PPR:
    case RRD:
    case TIMER_CURRENT: break;
    default: error(ESR_REGISTER); break;
    }
}

// What a write asks of others, done after this APIC's lock is dropped.
void LocalApic::send(const Outgoing &out) noexcept {
    if (out.eoi >= 0)
        bus_.end_of_interrupt(static_cast<u8>(out.eoi));
    if (!out.ipi)
        return;
    ApicMessage message{.vector = static_cast<u8>(out.low),
                        .mode = static_cast<DeliveryMode>(bits(out.low, 10, 8)),
                        .destination = out.destination,
                        .logical = bit(out.low, 11),
                        .level = false};
    const bool deassert = bit(out.low, 15) && !bit(out.low, 14);
    if (message.mode == DeliveryMode::init && deassert)
        return; // synchronises arbitration IDs on old processors, nothing else
    if (message.mode <= DeliveryMode::lowest_priority && message.vector < 16) {
        enter([&] { error(ESR_SEND_ILLEGAL); });
        return;
    }
    switch (bits(out.low, 19, 18)) {
    case 0: bus_.deliver(message); break;
    case 1: accept(message); break;
    case 2: bus_.deliver_to_all(message, nullptr); break;
    default: bus_.deliver_to_all(message, this); break;
    }
}

u64 LocalApic::read(u64 at, unsigned size) noexcept {
    u64 value = 0;
    if ((at & 0xf) < 4) // the other twelve bytes of each sixteen are not decoded
        enter([&] { value = u64{read_register(static_cast<u32>(at >> 4))} >> 8 * (at & 3); });
    return value & size_mask(size);
}

void LocalApic::write(u64 at, unsigned size, u64 value) noexcept {
    if ((at & 0xf) || size < 4) { // "must be accessed using 32-bit loads or stores"
        guest_error("local APIC %u: write of %u bytes at 0x%03x", index_, size,
                    static_cast<unsigned>(at));
        return;
    }
    Outgoing out;
    enter([&] { write_register(static_cast<u32>(at >> 4), static_cast<u32>(value), out); });
    send(out);
}

bool LocalApic::serve_local(Request &request) noexcept {
    // Only this thread changes the base, so it may look without the lock.
    if (request.space != Space::memory || !(s.base & BASE_ENABLE) ||
        align_down(request.address, 0x1000) != (s.base & base_address))
        return false;
    u64 at = request.address & 0xfff;
    if (!request.data) {
        if (request.direction == Direction::read)
            request.value = read(at, request.size);
        else
            write(at, request.size, request.value);
        return true;
    }
    u8 *data = request.data;
    for (u32 n = 0; n < request.count && at < 0x1000; ++n) {
        if (request.direction == Direction::read)
            store_le(data, request.size, read(at, request.size));
        else
            write(at, request.size, load_le(data, request.size));
        data += request.data_step;
        at += static_cast<u64>(i64{request.address_step});
    }
    return true;
}

u64 LocalApic::task_priority() noexcept {
    return s.tpr >> 4; // only this thread changes it
}

void LocalApic::set_task_priority(u64 value) noexcept {
    enter([&] { s.tpr = static_cast<u32>(value & 0xf) << 4; });
}

bool LocalApic::read_msr(u32 number, u64 &value) noexcept {
    if (number != IA32_APIC_BASE)
        return false;
    value = s.base;
    return true;
}

bool LocalApic::write_msr(u32 number, u64 value) noexcept {
    if (number != IA32_APIC_BASE || (value & ~(base_address | BASE_ENABLE | BASE_BSP)))
        return false;
    enter([&] {
        // Which processor boots is not the guest's to say.
        const u64 base = (value & ~BASE_BSP) | (s.base & BASE_BSP);
        const bool off = (s.base & BASE_ENABLE) && !(base & BASE_ENABLE);
        s.base = base;
        if (off) // the next enable finds it as after power-up
            initialise();
    });
    return true;
}

} // namespace rhea::hw
