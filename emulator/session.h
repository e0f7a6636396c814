#pragma once
// Session: one guest from its first instruction to the program's exit status.
//
// Made, run and destroyed on the main thread. What the guest asks for (MachineEvents) arrives on
// vCPU and clock threads; it is noted there and acted on by the main loop.
#include <atomic>
#include <memory>
#include <optional>

#include "accel/accelerator.h"
#include "dm/chardev/registry.h"
#include "dm/loop/signals.h"
#include "dm/monitor/monitor.h"
#include "emulator/drives.h"
#include "emulator/keyboard.h"
#include "emulator/options.h"
#include "hw/firmware/linux_boot.h"
#include "hw/machine/events.h"
#include "hw/machine/pc.h"

namespace rhea::emulator {

/// Of this program, as the monitor tells it.
monitor::Version program_version();

class Session final : private hw::MachineEvents, private hw::BootLoader {
public:
    /// Puts the machine together. Throws ConfigError.
    explicit Session(const Options &options);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    /// Runs the guest to its end; the exit status. Throws ConfigError if a reset cannot load the
    /// kernel again.
    int run();

private:
    void reset_requested() noexcept override { note(reset_); }
    void power_off_requested() noexcept override { note(off_); }
    void exit_requested(u8 status) noexcept override;
    void processor_shut_down(unsigned index) noexcept override;
    void note(std::atomic<bool> &what) noexcept;
    void act() noexcept;
    void place(hw::Pc &machine) override;

    enum class RunState : u8 { prelaunch, running, paused, shutdown };

    void quit() noexcept { end(0, {false, "host-ui"}); }
    // Who ended the program, for the SHUTDOWN event.
    struct Cause {
        bool guest = false;
        const char *reason = "none";
    };
    void end(int status, Cause cause) noexcept;
    void stop_running(RunState state) noexcept;
    void reset(Cause cause) noexcept;

    // The monitor's commands about the run of the machine; see session_commands.cc.
    void start_monitors();
    std::vector<monitor::Command> commands();
    Result<monitor::Nothing> qmp_stop(const monitor::Nothing &);
    Result<monitor::Nothing> qmp_cont(const monitor::Nothing &);
    Result<monitor::Nothing> qmp_reset(const monitor::Nothing &);
    Result<monitor::Nothing> qmp_powerdown(const monitor::Nothing &);
    Result<monitor::Nothing> qmp_quit(const monitor::Nothing &);
    struct Screendump;
    Result<monitor::Nothing> screendump(const Screendump &what);
    Result<monitor::Json> query_status(const monitor::Nothing &);
    Result<monitor::Json> query_name(const monitor::Nothing &);
    Result<monitor::Json> query_chardev(const monitor::Nothing &);
    Result<monitor::Json> query_registers(const monitor::Nothing &);
    loop::Task<> watch_signals();

    class Notice final : public loop::Work {
    public:
        explicit Notice(Session &session) : session_(session) {}
        void run() noexcept override { session_.act(); }

    private:
        Session &session_;
    };
    void post_notice() noexcept;

    const Options options_;
    loop::Loop loop_;
    loop::Signals signals_;
    chardev::CharBackends backends_;
    Drives drives_;
    HostClock clock_;
    AddressMap map_;
    std::unique_ptr<accel::Accelerator> engine_;
    hw::AcpiTables acpi_;
    std::unique_ptr<hw::Pc> machine_;

    std::unique_ptr<Keyboard> keyboard_;
    monitor::Monitor monitor_;
    RunState state_ = RunState::prelaunch;
    Cause cause_;

    Notice notice_{*this};
    std::atomic<bool> reset_{false}, off_{false}, posted_{false};
    std::atomic<int> exit_{-1};
    std::optional<int> status_;
    std::exception_ptr failure_;
    bool in_a_hurry_ = false; // a signal ended it: do not wait for who reads our output
    loop::TaskGroup tasks_;
};

} // namespace rhea::emulator
