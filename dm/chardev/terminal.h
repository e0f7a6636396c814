#pragma once
// Terminal: standard input in raw mode, and put back as it was: at exit, when the program is
// stopped, and when it crashes.
//
// One at a time; made and destroyed on the main thread. Where standard input is no terminal, it
// does nothing. Output processing stays on, so that our own messages look right beside the guest's.
#include <termios.h>

namespace rhea::chardev {

class Terminal {
public:
    /// `signals`: Ctrl-C, Ctrl-\ and Ctrl-Z act on us instead of going to the guest.
    explicit Terminal(bool signals);
    ~Terminal();
    Terminal(const Terminal &) = delete;
    Terminal &operator=(const Terminal &) = delete;

    bool active() const { return active_; }
    /// Around a stop by SIGTSTP: as it was, and raw again.
    void restore() noexcept;
    void raw() noexcept;

private:
    bool active_ = false;
    termios raw_{};
};

} // namespace rhea::chardev
