#include "dm/config/command_line.h"
#include "dm/config/typed.h"

#include <array>
#include <gtest/gtest.h>

namespace rhea::config {
namespace {

std::string message_of(auto &&fn) {
    try {
        fn();
    } catch (const ConfigError &e) {
        return e.what();
    }
    return "(no error)";
}

TEST(Config, split_knows_flags_escaped_commas_and_the_implied_key) {
    const auto items = split("512M,slots=2,file=a,,b=c,on-it", "size");
    ASSERT_EQ(items.size(), 4u);
    EXPECT_EQ(items[0].key, "size");
    EXPECT_EQ(items[0].value, "512M");
    EXPECT_EQ(items[2].key, "file");
    EXPECT_EQ(items[2].value, "a,b=c");
    EXPECT_EQ(items[3].key, "on-it");
    EXPECT_TRUE(items[3].bare);
    EXPECT_TRUE(split("").empty());
    EXPECT_EQ(split("a=1,,,b")[0].value, "1,");
    EXPECT_NE(message_of([] { split("a=1,=2"); }), "(no error)");
    EXPECT_NE(message_of([] { split("a=1,"); }), "(no error)");
}

TEST(Config, sizes) {
    constexpr u64 mib = u64{1} << 20;
    EXPECT_EQ(parse_size("512", mib), 512 * mib);
    EXPECT_EQ(parse_size("512M", mib), 512 * mib);
    EXPECT_EQ(parse_size("2048m", mib), 2048 * mib);
    EXPECT_EQ(parse_size("4G", mib), 4096 * mib);
    EXPECT_EQ(parse_size("1.5g"), 1536 * mib);
    EXPECT_EQ(parse_size("64k"), 64u << 10);
    EXPECT_EQ(parse_size("64KB"), 64u << 10);
    EXPECT_EQ(parse_size("100"), 100u);
    EXPECT_EQ(parse_size("100B"), 100u);
}

TEST(Config, bad_sizes_and_numbers_say_why) {
    for (const char *bad : {"", "M", "-1", "12x", "1..5G", "0x10M", " 5", "5 ", "G4", "1e3M"})
        EXPECT_NE(message_of([&] { parse_size(bad); }), "(no error)") << bad;
    EXPECT_EQ(message_of([] { parse_size("99999999999T"); }), "'99999999999T' is too large");
    for (const char *bad : {"", "0x", "0xg", "12 ", "-1", "1.5", "+3"})
        EXPECT_NE(message_of([&] { parse_number(bad); }), "(no error)") << bad;
    EXPECT_EQ(parse_number("0x3f8"), 0x3f8u);
    EXPECT_EQ(message_of([] { parse_number("70000", 0xffff); }),
              "'70000' is too large (at most 65535)");
}

TEST(Config, nearest_finds_typing_errors_and_nothing_else) {
    static constexpr std::array<std::string_view, 4> names{"kernel", "initrd", "append", "m"};
    EXPECT_EQ(nearest("kernle", names), "kernel");
    EXPECT_EQ(nearest("initrs", names), "initrd");
    EXPECT_EQ(nearest("apend", names), "append");
    EXPECT_EQ(nearest("frobnicate", names), "");
    EXPECT_EQ(nearest("x", names), "");
    EXPECT_EQ(nearest(std::string(100'000, 'k'), names), "");
}

struct Sample {
    u16 iobase = 0xe9;
    bool wait = false;
    std::string chardev{};
    u8 irq = 3;
    MemorySize mem{};
    static constexpr auto fields() {
        return describe<Sample>(Field<&Sample::iobase>{.help = "first port"},
                                Field<&Sample::wait>{}, Field<&Sample::chardev>{},
                                Field<&Sample::irq>{}, Field<&Sample::mem>{});
    }
};

TEST(Config, struct_is_filled_from_text) {
    const auto s = parse_options<Sample>("0x402,wait,chardev=a,,b,irq=4,mem=2", "iobase");
    EXPECT_EQ(s.iobase, 0x402);
    EXPECT_TRUE(s.wait);
    EXPECT_EQ(s.chardev, "a,b");
    EXPECT_EQ(s.irq, 4);
    EXPECT_EQ(s.mem.bytes, u64{2} << 20);
    const auto d = parse_options<Sample>("wait=off");
    EXPECT_EQ(d.iobase, 0xe9);
    EXPECT_FALSE(d.wait);
    EXPECT_EQ(d.irq, 3);
}

TEST(Config, struct_errors_name_the_key_and_the_nearest_one) {
    EXPECT_EQ(message_of([] { parse_options<Sample>("iobas=1"); }),
              "unknown key 'iobas', did you mean 'iobase'?");
    EXPECT_EQ(message_of([] { parse_options<Sample>("iobase=0x10000"); }),
              "iobase: '0x10000' is too large (at most 65535)");
    EXPECT_EQ(message_of([] { parse_options<Sample>("wait=maybe"); }),
              "wait: 'maybe' is neither on nor off");
    EXPECT_EQ(message_of([] { parse_options<Sample>("zzzzzz"); }),
              "unknown key 'zzzzzz' (known: iobase, wait, chardev, irq, mem)");
}

struct Wanted {
    std::string kernel;
    u64 mem = 0;
    int nographic = 0;
};
constexpr Option<Wanted> table[] = {
    {{"m", "", "[size=]MEGS", "guest memory", "Machine"},
     [](Wanted &w, std::string_view a) { w.mem = parse_size(a, 1 << 20); }},
    {{"kernel", "", "FILE", "boot this kernel", "Boot"},
     [](Wanted &w, std::string_view a) { w.kernel = a; }},
    {{"nographic", "", "", "use the terminal - all of it", "Display"},
     [](Wanted &w, std::string_view) { ++w.nographic; }},
};

Wanted parse(std::vector<std::string_view> words) {
    Wanted w;
    parse_command_line<Wanted>(table, words, w);
    return w;
}

TEST(CommandLine, one_or_two_dashes_any_order_later_overrides) {
    const Wanted w =
        parse({"--nographic", "-kernel", "k1", "-m", "64", "--kernel", "-k2", "-m", "1G"});
    EXPECT_EQ(w.kernel, "-k2");
    EXPECT_EQ(w.mem, u64{1} << 30);
    EXPECT_EQ(w.nographic, 1);
}

TEST(CommandLine, errors_name_the_option) {
    EXPECT_EQ(message_of([] {
                  parse({"-kernle", "x"});
              }),
              "-kernle: unknown option, did you mean '-kernel'?");
    EXPECT_EQ(message_of([] { parse({"--whatever"}); }),
              "--whatever: unknown option (-help lists them)");
    EXPECT_EQ(message_of([] { parse({"-kernel"}); }),
              "-kernel: an argument is missing: -kernel FILE");
    EXPECT_EQ(message_of([] {
                  parse({"-m", "12q"});
              }),
              "-m 12q: '12q' is no size (like 512M or 1.5G)");
    EXPECT_EQ(message_of([] { parse({"disk.img"}); }),
              "'disk.img': an option is expected here, which begins with '-'");
}

TEST(CommandLine, help_and_manual_list_every_option_under_its_section) {
    const auto t = texts<Wanted>(table);
    const std::string help = help_text(t), manual = manual_text(t);
    for (const auto &o : t) {
        EXPECT_NE(help.find("  -" + std::string(o.name)), std::string::npos) << o.name;
        EXPECT_NE(help.find(std::string(o.section) + ":\n"), std::string::npos);
        EXPECT_NE(manual.find(".TP\n.B \\-" + std::string(o.name)), std::string::npos);
    }
    EXPECT_NE(manual.find("terminal \\- all"), std::string::npos);
}

} // namespace
} // namespace rhea::config
