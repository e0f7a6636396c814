#pragma once
// Keyboard: presses keys for the monitor's send-key, in the order in which they were asked for.
//
// Owned by the session, on the main loop's thread. Keys wait in a bounded queue; the guest gets
// each as its keyboard has room, and one that nobody reads for a second is lost, like one typed on
// a keyboard whose buffer is full.
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "dm/loop/event.h"
#include "dm/loop/task_group.h"
#include "dm/monitor/command.h"
#include "hw/input/i8042.h"
#include "hw/input/keys.h"

namespace rhea::emulator {

class Keyboard {
public:
    Keyboard(loop::Loop &loop, hw::I8042 &target);
    ~Keyboard();
    Keyboard(const Keyboard &) = delete;
    Keyboard &operator=(const Keyboard &) = delete;

    std::vector<monitor::Command> commands();

private:
    struct KeyValue {
        std::string type{};
        monitor::Json data{};
        static constexpr auto fields() {
            return describe<KeyValue>(Field<&KeyValue::type>{}, Field<&KeyValue::data>{});
        }
    };
    struct SendKey {
        std::vector<KeyValue> keys{};
        std::optional<u32> hold_time{}; // milliseconds
        static constexpr auto fields() {
            return describe<SendKey>(Field<&SendKey::keys>{}, Field<&SendKey::hold_time>{});
        }
    };
    struct Step {
        hw::KeyCodes codes{};
        i64 wait = 0; // nanoseconds after it
    };
    Result<monitor::Nothing> send_key(const SendKey &what);
    loop::Task<> play();

    loop::Loop &loop_;
    hw::I8042 &target_;
    std::deque<Step> steps_;
    loop::Event wanted_;
    loop::TaskGroup tasks_;
};

} // namespace rhea::emulator
