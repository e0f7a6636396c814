#pragma once
// Signals: Unix signals as something a task reads.
//
// Constructed on the main thread before any other thread exists, so that every thread inherits the
// mask and no signal interrupts one of them; the destructor restores the mask of its thread.
#include <csignal>
#include <initializer_list>

#include "dm/loop/loop.h"

namespace rhea::loop {

class Signals {
public:
    Signals(Loop &loop, std::initializer_list<int> signals);
    ~Signals();
    Signals(const Signals &) = delete;
    Signals &operator=(const Signals &) = delete;

    /// The next signal's number.
    Task<int> next();

private:
    Loop &loop_;
    sigset_t before_{};
    int fd_ = -1;
};

} // namespace rhea::loop
