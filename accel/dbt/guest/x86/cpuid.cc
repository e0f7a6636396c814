#include "accel/dbt/guest/x86/cpuid.h"

#include "accel/dbt/guest/x86/decode.h"
#include "accel/dbt/guest/x86/exec.h"
#include "accel/dbt/guest/x86/system.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <span>

namespace rhea::dbt::x86 {
namespace {

// The 32-bit words of feature bits. AMD CPUID Specification (25481), SDM volume 2, CPUID.
enum Word : u8 { w1_edx, w1_ecx, w8_edx, w8_ecx, w7_ebx, w7_ecx, w87_edx, word_count };

struct FeatureName {
    std::string_view name;
    Word word;
    u8 bit;
    bool implemented; // the core can run a guest that uses it
};
constexpr FeatureName feature_names[] = {
    {"fpu", w1_edx, 0, true},
    {"vme", w1_edx, 1, false},
    {"de", w1_edx, 2, true},
    {"pse", w1_edx, 3, true},
    {"tsc", w1_edx, 4, true},
    {"msr", w1_edx, 5, true},
    {"pae", w1_edx, 6, true},
    {"mce", w1_edx, 7, true},
    {"cx8", w1_edx, 8, true},
    {"apic", w1_edx, 9, true},
    {"sep", w1_edx, 11, true},
    {"mtrr", w1_edx, 12, true},
    {"pge", w1_edx, 13, true},
    {"mca", w1_edx, 14, true},
    {"cmov", w1_edx, 15, true},
    {"pat", w1_edx, 16, true},
    {"pse36", w1_edx, 17, true},
    {"clflush", w1_edx, 19, true},
    {"mmx", w1_edx, 23, true},
    {"fxsr", w1_edx, 24, true},
    {"sse", w1_edx, 25, true},
    {"sse2", w1_edx, 26, true},
    {"sse3", w1_ecx, 0, true},
    {"pclmulqdq", w1_ecx, 1, false},
    {"monitor", w1_ecx, 3, true},
    {"ssse3", w1_ecx, 9, false},
    {"fma", w1_ecx, 12, false},
    {"cx16", w1_ecx, 13, true},
    {"pcid", w1_ecx, 17, false},
    {"sse4.1", w1_ecx, 19, false},
    {"sse4.2", w1_ecx, 20, false},
    {"x2apic", w1_ecx, 21, false},
    {"movbe", w1_ecx, 22, true},
    {"popcnt", w1_ecx, 23, true},
    {"aes", w1_ecx, 25, false},
    {"xsave", w1_ecx, 26, false},
    {"avx", w1_ecx, 28, false},
    {"f16c", w1_ecx, 29, false},
    {"rdrand", w1_ecx, 30, false},
    {"hypervisor", w1_ecx, 31, true},
    {"syscall", w8_edx, 11, true},
    {"nx", w8_edx, 20, true},
    {"mmxext", w8_edx, 22, false},
    {"fxsr_opt", w8_edx, 25, false},
    {"pdpe1gb", w8_edx, 26, true},
    {"rdtscp", w8_edx, 27, true},
    {"lm", w8_edx, 29, true},
    {"3dnow", w8_edx, 31, false},
    {"lahf_lm", w8_ecx, 0, true},
    {"svm", w8_ecx, 2, false},
    {"abm", w8_ecx, 5, true},
    {"sse4a", w8_ecx, 6, false},
    {"3dnowprefetch", w8_ecx, 8, true},
    {"fsgsbase", w7_ebx, 0, true},
    {"bmi1", w7_ebx, 3, false},
    {"avx2", w7_ebx, 5, false},
    {"smep", w7_ebx, 7, true},
    {"bmi2", w7_ebx, 8, false},
    {"erms", w7_ebx, 9, true},
    {"invpcid", w7_ebx, 10, false},
    {"rdseed", w7_ebx, 18, false},
    {"adx", w7_ebx, 19, false},
    {"smap", w7_ebx, 20, true},
    {"clflushopt", w7_ebx, 23, true},
    {"clwb", w7_ebx, 24, true},
    {"sha", w7_ebx, 29, false},
    {"umip", w7_ecx, 2, true},
    {"rdpid", w7_ecx, 22, true},
    {"invtsc", w87_edx, 8, true},
};

constexpr u32 bits(std::span<const std::string_view> names, Word word) {
    u32 value = 0;
    for (std::string_view name : names)
        for (const FeatureName &f : feature_names)
            if (f.name == name && f.word == word)
                value |= 1u << f.bit;
    return value;
}

struct Model {
    std::string_view name;
    u32 level, extended_level;
    char vendor[13];
    unsigned family, model, stepping;
    char brand[49];
    u32 words[word_count];
    CpuidLeaf caches[4]; // leaves that are constants of the model
};

constexpr std::string_view k8_features[] = {
    "fpu",  "de",   "pse",  "tsc",        "msr",     "pae",   "mce",     "cx8",     "apic",  "sep",
    "mtrr", "pge",  "mca",  "cmov",       "pat",     "pse36", "clflush", "mmx",     "fxsr",  "sse",
    "sse2", "sse3", "cx16", "hypervisor", "syscall", "nx",    "lm",      "lahf_lm", "invtsc"};
// Leaf 8000_0001h EDX repeats these bits of leaf 1 EDX on AMD CPUs.
constexpr u32 amd_alias = 0x0183'f3ff;

constexpr Model models[] = {
    {"qemu64",
     0xd,
     0x8000'000a,
     "AuthenticAMD",
     15,
     107,
     1,
     "Rhea Virtual CPU",
     {bits(k8_features, w1_edx), bits(k8_features, w1_ecx), bits(k8_features, w8_edx),
      bits(k8_features, w8_ecx), 0, 0, bits(k8_features, w87_edx)},
     {{5, ~0u, 0, 0, 3, 0},
      {0x8000'0005, ~0u, 0x01ff'01ff, 0x01ff'01ff, 0x4002'0140, 0x4002'0140},
      {0x8000'0006, ~0u, 0, 0x4200'4200, 0x0200'8140, 0x0080'8140},
      {}}},
};
static_assert(models[0].words[w1_edx] == 0x078b'fbfd);
static_assert(models[0].words[w1_ecx] == 0x8000'2001);
static_assert((models[0].words[w8_edx] | (models[0].words[w1_edx] & amd_alias)) == 0x2193'fbfd);

void store_text(const char *text, u32 &a, u32 &b, u32 &c, u32 *d) {
    std::memcpy(&a, text, 4);
    std::memcpy(&b, text + 4, 4);
    std::memcpy(&c, text + 8, 4);
    if (d)
        std::memcpy(d, text + 12, 4);
}

// Family and model in CPUID's split form.
u32 signature(const Model &m) {
    const unsigned base = std::min(m.family, 15u);
    return (m.family - base) << 20 | (m.model >> 4) << 16 | base << 8 | (m.model & 15) << 4 |
           m.stepping;
}

struct LeafWriter {
    Cpu &cpu;
    void add(const CpuidLeaf &leaf) {
        if (cpu.cpuid_count < std::size(cpu.cpuid))
            cpu.cpuid[cpu.cpuid_count++] = leaf;
    }
};

void fill(Cpu &cpu, const Model &m, const u32 (&words)[word_count], const CpuTopology &topology) {
    cpu.cpuid_count = 0;
    LeafWriter writer{cpu};
    const bool amd = std::string_view(m.vendor) == "AuthenticAMD";
    const bool many = topology.count > 1;
    CpuidLeaf leaf{0, ~0u, m.level, 0, 0, 0};
    store_text(m.vendor, leaf.ebx, leaf.edx, leaf.ecx, nullptr);
    writer.add(leaf);
    u32 edx = words[w1_edx];
    if (many)
        edx |= 1u << 28;
    const u32 ebx =
        (topology.apic_id & 0xff) << 24 | (many ? (topology.count & 0xff) << 16 : 0) | 8u << 8;
    writer.add({1, ~0u, signature(m), ebx, words[w1_ecx], edx});
    writer.add({7, 0, 0, words[w7_ebx], words[w7_ecx], 0});
    for (const CpuidLeaf &constant : m.caches)
        if (constant.leaf != 0)
            writer.add(constant);

    leaf.leaf = 0x8000'0000;
    leaf.eax = m.extended_level;
    writer.add(leaf);
    const u32 edx8 = words[w8_edx] | (amd ? words[w1_edx] & amd_alias : 0);
    const u32 ecx8 = words[w8_ecx] | (many && amd ? 2u : 0); // CmpLegacy
    writer.add({0x8000'0001, ~0u, signature(m), 0, ecx8, edx8});
    for (u32 i = 0; i < 3; ++i) {
        CpuidLeaf brand{0x8000'0002 + i, ~0u, 0, 0, 0, 0};
        store_text(m.brand + 16 * i, brand.eax, brand.ebx, brand.ecx, &brand.edx);
        writer.add(brand);
    }
    writer.add({0x8000'0007, ~0u, 0, 0, 0, words[w87_edx]});
    const bool lm = (words[w8_edx] >> 29 & 1) != 0;
    writer.add({0x8000'0008, ~0u, (lm ? 48u : 32u) << 8 | 40, 0,
                many ? (topology.count - 1) & 0xff : 0, 0});

    cpu.features_1_edx_ecx = edx | u64{words[w1_ecx]} << 32;
    cpu.features_8000_0001 = edx8 | u64{ecx8} << 32;
    cpu.features_7_ebx_ecx = words[w7_ebx] | u64{words[w7_ecx]} << 32;
    cpu.phys_mask = (u64{1} << 40) - 1;
}

std::string joined(const std::vector<std::string_view> &names) {
    std::string text;
    for (std::string_view name : names) {
        if (!text.empty())
            text += ' ';
        text += name;
    }
    return text;
}

std::string edit(std::string_view word, u32 (&words)[word_count]) {
    const bool on = word.front() == '+';
    if (!on && word.front() != '-')
        return "CPU option '" + std::string(word) + "': write +feature or -feature";
    const std::string_view name = word.substr(1);
    for (const FeatureName &f : feature_names) {
        if (f.name != name)
            continue;
        if (on && !f.implemented)
            return "CPU feature '" + std::string(name) +
                   "' is not implemented by the translator; known: " + joined(cpu_feature_names());
        if (on)
            words[f.word] |= 1u << f.bit;
        else
            words[f.word] &= ~(1u << f.bit);
        return {};
    }
    return "unknown CPU feature '" + std::string(name) + "'; known: " + joined(cpu_feature_names());
}

const CpuidLeaf *find_leaf(const Cpu &cpu, u32 leaf, u32 subleaf) {
    for (u32 i = 0; i < cpu.cpuid_count; ++i) {
        const CpuidLeaf &l = cpu.cpuid[i];
        if (l.leaf == leaf && (l.subleaf == ~0u || l.subleaf == subleaf))
            return &l;
    }
    return nullptr;
}

} // namespace

std::vector<std::string_view> cpu_models() {
    std::vector<std::string_view> names;
    for (const Model &m : models)
        names.push_back(m.name);
    return names;
}

std::vector<std::string_view> cpu_feature_names() {
    std::vector<std::string_view> names;
    for (const FeatureName &f : feature_names)
        if (f.implemented)
            names.push_back(f.name);
    return names;
}

std::string set_cpu_model(Cpu &cpu, std::string_view spec, const CpuTopology &topology) {
    const usize comma = spec.find(',');
    const std::string_view name = spec.substr(0, comma);
    const Model *model = nullptr;
    for (const Model &m : models)
        if (m.name == name)
            model = &m;
    if (!model)
        return "unknown CPU model '" + std::string(name) + "'; known: " + joined(cpu_models());
    u32 words[word_count];
    std::copy(std::begin(model->words), std::end(model->words), words);
    for (usize at = comma; at != std::string_view::npos;) {
        const usize next = spec.find(',', at + 1);
        const std::string_view word =
            spec.substr(at + 1, next == std::string_view::npos ? next : next - at - 1);
        if (word.empty())
            return "CPU '" + std::string(spec) + "': empty feature";
        if (std::string error = edit(word, words); !error.empty())
            return error;
        at = next;
    }
    fill(cpu, *model, words, topology);
    return {};
}

void cpuid(const Cpu &cpu, u32 leaf, u32 subleaf, u32 (&out)[4]) noexcept {
    out[0] = out[1] = out[2] = out[3] = 0;
    const CpuidLeaf *l = find_leaf(cpu, leaf, subleaf);
    if (!l)
        return; // AMD CPUs answer zeros for what they do not have
    out[0] = l->eax;
    out[1] = l->ebx;
    out[2] = l->ecx;
    out[3] = l->edx;
    // What follows the CPU's state: the local APIC's enable bit, CR4.OSXSAVE.
    constexpr u32 apic = 1u << 9, osxsave = 1u << 27;
    if ((leaf == 1 || leaf == 0x8000'0001) && !(cpu.apic_base & 0x800))
        out[3] &= ~apic;
    if (leaf == 1 && (cpu.cr4 & cr4::osxsave))
        out[2] |= osxsave;
}

bool cpu_has(const Cpu &cpu, u16 feature) noexcept {
    const auto has_1d = [&](unsigned bit) { return (cpu.features_1_edx_ecx >> bit & 1) != 0; };
    const auto has_1c = [&](unsigned bit) {
        return (cpu.features_1_edx_ecx >> (32 + bit) & 1) != 0;
    };
    const auto has_8d = [&](unsigned bit) { return (cpu.features_8000_0001 >> bit & 1) != 0; };
    const auto has_8c = [&](unsigned bit) {
        return (cpu.features_8000_0001 >> (32 + bit) & 1) != 0;
    };
    const auto has_7b = [&](unsigned bit) { return (cpu.features_7_ebx_ecx >> bit & 1) != 0; };
    const auto has_7c = [&](unsigned bit) {
        return (cpu.features_7_ebx_ecx >> (32 + bit) & 1) != 0;
    };
    switch (Feature(feature)) {
    case Feature::none: return true;
    case Feature::fpu: return has_1d(0);
    case Feature::tsc: return has_1d(4);
    case Feature::msr: return has_1d(5);
    case Feature::cx8: return has_1d(8);
    case Feature::sep: return has_1d(11);
    case Feature::cmov: return has_1d(15);
    case Feature::clfsh: return has_1d(19);
    case Feature::mmx: return has_1d(23);
    case Feature::fxsr: return has_1d(24);
    case Feature::sse: return has_1d(25);
    case Feature::sse2: return has_1d(26);
    case Feature::sse3: return has_1c(0);
    case Feature::pclmulqdq: return has_1c(1);
    case Feature::monitor: return has_1c(3);
    case Feature::vmx: return has_1c(5);
    case Feature::ssse3: return has_1c(9);
    case Feature::cx16: return has_1c(13);
    case Feature::sse4_1: return has_1c(19);
    case Feature::sse4_2: return has_1c(20);
    case Feature::movbe: return has_1c(22);
    case Feature::popcnt: return has_1c(23);
    case Feature::aes: return has_1c(25);
    case Feature::xsave: return has_1c(26);
    case Feature::f16c: return has_1c(29);
    case Feature::rdrand: return has_1c(30);
    case Feature::syscall: return has_8d(11);
    case Feature::rdtscp: return has_8d(27);
    case Feature::long_mode: return has_8d(29);
    case Feature::three_d_now: return has_8d(31);
    case Feature::lahf64: return has_8c(0);
    case Feature::svm: return has_8c(2);
    case Feature::lzcnt: return has_8c(5);
    case Feature::sse4a: return has_8c(6);
    case Feature::prefetchw: return has_8c(8) || has_8d(29) || has_8d(31);
    case Feature::fsgsbase: return has_7b(0);
    case Feature::bmi1: return has_7b(3);
    case Feature::bmi2: return has_7b(8);
    case Feature::invpcid: return has_7b(10);
    case Feature::rdseed: return has_7b(18);
    case Feature::adx: return has_7b(19);
    case Feature::smap: return has_7b(20);
    case Feature::clflushopt: return has_7b(23);
    case Feature::clwb: return has_7b(24);
    case Feature::sha: return has_7b(29);
    case Feature::rdpid: return has_7c(22);
    case Feature::cet: return false;
    }
    return false;
}

} // namespace rhea::dbt::x86
