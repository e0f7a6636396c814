// 16550A UART on a character back end.
//
// Facts: National Semiconductor PC16550D data sheet. Owned by the board or by whoever plugs it;
// vCPU threads access it, the back end's loop gives and takes bytes through CharFrontend.
//
// The line has no speed: a byte leaves when the back end takes it, and while it does not, the
// transmitter is busy. Received bytes come as the FIFO has room, so it never overruns (loopback
// can). The character time-out, after which a byte below the trigger level is told, is four
// characters of the programmed rate. The modem inputs say that the other side is there.
#pragma once
#include "dm/chardev/chardev.h"
#include "dm/device/device.h"
#include "dm/device/register_device.h"
#include "dm/irq/line.h"
#include "dm/time/timer.h"

#include <array>

namespace rhea::hw {

struct ByteFifo {
    std::array<u8, 16> data{};
    u8 head = 0, count = 0;
    static constexpr auto fields() {
        using S = ByteFifo;
        return describe<S>(Field<&S::data>{}, Field<&S::head>{.max = 15},
                           Field<&S::count>{.max = 16});
    }
    bool empty() const noexcept { return !count; }
    bool full(unsigned capacity) const noexcept { return count >= capacity; }
    void push(u8 byte) noexcept {
        data[(head + count) & 15u] = byte;
        ++count;
    }
    u8 pop() noexcept {
        const u8 byte = data[head];
        head = (head + 1) & 15;
        --count;
        return byte;
    }
};

struct Uart16550State {
    u8 ier = 0, lcr = 0, mcr = 0, scr = 0, fcr = 0;
    u8 dll = 0x0c, dlm = 0;
    u8 lsr_errors = 0; // OE, PE, FE, BI
    u8 msr_deltas = 0; // bits 3..0
    u8 modem = 0xb0;   // the modem inputs as MSR shows them
    bool thre_pending = false, timeout_pending = false;
    ByteFifo rx{}, tx{};
    i64 touched = 0; // when the receiver's FIFO was last filled or read

    static constexpr auto fields() {
        using S = Uart16550State;
        return describe<S>(Field<&S::ier>{.max = 15}, Field<&S::lcr>{}, Field<&S::mcr>{.max = 31},
                           Field<&S::scr>{}, Field<&S::fcr>{}, Field<&S::dll>{}, Field<&S::dlm>{},
                           Field<&S::lsr_errors>{}, Field<&S::msr_deltas>{.max = 15},
                           Field<&S::modem>{}, Field<&S::thre_pending>{},
                           Field<&S::timeout_pending>{}, Field<&S::rx>{}, Field<&S::tx>{},
                           Field<&S::touched>{.max = u64{1} << 60});
    }
};

class Uart16550 : public StateDevice<Uart16550State>, public chardev::CharFrontend {
public:
    struct Config {
        u16 port = 0x3f8;
    };
    // Attaches itself to the back end; detach before destroying (the board's shutdown does).
    Uart16550(std::string name, const Config &config, Clock &clock, IrqLine irq,
              chardev::CharBackend &backend);
    ~Uart16550() override;

    std::string_view type() const noexcept override { return "isa-serial"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    void settle() noexcept override;

    usize room() noexcept override;
    void receive(std::span<const u8> bytes) noexcept override;
    void writable() noexcept override;

private:
    struct Model;
    bool dlab() const noexcept { return s.lcr & 0x80; }
    bool fifo_on() const noexcept { return s.fcr & 1; }
    bool loopback() const noexcept { return s.mcr & 0x10; }
    unsigned capacity() const noexcept { return fifo_on() ? 16 : 1; }
    unsigned trigger() const noexcept;
    Time character_time() const noexcept;
    u8 interrupt() const noexcept; // IIR bits 3..0
    void push_received(u8 byte) noexcept;
    void transmit() noexcept;
    void update_modem() noexcept;
    void timed_out() noexcept;

    u64 read_rbr() noexcept;
    void write_thr(u64 value) noexcept;
    void write_ier(u64 value) noexcept;
    u64 read_iir() noexcept;
    void write_fcr(u64 value) noexcept;
    void wrote_mcr() noexcept { update_modem(); }
    u64 read_lsr() noexcept;
    u64 read_msr() noexcept;

    Clock &clock_;
    IrqLine irq_;
    chardev::CharBackend &backend_;
    Timer timeout_;
    RegisterFile<Uart16550, Uart16550State, Model> registers_;
    std::array<Window, 1> windows_;
};

} // namespace rhea::hw
