#include "emulator/keyboard.h"

namespace rhea::emulator {

namespace {
constexpr usize most_steps = 4096;
constexpr usize most_keys = 16; // at a time
constexpr u32 usual_hold = 100, longest_hold = 10'000;
constexpr i64 millisecond = 1'000'000;
} // namespace

Keyboard::Keyboard(loop::Loop &loop, hw::I8042 &target)
    : loop_(loop), target_(target), wanted_(loop), tasks_(loop) {
    tasks_.spawn(play());
}

Keyboard::~Keyboard() {
    tasks_.cancel();
    static_cast<void>(tasks_.join()); // ended by being cancelled
}

std::vector<monitor::Command> Keyboard::commands() {
    return {monitor::command<&Keyboard::send_key>("send-key", *this, "presses keys together")};
}

Result<monitor::Nothing> Keyboard::send_key(const SendKey &what) {
    const u32 hold = what.hold_time.value_or(usual_hold);
    if (hold > longest_hold)
        return fail(EINVAL, "hold-time: 10000 milliseconds are the most");
    if (what.keys.size() > most_keys)
        return fail(EINVAL, "keys: 16 at a time are the most");
    if (steps_.size() + 2 * what.keys.size() > most_steps)
        return fail(EBUSY, "too many keys are waiting for the guest already");
    std::vector<Step> presses, releases;
    for (const KeyValue &k : what.keys) {
        if (k.type != "qcode" || !k.data.is_string())
            return fail(EINVAL, "keys: each is {\"type\": \"qcode\", \"data\": NAME}");
        const auto name = k.data.get<std::string>();
        Step press, release;
        if (!hw::key_codes(name, true, press.codes) || !hw::key_codes(name, false, release.codes))
            return fail(EINVAL, "keys: there is no key '" + name.substr(0, 32) + "'" +
                                    config::did_you_mean(name.substr(0, 32), hw::key_names()));
        presses.push_back(press);
        releases.insert(releases.begin(), release);
    }
    if (presses.empty())
        return monitor::Nothing{};
    presses.back().wait = hold * millisecond;
    steps_.insert(steps_.end(), presses.begin(), presses.end());
    steps_.insert(steps_.end(), releases.begin(), releases.end());
    wanted_.set();
    return monitor::Nothing{};
}

loop::Task<> Keyboard::play() {
    for (;;) {
        while (steps_.empty())
            co_await wanted_.wait();
        const Step step = steps_.front();
        steps_.pop_front();
        constexpr int tries = 200;
        for (int n = 0; n < tries && step.codes.count && !target_.key(step.codes.span()); ++n)
            co_await loop_.sleep(5 * millisecond);
        if (step.wait)
            co_await loop_.sleep(step.wait);
    }
}

} // namespace rhea::emulator
