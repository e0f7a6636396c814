#include "hw/input/ps2.h"

#include <algorithm>

namespace rhea::hw {

namespace {

constexpr u8 ACK = 0xfa, RESEND = 0xfe, SELF_TEST_PASSED = 0xaa, ECHO = 0xee;

namespace keyboard {
constexpr u8 LEDS = 0xed, SCAN_SET = 0xf0, IDENTIFY = 0xf2, RATE = 0xf3, ENABLE = 0xf4,
             DISABLE = 0xf5, DEFAULTS = 0xf6, ALL_FIRST = 0xf7, ALL_LAST = 0xfa, KEY_FIRST = 0xfb,
             KEY_LAST = 0xfd, RESET = 0xff;
}
namespace mouse {
constexpr u8 SCALE_1 = 0xe6, SCALE_2 = 0xe7, RESOLUTION = 0xe8, STATUS = 0xe9, STREAM = 0xea,
             READ = 0xeb, WRAP_OFF = 0xec, WRAP_ON = 0xee, REMOTE = 0xf0, IDENTIFY = 0xf2,
             RATE = 0xf3, ENABLE = 0xf4, DISABLE = 0xf5, DEFAULTS = 0xf6, RESET = 0xff;
}

} // namespace

void Ps2Keyboard::reset_defaults() noexcept {
    s.scan_set = 2;
    s.rate = 0x2b;
    s.leds = 0;
}

bool Ps2Keyboard::key(std::span<const u8> codes) noexcept {
    if (!s.scanning || s.queue.room() < codes.size())
        return false;
    for (const u8 code : codes)
        s.queue.push(code);
    return true;
}

void Ps2Keyboard::argument(u8 command, u8 byte) noexcept {
    switch (command) {
    case keyboard::LEDS: s.leds = byte & 7; break;
    case keyboard::RATE: s.rate = byte & 0x7f; break;
    case keyboard::SCAN_SET:
        s.queue.push(ACK);
        if (byte == 0)
            s.queue.push(s.scan_set);
        else if (byte <= 3)
            s.scan_set = byte;
        return;
    default: break; // the key numbers of F7h to FDh: every key makes and breaks and repeats
    }
    s.queue.push(ACK);
}

void Ps2Keyboard::write(u8 byte) noexcept {
    // A command byte ends a wait for an argument, and empties what has not been read.
    if (const u8 command = s.argument_of) {
        s.argument_of = 0;
        if (byte < 0x80 || command >= keyboard::KEY_FIRST) {
            argument(command, byte);
            return;
        }
    }
    if (byte != RESEND && byte != ECHO)
        s.queue.clear();
    switch (byte) {
    case keyboard::LEDS:
    case keyboard::SCAN_SET:
    case keyboard::RATE:
        s.argument_of = byte;
        s.queue.push(ACK);
        break;
    case ECHO: s.queue.push(ECHO); break;
    case keyboard::IDENTIFY:
        s.queue.push(ACK);
        s.queue.push(0xab);
        s.queue.push(0x83);
        break;
    case keyboard::ENABLE:
        s.scanning = true;
        s.queue.push(ACK);
        break;
    case keyboard::DISABLE:
        reset_defaults();
        s.scanning = false;
        s.queue.push(ACK);
        break;
    case keyboard::DEFAULTS:
        reset_defaults();
        s.scanning = true;
        s.queue.push(ACK);
        break;
    case RESEND: s.queue.push(s.last_sent); break;
    case keyboard::RESET:
        reset_defaults();
        s.scanning = true;
        s.queue.push(ACK);
        s.queue.push(SELF_TEST_PASSED);
        break;
    default:
        if (byte >= keyboard::KEY_FIRST && byte <= keyboard::KEY_LAST) {
            s.argument_of = byte;
            s.queue.push(ACK);
        } else if (byte >= keyboard::ALL_FIRST && byte <= keyboard::ALL_LAST) {
            s.queue.push(ACK);
        } else {
            s.queue.push(RESEND);
        }
        break;
    }
}

void Ps2Mouse::reset_defaults() noexcept {
    s.reporting = s.remote = s.wrap = s.double_scaling = false;
    s.resolution = 2;
    s.rate = 100;
    s.dx = s.dy = s.dz = 0;
}

void Ps2Mouse::move(i32 dx, i32 dy, i32 dz, u8 buttons) noexcept {
    // The counters stop at their ends, as the device's own do.
    const auto add = [](i32 &sum, i32 n) {
        sum = std::clamp(sum + std::clamp(n, -0x7fff, 0x7fff), -0xffff, 0xffff);
    };
    add(s.dx, dx);
    add(s.dy, dy);
    add(s.dz, dz);
    s.buttons = buttons & 7;
    report();
}

void Ps2Mouse::report() noexcept {
    const bool changed = s.dx || s.dy || s.dz || s.buttons != s.told_buttons;
    if (changed && s.reporting && !s.remote && !s.wrap && s.queue.room() >= 8)
        packet();
}

void Ps2Mouse::packet() noexcept {
    const i32 x = std::clamp(s.dx, -256, 255), y = std::clamp(s.dy, -256, 255);
    const i32 z = s.id ? std::clamp(s.dz, -8, 7) : 0;
    s.queue.push(static_cast<u8>(s.buttons | 0x08 | (x < 0 ? 0x10 : 0) | (y < 0 ? 0x20 : 0)));
    s.queue.push(static_cast<u8>(x));
    s.queue.push(static_cast<u8>(y));
    if (s.id)
        s.queue.push(static_cast<u8>(s.id == 4 ? z & 0x0f : z));
    s.dx -= x;
    s.dy -= y;
    s.dz = s.id ? s.dz - z : 0;
    s.told_buttons = s.buttons;
}

void Ps2Mouse::argument(u8 command, u8 byte) noexcept {
    if (command == mouse::RESOLUTION) {
        s.resolution = byte & 3;
    } else {
        s.rate = byte;
        s.rates = {s.rates[1], s.rates[2], byte};
        if (s.rates == std::array<u8, 3>{200, 100, 80})
            s.id = 3;
        else if (s.rates == std::array<u8, 3>{200, 200, 80} && s.id == 3)
            s.id = 4;
    }
    s.queue.push(ACK);
}

void Ps2Mouse::write(u8 byte) noexcept {
    if (const u8 command = s.argument_of) {
        s.argument_of = 0;
        argument(command, byte);
        return;
    }
    if (s.wrap && byte != mouse::WRAP_OFF && byte != mouse::RESET) {
        s.queue.push(byte);
        return;
    }
    s.queue.clear();
    if (byte == RESEND) {
        s.queue.push(s.last_sent);
        return;
    }
    const bool known = (byte >= mouse::SCALE_1 && byte <= mouse::WRAP_OFF) ||
                       byte == mouse::WRAP_ON || byte == mouse::REMOTE ||
                       (byte >= mouse::IDENTIFY && byte <= mouse::DEFAULTS) || byte == mouse::RESET;
    s.queue.push(known ? ACK : RESEND);
    switch (byte) {
    case mouse::SCALE_1: s.double_scaling = false; break;
    case mouse::SCALE_2: s.double_scaling = true; break;
    case mouse::RESOLUTION:
    case mouse::RATE: s.argument_of = byte; break;
    case mouse::STATUS:
        s.queue.push(static_cast<u8>((s.remote ? 0x40 : 0) | (s.reporting ? 0x20 : 0) |
                                     (s.double_scaling ? 0x10 : 0) | (s.buttons & 1) << 2 |
                                     (s.buttons & 4) >> 1 | (s.buttons & 2) >> 1));
        s.queue.push(s.resolution);
        s.queue.push(s.rate);
        break;
    case mouse::STREAM: s.remote = false; break;
    case mouse::READ: packet(); break;
    case mouse::WRAP_OFF: s.wrap = false; break;
    case mouse::WRAP_ON: s.wrap = true; break;
    case mouse::REMOTE: s.remote = true; break;
    case mouse::IDENTIFY: s.queue.push(s.id); break;
    case mouse::ENABLE: // from here on it counts
        s.reporting = true;
        s.dx = s.dy = s.dz = 0;
        s.told_buttons = s.buttons;
        break;
    case mouse::DISABLE: s.reporting = false; break;
    case mouse::DEFAULTS: reset_defaults(); break;
    case mouse::RESET:
        reset_defaults();
        s.id = 0;
        s.rates = {};
        s.queue.push(SELF_TEST_PASSED);
        s.queue.push(0x00);
        break;
    default: break;
    }
}

} // namespace rhea::hw
