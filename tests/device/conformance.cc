#include "tests/device/conformance.h"
#include "dm/core/endian.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <zlib.h>

namespace rhea::conformance {

namespace {

constexpr unsigned rounds = 8;            // seeds a check
constexpr std::size_t script_size = 4096; // bytes, about 500 steps
constexpr Time longest_step = 50'000'000; // ns

struct Machine {
    explicit Machine(const Subject &s) : rig(s.make(bench)) {
        device().reset();
        bench.plug(device());
    }
    Device &device() const noexcept { return rig->device(); }
    // As of now: what only follows from the time that has passed is taken in first, as a load does.
    std::vector<u8> save() const {
        device().enter([] {});
        return Bench::save(device());
    }

    Bench bench{1 << 20};
    std::unique_ptr<Rig> rig;
};

// Reads a script; past its end come zeros.
class Script {
public:
    explicit Script(std::span<const u8> bytes) noexcept : rest_(bytes) {}
    bool ended() const noexcept { return rest_.empty(); }
    u64 take(unsigned size) noexcept {
        u8 b[8] = {};
        const std::size_t n = std::min<std::size_t>(size, rest_.size());
        std::copy_n(rest_.begin(), n, b);
        rest_ = rest_.subspan(n);
        return load_le<u64>(b);
    }

private:
    std::span<const u8> rest_;
};

void append(std::string &out, const char *what, u64 value) {
    char text[64];
    std::snprintf(text, sizeof text, "%s=%lx ", what, value);
    out += text;
}

// Where to poke a window: all offsets of a small one, both ends and some between of a large one.
std::vector<u64> offsets(u64 size) {
    std::vector<u64> at;
    constexpr u64 all = 4096, end = 512;
    if (size <= all) {
        for (u64 i = 0; i < size; ++i)
            at.push_back(i);
        return at;
    }
    for (u64 i = 0; i < end; ++i) {
        at.push_back(i);
        at.push_back(size - 1 - i);
        at.push_back((i * 0x9e3779b97f4a7c15) % size);
    }
    return at;
}

// The text of both saved states, where they differ first.
std::string difference(std::span<const u8> a, std::span<const u8> b) {
    const auto x = state::Reader::open(a), y = state::Reader::open(b);
    if (!x || !y)
        return "one of them is no stream";
    const std::string s = state::dump(*x), t = state::dump(*y);
    std::size_t p = 0, q = 0;
    while (p < s.size() && q < t.size()) {
        const auto e = s.find('\n', p), f = t.find('\n', q);
        if (s.substr(p, e - p) != t.substr(q, f - q))
            return "'" + s.substr(p, e - p) + "' became '" + t.substr(q, f - q) + "'";
        p = e + 1, q = f + 1;
    }
    return "their lengths differ";
}

// A stream of one section with a payload byte changed and its checksum made right again, as a
// hostile sender would.
std::vector<u8> with_byte(std::span<const u8> stream, std::size_t payload_at, std::size_t i,
                          u8 value) {
    constexpr std::size_t header = 12, trailer = 4 + 1 + 4; // checksum, end marker, count
    std::vector<u8> bad(stream.begin(), stream.end());
    bad[payload_at + i] = value;
    const std::size_t end = bad.size() - trailer;
    store_le<u32>(&bad[end], static_cast<u32>(crc32_z(0, &bad[header], end - header)));
    return bad;
}

} // namespace

Subject subject(const DeviceType &type) {
    return subject(std::string(type.name), [&type](Bench &b) {
        return type.make(std::string(type.name) + "0", b.resources, "");
    });
}

std::vector<u8> noise(u64 seed, std::size_t size) {
    std::vector<u8> out(size);
    u64 x = seed * 0x9e3779b97f4a7c15 + 1;
    for (u8 &b : out) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17; // xorshift64
        b = static_cast<u8>(x >> 32);
    }
    return out;
}

std::string run_script(Bench &bench, Device &device, std::span<const u8> bytes) {
    std::string seen;
    Script script(bytes);
    const auto windows = device.windows();
    while (!script.ended()) {
        const u64 op = script.take(1);
        if (op < 24 || windows.empty()) {
            bench.clock.advance(
                static_cast<Time>(script.take(1 + op % 4) % static_cast<u64>(longest_step)));
            continue;
        }
        if (op == 24) {
            device.reset();
            continue;
        }
        const std::size_t w = op % windows.size();
        // Half of the accesses are near the start, where most registers are.
        const u64 where = script.take(2);
        const u64 offset = (where & 1 ? where >> 1 : where >> 1 & 0x1f) % windows[w].size;
        const u64 address = bench.at(w) + offset;
        const unsigned size = 1u << script.take(1) % 4;
        if (op & 0x80)
            append(seen, "r", bench.cpu.read(windows[w].space, address, size));
        else
            bench.cpu.write(windows[w].space, address, size, script.take(size));
    }
    for (u32 n = 0; n < ProbeIrq::lines; ++n)
        if (bench.irq.level(n))
            append(seen, "line", n);
    for (const MsiMessage &m : bench.msi.take())
        append(seen, "msi", m.address ^ m.data);
    return seen;
}

std::string check_reset_is_idempotent(const Subject &s) {
    Machine m(s);
    const auto fresh = m.save();
    m.device().reset();
    if (const auto again = m.save(); again != fresh)
        return "a second reset changes the state: " + difference(fresh, again);
    for (unsigned seed = 1; seed <= rounds; ++seed) {
        run_script(m.bench, m.device(), noise(seed, script_size));
        m.device().reset();
        const auto once = m.save();
        m.device().reset();
        if (const auto twice = m.save(); once != twice)
            return "a second reset changes the state: " + difference(once, twice);
    }
    return "";
}

