#include "hw/char/uart_16550.h"

#include <algorithm>

namespace rhea::hw {

namespace {

constexpr u8 IER_RDA = 0x01, IER_THRE = 0x02, IER_LINE = 0x04, IER_MODEM = 0x08;
constexpr u8 IIR_NONE = 0x01, IIR_MODEM = 0x00, IIR_THRE = 0x02, IIR_RDA = 0x04, IIR_LINE = 0x06,
             IIR_TIMEOUT = 0x0c, IIR_FIFO = 0xc0;
constexpr u8 FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04;
constexpr u8 LSR_DR = 0x01, LSR_OE = 0x02, LSR_THRE = 0x20, LSR_TEMT = 0x40;
constexpr u8 MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08;
constexpr u8 MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80;
constexpr u8 connected = MSR_CTS | MSR_DSR | MSR_DCD;
constexpr i64 crystal = 1'843'200; // Hz

} // namespace

struct Uart16550::Model {
    using R = Register<Uart16550, Uart16550State>;
    using S = Uart16550State;
    using U = Uart16550;
    static constexpr R registers[] = {
        {.at = 0, .name = "DLL", .when = &U::dlab, .bits = slot<&S::dll>, .rw = 0xff},
        {.at = 0, .name = "RBR/THR", .read = &U::read_rbr, .write = &U::write_thr},
        {.at = 1, .name = "DLM", .when = &U::dlab, .bits = slot<&S::dlm>, .rw = 0xff},
        {.at = 1, .name = "IER", .bits = slot<&S::ier>, .write = &U::write_ier},
        {.at = 2, .name = "IIR/FCR", .read = &U::read_iir, .write = &U::write_fcr},
        {.at = 3, .name = "LCR", .bits = slot<&S::lcr>, .rw = 0xff},
        {.at = 4, .name = "MCR", .bits = slot<&S::mcr>, .rw = 0x1f, .wrote = &U::wrote_mcr},
        {.at = 5, .name = "LSR", .read = &U::read_lsr},
        {.at = 6, .name = "MSR", .read = &U::read_msr},
        {.at = 7, .name = "SCR", .bits = slot<&S::scr>, .rw = 0xff},
    };
    static_assert(well_formed(registers));
};

Uart16550::Uart16550(std::string name, const Config &config, Clock &clock, IrqLine irq,
                     chardev::CharBackend &backend)
    : StateDevice(std::move(name)), clock_(clock), irq_(irq), backend_(backend),
      timeout_(clock, *this, Callback::to<&Uart16550::timed_out>(this)),
      registers_(*this, s, "uart-16550"), windows_{Window{"registers", Space::port, config.port, 8,
                                                          &registers_}} {
    backend_.attach(*this);
}

Uart16550::~Uart16550() {
    backend_.detach();
}

unsigned Uart16550::trigger() const noexcept {
    constexpr std::array<u8, 4> levels{1, 4, 8, 14};
    return fifo_on() ? levels[s.fcr >> 6] : 1u;
}

Time Uart16550::character_time() const noexcept {
    const i64 divisor = std::max(1, s.dlm << 8 | s.dll);
    const i64 bits = 1 + 5 + (s.lcr & 3) + (s.lcr >> 3 & 1) + 1 + (s.lcr >> 2 & 1);
    return bits * divisor * 16 * 1'000'000'000 / crystal;
}

// The pending interrupt of the highest priority (table V of the data sheet).
u8 Uart16550::interrupt() const noexcept {
    if ((s.ier & IER_LINE) && s.lsr_errors)
        return IIR_LINE;
    if (s.ier & IER_RDA) {
        if (s.rx.count >= trigger())
            return IIR_RDA;
        if (s.timeout_pending && !s.rx.empty())
            return IIR_TIMEOUT;
    }
    if ((s.ier & IER_THRE) && s.thre_pending)
        return IIR_THRE;
    if ((s.ier & IER_MODEM) && s.msr_deltas)
        return IIR_MODEM;
    return IIR_NONE;
}

// OUT2 opens the gate between the UART and the bus on a PC; in loopback it is an internal signal.
void Uart16550::settle() noexcept {
    const bool gate = (s.mcr & MCR_OUT2) && !loopback();
    irq_.set(gate && interrupt() != IIR_NONE);
    const bool waits = fifo_on() && !s.rx.empty() && s.rx.count < trigger() && !s.timeout_pending;
    timeout_.arm(waits ? s.touched + 4 * character_time() : never);
}

void Uart16550::timed_out() noexcept {
    if (!s.rx.empty() && clock_.now() >= s.touched + 4 * character_time())
        s.timeout_pending = true;
}

// ---------------------------------------------------------------------------------- the back end

usize Uart16550::room() noexcept {
    usize n = 0;
    enter([&] { n = loopback() || s.rx.count >= capacity() ? 0 : capacity() - s.rx.count; });
    return n;
}

void Uart16550::receive(std::span<const u8> bytes) noexcept {
    enter([&] {
        for (const u8 byte : bytes)
            push_received(byte);
    });
}

void Uart16550::writable() noexcept {
    enter([&] { transmit(); });
}

void Uart16550::push_received(u8 byte) noexcept {
    s.touched = clock_.now();
    if (!s.rx.full(capacity())) {
        s.rx.push(byte);
        return;
    }
    s.lsr_errors |= LSR_OE;
    if (!fifo_on()) { // the byte that was there is lost; a full FIFO loses the new one
        s.rx.pop();
        s.rx.push(byte);
    }
}

// What the back end takes leaves; the transmitter is empty again with the last byte.
void Uart16550::transmit() noexcept {
    while (!s.tx.empty()) {
        if (loopback()) {
            push_received(s.tx.pop());
        } else {
            const u8 byte = s.tx.data[s.tx.head];
            if (!backend_.write({&byte, 1}))
                return; // writable() goes on
            s.tx.pop();
        }
        if (s.tx.empty())
            s.thre_pending = true;
    }
}

// ------------------------------------------------------------------------------------- registers

u64 Uart16550::read_rbr() noexcept {
    s.timeout_pending = false;
    s.touched = clock_.now();
    if (s.rx.empty())
        return 0;
    const bool was_full = s.rx.full(capacity());
    const u8 byte = s.rx.pop();
    if (was_full && !loopback())
        backend_.resume_input();
    return byte;
}

void Uart16550::write_thr(u64 value) noexcept {
    // Writing takes the "empty" interrupt back; if the byte leaves at once it comes anew, an edge.
    s.thre_pending = false;
    settle();
    const u8 byte = static_cast<u8>(value & (0xff >> (3 - (s.lcr & 3))));
    if (s.tx.full(capacity())) {
        if (fifo_on())
            return; // lost, as on the chip
        s.tx.pop();
    }
    s.tx.push(byte);
    transmit();
}

void Uart16550::write_ier(u64 value) noexcept {
    const u8 before = s.ier;
    s.ier = value & 0x0f;
    // Enabling it while the transmitter is empty makes the interrupt.
    if ((s.ier & ~before & IER_THRE) && s.tx.empty())
        s.thre_pending = true;
}

u64 Uart16550::read_iir() noexcept {
    const u8 now = interrupt();
    if (now == IIR_THRE) // reading it as the source takes it back
        s.thre_pending = false;
    return now | (fifo_on() ? IIR_FIFO : 0);
}

void Uart16550::write_fcr(u64 value) noexcept {
    const u8 fcr = static_cast<u8>(value);
    const bool had_no_room = s.rx.full(capacity());
    const bool toggled = (fcr ^ s.fcr) & FCR_ENABLE; // empties both
    if (toggled || ((fcr & FCR_ENABLE) && (fcr & FCR_CLEAR_RX))) {
        s.rx = {};
        s.timeout_pending = false;
    }
    if (toggled || ((fcr & FCR_ENABLE) && (fcr & FCR_CLEAR_TX))) {
        if (!s.tx.empty())
            s.thre_pending = true;
        s.tx = {};
    }
    s.fcr = fcr & FCR_ENABLE ? fcr & 0xc9 : 0; // the other bits count only with bit 0
    if (had_no_room && !s.rx.full(capacity()) && !loopback())
        backend_.resume_input();
}

u64 Uart16550::read_lsr() noexcept {
    const u8 lsr = static_cast<u8>(s.lsr_errors | (s.rx.empty() ? 0 : LSR_DR) |
                                   (s.tx.empty() ? LSR_THRE | LSR_TEMT : 0));
    s.lsr_errors = 0;
    return lsr;
}

u64 Uart16550::read_msr() noexcept {
    const u8 msr = static_cast<u8>(s.modem | s.msr_deltas);
    s.msr_deltas = 0;
    return msr;
}

// In loopback the modem outputs are the modem inputs.
void Uart16550::update_modem() noexcept {
    u8 now = connected;
    if (loopback())
        now = static_cast<u8>((s.mcr & MCR_RTS ? MSR_CTS : 0) | (s.mcr & MCR_DTR ? MSR_DSR : 0) |
                              (s.mcr & MCR_OUT1 ? MSR_RI : 0) | (s.mcr & MCR_OUT2 ? MSR_DCD : 0));
    const u8 changed = now ^ s.modem;
    s.msr_deltas |= static_cast<u8>((changed & (MSR_CTS | MSR_DSR | MSR_DCD)) >> 4);
    if ((changed & MSR_RI) && !(now & MSR_RI)) // trailing edge only
        s.msr_deltas |= MSR_RI >> 4;
    const bool was_loopback = s.modem != connected && now == connected;
    s.modem = now;
    if (was_loopback && !s.rx.full(capacity()))
        backend_.resume_input();
}

} // namespace rhea::hw
