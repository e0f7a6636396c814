#pragma once
// Character back ends: where the bytes of a serial port or a debug console go to and come from, and
// what they are to a device.
//
// A device is a CharFrontend and holds a reference to its CharBackend; both are wired while the
// machine is configured, and back ends outlive devices. Output is lossless with back-pressure:
// write() takes what fits into a bounded queue and never blocks; the device keeps the rest (a UART
// leaves its transmitter busy) until writable(). Input is asked for, never pushed: the back end
// reads no more than the device has room for.
//
// Lock order: device, then back end. write() and resume_input() may be called from any thread under
// the device's lock. The CharFrontend functions are called on the loop's thread with no lock held;
// they take the device's.
#include <span>

#include "dm/core/types.h"

namespace rhea::chardev {

class CharFrontend {
public:
    /// Bytes that receive() would take now. When it grows from 0, the device calls
    /// CharBackend::resume_input().
    virtual usize room() noexcept = 0;
    /// At most room() bytes.
    virtual void receive(std::span<const u8> bytes) noexcept = 0;
    /// write() had taken less than it was given, and would take something now.
    virtual void writable() noexcept {}
    /// The other side sends nothing any more, and all that it sent has been received.
    virtual void closed() noexcept {}
    /// The user of a shared terminal has turned to this front end.
    virtual void shown() noexcept {}

protected:
    ~CharFrontend() = default;
};

class CharBackend {
public:
    virtual ~CharBackend() = default;

    /// Bytes taken, from the front of `bytes`. Fewer than all: there is no room; writable()
    /// follows.
    virtual usize write(std::span<const u8> bytes) noexcept = 0;
    /// For devices that have no way to make the guest wait: blocks while the other side reads, and
    /// gives up (false, the rest is lost) when it has read nothing for a second. Not on the loop's
    /// thread.
    virtual bool write_waiting(std::span<const u8> bytes) noexcept = 0;
    /// The front end has room again.
    virtual void resume_input() noexcept = 0;

    /// The loop's thread, before the guest runs: connects the one front end. Input flows from here
    /// on.
    virtual void attach(CharFrontend &frontend) = 0;
    /// The loop's thread. When it returns, the front end is not called any more.
    virtual void detach() noexcept = 0;
    /// A terminal that is another front end's until its user turns to this one.
    virtual bool shared() const noexcept { return false; }
};

/// Takes everything, gives nothing.
class NullBackend final : public CharBackend {
public:
    usize write(std::span<const u8> bytes) noexcept override { return bytes.size(); }
    bool write_waiting(std::span<const u8>) noexcept override { return true; }
    void resume_input() noexcept override {}
    void attach(CharFrontend &) override {}
    void detach() noexcept override {}
};

} // namespace rhea::chardev