std::string check_windows_take_every_access(const Subject &s) {
    Machine m(s);
    const auto windows = m.device().windows();
    for (std::size_t w = 0; w < windows.size(); ++w) {
        if (!windows[w].size || !windows[w].target)
            return std::string("window '") + windows[w].name + "' has no size or no target";
        for (const u64 at : offsets(windows[w].size))
            for (const unsigned size : {1u, 2u, 4u, 8u}) {
                const u64 address = m.bench.at(w) + at;
                for (const u64 value : {u64{0}, ~u64{0}, 0x5aa5'3cc3'0ff0'9669ul + at}) {
                    m.bench.cpu.write(windows[w].space, address, size, value);
                    if (const u64 v = m.bench.cpu.read(windows[w].space, address, size);
                        size < 8 && v >> 8 * size)
                        return "a read gives more bits than were asked for";
                }
                m.bench.clock.advance(1000);
            }
    }
    return "";
}

std::string check_state_survives_save_and_load(const Subject &s) {
    Machine m(s);
    for (unsigned seed = 1; seed <= rounds; ++seed) {
        run_script(m.bench, m.device(), noise(seed, script_size));
        const auto saved = m.save();
        if (const auto again = m.save(); again != saved)
            return "saving changes the state: " + difference(saved, again);
        const Time then = m.bench.clock.now();
        run_script(m.bench, m.device(), noise(seed + 100, script_size));
        m.bench.clock.set(then);
        if (const auto done = Bench::load(m.device(), saved); !done)
            return "its own state is refused: " + done.error().what;
        if (const auto back = m.save(); back != saved)
            return "load does not restore what save wrote: " + difference(saved, back);
    }
    return "";
}

std::string check_a_restored_device_behaves_the_same(const Subject &s) {
    for (unsigned seed = 1; seed <= rounds; ++seed) {
        Machine original(s), restored(s);
        run_script(original.bench, original.device(), noise(seed, script_size));
        // The other one has a past of its own, so that what a load forgets is not right by chance.
        run_script(restored.bench, restored.device(), noise(seed + 50, script_size));
        restored.bench.clock.set(original.bench.clock.now());
        std::memcpy(restored.bench.ram->host(), original.bench.ram->host(),
                    original.bench.ram->size());
        if (const auto done = Bench::load(restored.device(), original.save()); !done)
            return "its own state is refused: " + done.error().what;
        const auto script = noise(seed + 200, script_size);
        const std::string a = run_script(original.bench, original.device(), script);
        const std::string b = run_script(restored.bench, restored.device(), script);
        if (a != b) {
            const auto at = static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
            const std::size_t from = at > 40 ? at - 40 : 0;
            return "after a load it behaves differently: ..." + a.substr(from, 80) + " became ..." +
                   b.substr(from, 80);
        }
        if (const auto x = original.save(), y = restored.save(); x != y)
            return "after a load it goes on differently: " + difference(x, y);
        if (std::memcmp(original.bench.ram->host(), restored.bench.ram->host(),
                        original.bench.ram->size()) != 0)
            return "after a load it writes other things to memory";
    }
    return "";
}

std::string check_damaged_state_is_refused_or_harmless(const Subject &s) {
    Machine m(s);
    run_script(m.bench, m.device(), noise(1, script_size));
    const auto stream = m.save();
    const Time then = m.bench.clock.now();
    const auto reader = state::Reader::open(stream);
    if (!reader || reader->sections().size() != 1)
        return "it does not save one section";
    const auto payload = reader->sections()[0].payload;
    const auto payload_at = static_cast<std::size_t>(payload.data() - stream.data());
    const auto script = noise(7, 64);
    std::size_t refused = 0;
    const std::size_t stride = 1 + payload.size() / 4096;
    for (std::size_t i = 0; i < payload.size(); i += stride)
        for (const unsigned change : {0x01u, 0x80u, 0xffu}) {
            run_script(m.bench, m.device(), script); // another state than the damaged one
            const auto before = m.save();
            const auto bad = with_byte(stream, payload_at, i, static_cast<u8>(payload[i] ^ change));
            if (!Bench::load(m.device(), bad)) {
                ++refused;
                if (const auto after = m.save(); after != before)
                    return "a state that it refuses changes it: " + difference(before, after);
                continue;
            }
            // What it takes it must be able to live with, and to save again.
            run_script(m.bench, m.device(), script);
            if (const auto again = m.save(); !Bench::load(m.device(), again))
                return "from a damaged state it comes into one that it refuses itself: " +
                       Bench::load(m.device(), again).error().what;
            m.device().reset();
            m.bench.clock.set(then);
        }
    // At least the names and the kinds of values are checked.
    if (!payload.empty() && !refused)
        return "it takes any state";
    return "";
}

std::string check_noise_ends(const Subject &s) {
    const auto start = std::chrono::steady_clock::now();
    for (unsigned seed = 1; seed <= 2 * rounds; ++seed) {
        Machine m(s);
        run_script(m.bench, m.device(), noise(seed + 1000, script_size));
        if (std::chrono::steady_clock::now() - start > std::chrono::seconds(60))
            return "noise of " + std::to_string(script_size) + " bytes keeps it busy for too long";
    }
    return "";
}

} // namespace rhea::conformance
