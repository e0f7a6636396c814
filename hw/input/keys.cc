#include "hw/input/keys.h"

#include <algorithm>

namespace rhea::hw {

namespace {

struct Key {
    std::string_view name;
    u16 code; // E0h in the high byte: after that prefix
};
constexpr Key table[] = {{"0", 0x45},
                         {"1", 0x16},
                         {"2", 0x1e},
                         {"3", 0x26},
                         {"4", 0x25},
                         {"5", 0x2e},
                         {"6", 0x36},
                         {"7", 0x3d},
                         {"8", 0x3e},
                         {"9", 0x46},
                         {"a", 0x1c},
                         {"alt", 0x11},
                         {"alt_r", 0xe011},
                         {"apostrophe", 0x52},
                         {"asterisk", 0x7c},
                         {"b", 0x32},
                         {"backslash", 0x5d},
                         {"backspace", 0x66},
                         {"bracket_left", 0x54},
                         {"bracket_right", 0x5b},
                         {"c", 0x21},
                         {"caps_lock", 0x58},
                         {"comma", 0x41},
                         {"compose", 0xe02f},
                         {"ctrl", 0x14},
                         {"ctrl_r", 0xe014},
                         {"d", 0x23},
                         {"delete", 0xe071},
                         {"dot", 0x49},
                         {"down", 0xe072},
                         {"e", 0x24},
                         {"end", 0xe069},
                         {"equal", 0x55},
                         {"esc", 0x76},
                         {"f", 0x2b},
                         {"f1", 0x05},
                         {"f10", 0x09},
                         {"f11", 0x78},
                         {"f12", 0x07},
                         {"f2", 0x06},
                         {"f3", 0x04},
                         {"f4", 0x0c},
                         {"f5", 0x03},
                         {"f6", 0x0b},
                         {"f7", 0x83},
                         {"f8", 0x0a},
                         {"f9", 0x01},
                         {"g", 0x34},
                         {"grave_accent", 0x0e},
                         {"h", 0x33},
                         {"home", 0xe06c},
                         {"i", 0x43},
                         {"insert", 0xe070},
                         {"j", 0x3b},
                         {"k", 0x42},
                         {"kp_0", 0x70},
                         {"kp_1", 0x69},
                         {"kp_2", 0x72},
                         {"kp_3", 0x7a},
                         {"kp_4", 0x6b},
                         {"kp_5", 0x73},
                         {"kp_6", 0x74},
                         {"kp_7", 0x6c},
                         {"kp_8", 0x75},
                         {"kp_9", 0x7d},
                         {"kp_add", 0x79},
                         {"kp_decimal", 0x71},
                         {"kp_divide", 0xe04a},
                         {"kp_enter", 0xe05a},
                         {"kp_multiply", 0x7c},
                         {"kp_subtract", 0x7b},
                         {"l", 0x4b},
                         {"left", 0xe06b},
                         {"less", 0x61},
                         {"m", 0x3a},
                         {"menu", 0xe02f},
                         {"meta_l", 0xe01f},
                         {"meta_r", 0xe027},
                         {"minus", 0x4e},
                         {"n", 0x31},
                         {"num_lock", 0x77},
                         {"o", 0x44},
                         {"p", 0x4d},
                         {"pgdn", 0xe07a},
                         {"pgup", 0xe07d},
                         {"q", 0x15},
                         {"r", 0x2d},
                         {"ret", 0x5a},
                         {"right", 0xe074},
                         {"s", 0x1b},
                         {"scroll_lock", 0x7e},
                         {"semicolon", 0x4c},
                         {"shift", 0x12},
                         {"shift_r", 0x59},
                         {"slash", 0x4a},
                         {"spc", 0x29},
                         {"sysrq", 0x84},
                         {"t", 0x2c},
                         {"tab", 0x0d},
                         {"u", 0x3c},
                         {"up", 0xe075},
                         {"v", 0x2a},
                         {"w", 0x1d},
                         {"x", 0x22},
                         {"y", 0x35},
                         {"z", 0x1a}};
static_assert(std::ranges::is_sorted(table, {}, &Key::name));

constexpr u8 RELEASE = 0xf0;

// The two keys that are not one code after at most one prefix.
constexpr KeyCodes print_press{{0xe0, 0x12, 0xe0, 0x7c}, 4};
constexpr KeyCodes print_release{{0xe0, RELEASE, 0x7c, 0xe0, RELEASE, 0x12}, 6};
constexpr KeyCodes pause_press{{0xe1, 0x14, 0x77, 0xe1, RELEASE, 0x14, RELEASE, 0x77}, 8};

} // namespace

bool key_codes(std::string_view name, bool press, KeyCodes &out) noexcept {
    if (name == "print") {
        out = press ? print_press : print_release;
        return true;
    }
    if (name == "pause") {
        out = press ? pause_press : KeyCodes{}; // it has no release
        return true;
    }
    const auto i = std::ranges::lower_bound(table, name, {}, &Key::name);
    if (i == std::end(table) || i->name != name)
        return false;
    out = {};
    if (i->code >> 8)
        out.bytes[out.count++] = static_cast<u8>(i->code >> 8);
    if (!press)
        out.bytes[out.count++] = RELEASE;
    out.bytes[out.count++] = static_cast<u8>(i->code);
    return true;
}

std::vector<std::string_view> key_names() {
    std::vector<std::string_view> out{"pause", "print"};
    for (const Key &k : table)
        out.push_back(k.name);
    return out;
}

} // namespace rhea::hw
