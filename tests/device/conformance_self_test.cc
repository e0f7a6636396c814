// The conformance suite against devices that are made for it: a good one passes, and each kind of
// bad one is caught.
#include "dm/time/timer.h"
#include "tests/device/conformance.h"
#include <gtest/gtest.h>

namespace rhea::conformance {
namespace {

struct PlainState {
    u8 index = 0;
    i64 due = never;
    std::array<u8, 8> cells{};
    static constexpr auto fields() {
        return describe<PlainState>(Field<&PlainState::index>{.max = 7}, Field<&PlainState::due>{},
                                    Field<&PlainState::cells>{});
    }
};

enum class Flaw { none, reset, hidden, unchecked, forgetful };

// Eight cells behind an index, and a timer that raises a line.
class Sample final : public PlainDevice<PlainState> {
public:
    Sample(Flaw flaw, Bench &b)
        : PlainDevice("sample0", {.max_size = 1}), flaw_(flaw), clock_(b.clock),
          line_(b.irq.line(3)) {}
    std::string_view type() const noexcept override { return "sample"; }
    std::span<const Window> windows() noexcept override { return windows_; }
    u64 read(u64 at, unsigned) noexcept override {
        if (at == 3)
            return hidden_;
        return at ? s.cells[s.index % 8] : s.index;
    }
    void write(u64 at, unsigned, u64 v) noexcept override {
        if (at == 0)
            s.index = v & 7;
        else if (at == 1)
            s.cells[s.index % 8] = static_cast<u8>(v);
        else if (at == 2)
            s.due = clock_.now() + static_cast<i64>(v) * 1000;
        else if (flaw_ == Flaw::hidden)
            hidden_ = static_cast<u8>(v);
    }

private:
    void settle() noexcept override {
        timer_.arm(s.due);
        line_.set(s.due != never);
    }
    void expired() noexcept { s.due = never; }
    State reset_state() const noexcept override {
        State r;
        if (flaw_ == Flaw::reset)
            r.index = (s.index + 1) & 7;
        return r;
    }
    void load_fields(state::FieldReader &in) override {
        if (flaw_ == Flaw::unchecked) { // assigns before it knows
            in.fields(s);
            return;
        }
        StateDevice::load_fields(in);
        if (flaw_ == Flaw::forgetful)
            s.cells[5] = 0;
    }

    Flaw flaw_;
    Clock &clock_;
    IrqLine line_;
    u8 hidden_ = 0;
    Window windows_[1] = {{.name = "cells", .base = 0x80, .size = 4, .target = this}};
    Timer timer_{clock_, *this, Callback::to<&Sample::expired>(this)};
};

Subject sample(Flaw flaw) {
    return subject("sample", [flaw](Bench &b) { return std::make_unique<Sample>(flaw, b); });
}

TEST(ConformanceSuite, a_good_device_passes) {
    const Subject s = sample(Flaw::none);
    EXPECT_EQ(check_reset_is_idempotent(s), "");
    EXPECT_EQ(check_windows_take_every_access(s), "");
    EXPECT_EQ(check_state_survives_save_and_load(s), "");
    EXPECT_EQ(check_a_restored_device_behaves_the_same(s), "");
    EXPECT_EQ(check_damaged_state_is_refused_or_harmless(s), "");
    EXPECT_EQ(check_noise_ends(s), "");
}

TEST(ConformanceSuite, a_reset_that_goes_on_is_caught) {
    EXPECT_NE(check_reset_is_idempotent(sample(Flaw::reset)).find("sample0.index"),
              std::string::npos);
}

TEST(ConformanceSuite, state_beside_the_state_is_caught) {
    EXPECT_NE(check_a_restored_device_behaves_the_same(sample(Flaw::hidden)), "");
}

TEST(ConformanceSuite, a_load_that_forgets_is_caught) {
    EXPECT_NE(check_state_survives_save_and_load(sample(Flaw::forgetful)).find("sample0.cells"),
              std::string::npos);
}

TEST(ConformanceSuite, a_load_that_assigns_before_it_checks_is_caught) {
    EXPECT_NE(check_damaged_state_is_refused_or_harmless(sample(Flaw::unchecked)).find("refuses"),
              std::string::npos);
}

TEST(ConformanceSuite, a_script_only_depends_on_its_bytes) {
    const auto script = noise(42, 2000);
    std::string seen[2];
    for (std::string &out : seen) {
        Bench bench;
        Sample device(Flaw::none, bench);
        bench.plug(device);
        out = run_script(bench, device, script);
    }
    EXPECT_EQ(seen[0], seen[1]);
    EXPECT_NE(seen[0].find("r="), std::string::npos);
    EXPECT_NE(noise(1, 100), noise(2, 100));
}

} // namespace
} // namespace rhea::conformance
