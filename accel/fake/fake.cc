#include "accel/fake/fake.h"

#include "dm/core/config_error.h"

#include <charconv>
#include <cstdio>

namespace rhea::accel {

namespace {

[[noreturn]] void bad_line(unsigned number, const std::string &what) {
    throw ConfigError("recording, line " + std::to_string(number) + ": " + what);
}

std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> words;
    constexpr std::string_view blank = " \t\r";
    line = line.substr(0, line.find('#'));
    for (usize at = line.find_first_not_of(blank); at != line.npos;
         at = line.find_first_not_of(blank, at)) {
        const usize end = std::min(line.find_first_of(blank, at), line.size());
        words.push_back(line.substr(at, end - at));
        at = end;
    }
    return words;
}

u64 number_of(std::string_view word, unsigned line) {
    const bool hex = word.starts_with("0x");
    const std::string_view digits = hex ? word.substr(2) : word;
    u64 value = 0;
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), value, hex ? 16 : 10);
    if (error != std::errc{} || end != digits.data() + digits.size())
        bad_line(line, "'" + std::string(word) + "' is no number");
    return value;
}

FakeStep parse_access(const std::vector<std::string_view> &w, unsigned line) {
    FakeStep step{.line = line};
    const bool port = w[0] == "in" || w[0] == "out", write = w[0] == "out" || w[0] == "write";
    step.request.space = port ? Space::port : Space::memory;
    step.request.direction = write ? Direction::write : Direction::read;
    if (w.size() < 3)
        bad_line(line, "a size and an address are missing");
    const u64 size = number_of(w[1], line);
    if (size != 1 && size != 2 && size != 4 && size != 8)
        bad_line(line, "the size must be 1, 2, 4 or 8");
    step.request.size = static_cast<u8>(size);
    step.request.address = number_of(w[2], line);
    if (write) {
        if (w.size() != 4)
            bad_line(line, "a write has one value");
        step.request.value = number_of(w[3], line);
    } else if (w.size() == 5 && w[3] == "=") {
        step.checked = w[4] != "?";
        step.expected = step.checked ? number_of(w[4], line) : 0;
    } else if (w.size() != 3) {
        bad_line(line, "a read ends in '= VALUE' or '= ?'");
    }
    return step;
}

std::string hex(u64 value) {
    char buffer[24];
    std::snprintf(buffer, sizeof buffer, "0x%lx", value);
    return buffer;
}
std::string name_of(u64 vector) {
    return vector == FakeStep::none ? "none" : hex(vector);
}

} // namespace

std::vector<FakeStep> parse_recording(std::string_view recording) {
    std::vector<FakeStep> steps;
    unsigned line = 0;
    while (!recording.empty()) {
        const usize end = std::min(recording.find('\n'), recording.size());
        const auto words = words_of(recording.substr(0, end));
        recording.remove_prefix(std::min(end + 1, recording.size()));
        ++line;
        if (words.empty())
            continue;
        if (words[0] == "irq") {
            if (words.size() != 2)
                bad_line(line, "irq takes a vector or 'none'");
            const u64 vector = words[1] == "none" ? FakeStep::none : number_of(words[1], line);
            steps.push_back({.kind = FakeStep::Kind::interrupt, .expected = vector, .line = line});
        } else if (words[0] == "in" || words[0] == "out" || words[0] == "read" ||
                   words[0] == "write") {
            steps.push_back(parse_access(words, line));
        } else {
            bad_line(line, "'" + std::string(words[0]) +
                               "' is no step; in, out, read, write and irq are");
        }
    }
    return steps;
}

void FakeVcpu::serve(Request &request) noexcept {
    if (!client_.serve_local(request))
        accessor_.serve(request);
}

u64 FakeVcpu::read(Space space, u64 address, unsigned size) noexcept {
    Request request{.space = space,
                    .direction = Direction::read,
                    .size = static_cast<u8>(size),
                    .address = address};
    serve(request);
    return request.value;
}

void FakeVcpu::write(Space space, u64 address, unsigned size, u64 value) noexcept {
    Request request{.space = space,
                    .direction = Direction::write,
                    .size = static_cast<u8>(size),
                    .address = address,
                    .value = value};
    serve(request);
}

int FakeVcpu::take_interrupt() noexcept {
    return interrupt_.load() ? client_.acknowledge_interrupt() : -1;
}

std::string FakeVcpu::play(const std::vector<FakeStep> &steps) {
    if (!running_)
        return "the vCPU is paused\n";
    std::string wrong;
    for (const FakeStep &step : steps) {
        if (step.kind == FakeStep::Kind::interrupt) {
            const u64 vector = static_cast<u64>(i64{take_interrupt()});
            if (vector != step.expected)
                wrong += "line " + std::to_string(step.line) + ": vector " + name_of(vector) +
                         ", recorded " + name_of(step.expected) + "\n";
            continue;
        }
        Request request = step.request;
        serve(request);
        if (step.checked && request.value != step.expected)
            wrong += "line " + std::to_string(step.line) + ": " + hex(request.address) + " reads " +
                     hex(request.value) + ", recorded " + hex(step.expected) + "\n";
    }
    return wrong;
}

void FakeVcpu::reset() {
    state_ = X86State{};
    interrupt_.store(false);
}

std::unique_ptr<Vcpu> FakeEngine::create_vcpu(const VcpuConfig &config, VcpuClient &client) {
    return std::make_unique<FakeVcpu>(map_, config.index, client);
}

} // namespace rhea::accel
