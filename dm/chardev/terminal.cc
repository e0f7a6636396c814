#include "dm/chardev/terminal.h"

#include <array>
#include <atomic>
#include <csignal>
#include <unistd.h>

namespace rhea::chardev {

namespace {

// A signal handler has no other way to find these: the one place where globals are right. The
// settings are written before `to_restore` says so, and not changed while it does.
termios as_found;
std::atomic<bool> to_restore{false};

constexpr std::array crashes{SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGQUIT};

void put_back() noexcept {
    if (to_restore.load(std::memory_order_acquire))
        ::tcsetattr(STDIN_FILENO, TCSANOW, &as_found);
}

extern "C" void rhea_terminal_crash(int signal) {
    put_back();
    ::raise(signal); // SA_RESETHAND: now with the default action
}

void on_crashes(bool install) noexcept {
    for (const int s : crashes) {
        struct sigaction now {};
        ::sigaction(s, nullptr, &now);
        const bool ours = now.sa_handler == rhea_terminal_crash;
        // Whoever handles a signal already (an engine, a sanitizer) keeps it.
        if (install ? now.sa_handler != SIG_DFL : !ours)
            continue;
        struct sigaction next {};
        next.sa_handler = install ? rhea_terminal_crash : SIG_DFL;
        next.sa_flags = install ? int(SA_RESETHAND) : 0;
        ::sigaction(s, &next, nullptr);
    }
}

} // namespace

Terminal::Terminal(bool signals) {
    if (!::isatty(STDIN_FILENO) || ::tcgetattr(STDIN_FILENO, &as_found) != 0)
        return;
    raw_ = as_found;
    raw_.c_iflag &= ~tcflag_t(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON);
    raw_.c_lflag &= ~tcflag_t(ECHO | ECHONL | ICANON | IEXTEN);
    if (!signals)
        raw_.c_lflag &= ~tcflag_t(ISIG);
    raw_.c_cflag = (raw_.c_cflag & ~tcflag_t(CSIZE | PARENB)) | CS8;
    raw_.c_cc[VMIN] = 1;
    raw_.c_cc[VTIME] = 0;
    active_ = true;
    to_restore.store(true, std::memory_order_release);
    on_crashes(true);
    raw();
}

Terminal::~Terminal() {
    if (!active_)
        return;
    put_back();
    on_crashes(false);
    to_restore.store(false, std::memory_order_release);
}

void Terminal::restore() noexcept {
    if (active_)
        put_back();
}

void Terminal::raw() noexcept {
    if (active_)
        ::tcsetattr(STDIN_FILENO, TCSANOW, &raw_);
}

} // namespace rhea::chardev
