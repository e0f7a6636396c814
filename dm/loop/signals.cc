#include "dm/loop/signals.h"

#include <cstring>
#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "dm/core/config_error.h"

namespace rhea::loop {

Signals::Signals(Loop &loop, std::initializer_list<int> signals) : loop_(loop) {
    sigset_t set;
    sigemptyset(&set);
    for (const int s : signals)
        sigaddset(&set, s);
    fd_ = signalfd(-1, &set, SFD_CLOEXEC);
    if (fd_ < 0)
        throw ConfigError(std::string("signalfd: ") + std::strerror(errno));
    pthread_sigmask(SIG_BLOCK, &set, &before_);
}

Signals::~Signals() {
    ::close(fd_);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

Task<int> Signals::next() {
    signalfd_siginfo info{};
    const auto bytes = std::span(reinterpret_cast<u8 *>(&info), sizeof info);
    co_await loop_.read(fd_, bytes);
    co_return int(info.ssi_signo);
}

} // namespace rhea::loop
