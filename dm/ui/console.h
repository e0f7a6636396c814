// Console: what a display adapter shows, for who looks at it: screenshots, remote displays, tests.
//
// Implemented by the adapter and owned by its machine. Called on the main loop's thread (any one
// thread at a time) with no device's lock held; the guest may run meanwhile, and what it changes
// during a call may be in the picture or not.
#pragma once
#include "dm/ui/surface.h"

#include <string>
#include <vector>

namespace rhea::ui {

class Console {
public:
    // The whole screen as it is now. Never empty: a screen that is off is black.
    virtual Surface snapshot() = 0;

    // Brings `surface`, which is as the last call left it (or empty), up to date, and says where it
    // changed. If its size changed, the one rectangle is the whole of it. One caller at a time
    // keeps a surface up to date; the next one begins with an empty surface.
    virtual std::vector<Rect> update(Surface &surface) = 0;

    // The characters on a text-mode screen as UTF-8, one string a row without trailing blanks;
    // empty in graphics modes.
    virtual std::vector<std::string> text() = 0;

protected:
    ~Console() = default;
};

} // namespace rhea::ui
