#include "hw/input/i8042.h"

namespace rhea::hw {

namespace {

constexpr u8 STATUS_FULL = 0x01, STATUS_SYSTEM = 0x04, STATUS_COMMAND = 0x08,
             STATUS_UNLOCKED = 0x10, STATUS_MOUSE = 0x20;
constexpr u8 CCB_KEYBOARD_IRQ = 0x01, CCB_MOUSE_IRQ = 0x02, CCB_SYSTEM = 0x04,
             CCB_KEYBOARD_OFF = 0x10, CCB_MOUSE_OFF = 0x20, CCB_TRANSLATE = 0x40;
constexpr u8 OUT_NOT_RESET = 0x01, OUT_A20 = 0x02, OUT_KEYBOARD = 0x10, OUT_MOUSE = 0x20;

enum : u8 {
    READ_CCB = 0x20,
    WRITE_CCB = 0x60,
    MOUSE_OFF = 0xa7,
    MOUSE_ON = 0xa8,
    TEST_MOUSE = 0xa9,
    SELF_TEST = 0xaa,
    TEST_KEYBOARD = 0xab,
    KEYBOARD_OFF = 0xad,
    KEYBOARD_ON = 0xae,
    READ_INPUT = 0xc0,
    READ_OUTPUT = 0xd0,
    WRITE_OUTPUT = 0xd1,
    TO_KEYBOARD_BUFFER = 0xd2,
    TO_MOUSE_BUFFER = 0xd3,
    TO_MOUSE = 0xd4,
    READ_TEST = 0xe0,
    PULSE_FIRST = 0xf0,
};

// The controller's table from scan code set 2 to set 1; codes from 80h on go unchanged but for two.
constexpr std::array<u8, 128> set_1{
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59,
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b,
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f,
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61,
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f,
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54};

} // namespace

I8042::I8042(std::string name, IrqLine irq1, IrqLine irq12, MachineEvents &events) noexcept
    : StateDevice(std::move(name)), irq1_(irq1), irq12_(irq12), events_(events),
      keyboard_(s.keyboard), mouse_(s.mouse), data_(*this, "i8042 data", {.max_size = 1}),
      command_(*this, "i8042 command", {.max_size = 1}), windows_{Window{"data", Space::port, 0x60,
                                                                         1, &data_},
                                                                  Window{"command", Space::port,
                                                                         0x64, 1, &command_}} {}

bool I8042::key(std::span<const u8> codes) noexcept {
    bool taken = false;
    enter([&] { taken = keyboard_.key(codes); });
    return taken;
}

void I8042::move(i32 dx, i32 dy, i32 dz, u8 buttons) noexcept {
    enter([&] { mouse_.move(dx, dy, dz, buttons); });
}

void I8042::put(u8 byte, bool mouse) noexcept {
    s.data = byte;
    s.full = true;
    s.from_mouse = mouse;
}

// `hold`: a break prefix, which becomes a bit of the code that follows.
u8 I8042::translate(u8 byte, bool &hold) noexcept {
    hold = false;
    if (!(s.command_byte & CCB_TRANSLATE))
        return byte;
    if (byte == 0xf0) {
        s.break_prefix = hold = true;
        return 0;
    }
    const u8 code = byte < 0x80 ? set_1[byte] : byte == 0x83 ? 0x41 : byte == 0x84 ? 0x54 : byte;
    const bool released = s.break_prefix;
    s.break_prefix = false;
    return released ? code | 0x80 : code;
}

// The next byte into the output buffer: the controller's answers come first.
void I8042::refill() noexcept {
    if (!s.full && !s.responses.empty())
        put(s.responses.pop(), false);
    while (!s.full && !(s.command_byte & CCB_KEYBOARD_OFF) && !s.keyboard.queue.empty()) {
        bool hold = false;
        const u8 byte = translate(keyboard_.take(), hold);
        if (!hold)
            put(byte, false);
    }
    if (!s.full && !(s.command_byte & CCB_MOUSE_OFF)) {
        mouse_.report();
        if (!s.mouse.queue.empty())
            put(mouse_.take(), true);
    }
}

void I8042::settle() noexcept {
    refill();
    irq1_.set(s.full && !s.from_mouse && (s.command_byte & CCB_KEYBOARD_IRQ));
    irq12_.set(s.full && s.from_mouse && (s.command_byte & CCB_MOUSE_IRQ));
}

u64 I8042::read_data(u64, unsigned) noexcept {
    if (s.full) {
        s.full = false;
        // The next byte is another edge, also when it is there at once.
        irq1_.lower();
        irq12_.lower();
    }
    return s.data;
}

u64 I8042::read_status(u64, unsigned) noexcept {
    refill();
    u8 status = STATUS_UNLOCKED;
    if (s.full)
        status |= s.from_mouse ? STATUS_FULL | STATUS_MOUSE : STATUS_FULL;
    if (s.command_byte & CCB_SYSTEM || s.self_tested)
        status |= STATUS_SYSTEM;
    if (s.last_was_command)
        status |= STATUS_COMMAND;
    return status;
}

void I8042::write_output_port(u8 value) noexcept {
    s.output_port = value & (OUT_NOT_RESET | OUT_A20);
    if (!(value & OUT_NOT_RESET)) {
        s.output_port |= OUT_NOT_RESET;
        events_.reset_requested();
    }
}

void I8042::argument(u8 of, u8 byte) noexcept {
    switch (of) {
    case WRITE_CCB: s.command_byte = byte; break;
    case WRITE_OUTPUT: write_output_port(byte); break;
    case TO_KEYBOARD_BUFFER: put(byte, false); break;
    case TO_MOUSE_BUFFER: put(byte, true); break;
    case TO_MOUSE:
        s.command_byte &= static_cast<u8>(~CCB_MOUSE_OFF);
        mouse_.write(byte);
        break;
    default:
        if (of > WRITE_CCB && of < 0x80)
            s.ram[(of & 0x1fu) - 1] = byte;
        break;
    }
}

void I8042::write_data(u64, unsigned, u64 value) noexcept {
    const u8 byte = static_cast<u8>(value);
    s.last_was_command = false;
    if (const u8 of = std::exchange(s.pending_command, u8{0})) {
        argument(of, byte);
        return;
    }
    s.command_byte &= static_cast<u8>(~CCB_KEYBOARD_OFF); // writing to the keyboard enables it
    keyboard_.write(byte);
}

void I8042::write_command(u64, unsigned, u64 value) noexcept {
    s.last_was_command = true;
    s.pending_command = 0;
    command(static_cast<u8>(value));
}

void I8042::command(u8 byte) noexcept {
    const auto answer = [this](u8 b) { s.responses.push(b); };
    switch (byte) {
    case READ_CCB: answer(s.command_byte); break;
    case WRITE_CCB:
    case WRITE_OUTPUT:
    case TO_KEYBOARD_BUFFER:
    case TO_MOUSE_BUFFER:
    case TO_MOUSE: s.pending_command = byte; break;
    case MOUSE_OFF: s.command_byte |= CCB_MOUSE_OFF; break;
    case MOUSE_ON: s.command_byte &= static_cast<u8>(~CCB_MOUSE_OFF); break;
    case TEST_MOUSE: answer(0x00); break;
    case SELF_TEST:
        s.self_tested = true;
        s.full = false;
        s.responses.clear();
        s.command_byte |= CCB_KEYBOARD_OFF | CCB_MOUSE_OFF;
        answer(0x55);
        break;
    case TEST_KEYBOARD: answer(0x00); break;
    case KEYBOARD_OFF: s.command_byte |= CCB_KEYBOARD_OFF; break;
    case KEYBOARD_ON: s.command_byte &= static_cast<u8>(~CCB_KEYBOARD_OFF); break;
    case READ_INPUT: answer(0x80); break; // the keyboard is not locked
    case READ_OUTPUT:
        answer(static_cast<u8>(s.output_port | (s.full && !s.from_mouse ? OUT_KEYBOARD : 0) |
                               (s.full && s.from_mouse ? OUT_MOUSE : 0)));
        break;
    case READ_TEST: answer(0x00); break;
    default:
        if (byte >= PULSE_FIRST) { // pulses the output port's low bits that are 0 in the command
            if (!(byte & 1))
                events_.reset_requested();
        } else if (byte > READ_CCB && byte < 0x40) {
            answer(s.ram[(byte & 0x1fu) - 1]);
        } else if (byte > WRITE_CCB && byte < 0x80) {
            s.pending_command = byte;
        }
        break;
    }
}

} // namespace rhea::hw
