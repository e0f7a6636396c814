#include "accel/kvm/cpuid.h"

#include "accel/kvm/abi.h"
#include "dm/core/config_error.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <linux/kvm_para.h>
#include <string>

namespace rhea::kvm {
namespace {

// Facts: SDM volume 2, CPUID; AMD CPUID Specification (25481).
enum Word : u8 { w1_edx, w1_ecx, w8_edx, w8_ecx, w7_ebx, w7_ecx, w7_edx, word_count };
struct Place {
    u32 leaf;
    u32 kvm_cpuid_entry2::*word;
};
constexpr Place places[word_count] = {
    {1, &kvm_cpuid_entry2::edx},           {1, &kvm_cpuid_entry2::ecx},
    {0x8000'0001, &kvm_cpuid_entry2::edx}, {0x8000'0001, &kvm_cpuid_entry2::ecx},
    {7, &kvm_cpuid_entry2::ebx},           {7, &kvm_cpuid_entry2::ecx},
    {7, &kvm_cpuid_entry2::edx},
};
constexpr u32 qemu64[word_count] = {0x078b'fbfd, 0x8000'2001, 0x2193'fbfd, 1, 0, 0, 0};
constexpr u32 x2apic = 1u << 21, tsc_deadline = 1u << 24, hypervisor = 1u << 31;

struct FeatureName {
    std::string_view name;
    Word word;
    u8 bit;
};
constexpr FeatureName names[] = {
    {"vme", w1_edx, 1},           {"mtrr", w1_edx, 12},     {"pge", w1_edx, 13},
    {"pat", w1_edx, 16},          {"clflush", w1_edx, 19},  {"mmx", w1_edx, 23},
    {"sse3", w1_ecx, 0},          {"pclmulqdq", w1_ecx, 1}, {"ssse3", w1_ecx, 9},
    {"fma", w1_ecx, 12},          {"cx16", w1_ecx, 13},     {"pcid", w1_ecx, 17},
    {"sse4.1", w1_ecx, 19},       {"sse4.2", w1_ecx, 20},   {"movbe", w1_ecx, 22},
    {"popcnt", w1_ecx, 23},       {"aes", w1_ecx, 25},      {"xsave", w1_ecx, 26},
    {"avx", w1_ecx, 28},          {"f16c", w1_ecx, 29},     {"rdrand", w1_ecx, 30},
    {"hypervisor", w1_ecx, 31},   {"syscall", w8_edx, 11},  {"nx", w8_edx, 20},
    {"pdpe1gb", w8_edx, 26},      {"rdtscp", w8_edx, 27},   {"lm", w8_edx, 29},
    {"lahf_lm", w8_ecx, 0},       {"abm", w8_ecx, 5},       {"sse4a", w8_ecx, 6},
    {"3dnowprefetch", w8_ecx, 8}, {"fsgsbase", w7_ebx, 0},  {"bmi1", w7_ebx, 3},
    {"avx2", w7_ebx, 5},          {"smep", w7_ebx, 7},      {"bmi2", w7_ebx, 8},
    {"erms", w7_ebx, 9},          {"invpcid", w7_ebx, 10},  {"rdseed", w7_ebx, 18},
    {"adx", w7_ebx, 19},          {"smap", w7_ebx, 20},     {"clflushopt", w7_ebx, 23},
    {"clwb", w7_ebx, 24},         {"sha", w7_ebx, 29},      {"umip", w7_ecx, 2},
    {"rdpid", w7_ecx, 22},
};

using Leaves = std::vector<kvm_cpuid_entry2>;

// kvm_cpuid2 (see abi.h): the number of leaves in the first 8 bytes, then the leaves.
class LeafList {
public:
    explicit LeafList(u32 count) : words_(1 + count * sizeof(kvm_cpuid_entry2) / 8) {
        words_[0] = count;
    }
    u64 *data() noexcept { return words_.data(); }
    u32 count() const noexcept { return u32(words_[0]); }
    kvm_cpuid_entry2 *leaves() noexcept {
        return reinterpret_cast<kvm_cpuid_entry2 *>(words_.data() + 1);
    }

private:
    std::vector<u64> words_;
};
static_assert(sizeof(kvm_cpuid_entry2) % 8 == 0);

Leaves supported(int device) {
    constexpr u32 most = 4096;
    for (u32 room = 128; room <= most; room *= 2) {
        LeafList list(room);
        if (::ioctl(device, abi::get_supported_cpuid, list.data()) == 0)
            return {list.leaves(), list.leaves() + list.count()};
        if (errno != E2BIG)
            break;
    }
    throw ConfigError(std::string("the engine kvm: KVM_GET_SUPPORTED_CPUID: ") +
                      std::strerror(errno));
}

kvm_cpuid_entry2 *find(Leaves &leaves, u32 leaf) {
    for (kvm_cpuid_entry2 &e : leaves)
        if (e.function == leaf && e.index == 0)
            return &e;
    return nullptr;
}

void edit(std::string_view option, std::string_view word, const u32 (&host)[word_count],
          u32 (&words)[word_count]) {
    const auto fail = [&](const std::string &why) {
        throw ConfigError("-cpu " + std::string(option) + ": " + why);
    };
    if (word.empty() || (word[0] != '+' && word[0] != '-'))
        fail("'" + std::string(word) + "': write +feature or -feature");
    for (const FeatureName &f : names) {
        if (f.name != word.substr(1))
            continue;
        const u32 bit = 1u << f.bit;
        if (word[0] == '-')
            words[f.word] &= ~bit;
        else if (host[f.word] & bit)
            words[f.word] |= bit;
        else
            fail("this host's KVM cannot give the feature '" + std::string(f.name) + "'");
        return;
    }
    fail("the engine kvm knows no CPU feature '" + std::string(word.substr(1)) + "'");
}

void adapt(Leaves &leaves, bool host_model, unsigned apic_id) {
    for (kvm_cpuid_entry2 &e : leaves)
        switch (e.function) {
        case 1:
            e.ebx = (e.ebx & 0xff00) | apic_id << 24 | 1u << 16;
            e.edx &= ~(1u << 28); // one logical processor a package
            if (!host_model)
                e.eax = 0x0006'0fb1; // family 15, model 107, stepping 1
            break;
        case 4: e.eax &= 0x3fff; break; // caches are shared with nobody
        case 0xb:
        case 0x1f:
            e.eax = e.ebx = 0;
            e.ecx &= 0xff;
            e.edx = apic_id;
            break;
        case 0x8000'0008: e.ecx &= ~0xf0ffu; break;
        // KVM's own: the clock and what needs no interrupt controller in the kernel.
        case KVM_CPUID_FEATURES:
            e.eax &= 1u << KVM_FEATURE_CLOCKSOURCE | 1u << KVM_FEATURE_NOP_IO_DELAY |
                     1u << KVM_FEATURE_CLOCKSOURCE2 | 1u << KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;
            break;
        default: break;
        }
    constexpr char brand[48] = "Rhea Virtual CPU";
    const char *text = brand;
    if (!host_model)
        for (u32 i = 0; i < 3; ++i)
            if (kvm_cpuid_entry2 *e = find(leaves, 0x8000'0002 + i))
                for (u32 *word : {&e->eax, &e->ebx, &e->ecx, &e->edx}) {
                    std::memcpy(word, text, 4);
                    text += 4;
                }
}

} // namespace

Leaves make_cpuid(int device, std::string_view spec, unsigned apic_id) {
    const std::string_view model = spec.substr(0, spec.find(','));
    const bool host_model = model == "host";
    if (!host_model && model != "qemu64")
        throw ConfigError("-cpu " + std::string(spec) + ": the engine kvm knows no CPU model '" +
                          std::string(model) + "' (there are: qemu64, host)");
    Leaves leaves = supported(device);
    u32 host[word_count]{}, words[word_count]{};
    for (unsigned w = 0; w < word_count; ++w)
        if (const kvm_cpuid_entry2 *e = find(leaves, places[w].leaf))
            host[w] = e->*places[w].word;
    // No such parts of the local APIC here; every guest may know that it is one.
    host[w1_ecx] = (host[w1_ecx] & ~(x2apic | tsc_deadline)) | hypervisor;
    for (unsigned w = 0; w < word_count; ++w)
        words[w] = host[w] & (host_model ? ~0u : qemu64[w]);
    for (usize at = spec.find(','); at != spec.npos;) {
        const usize next = spec.find(',', at + 1);
        edit(spec, spec.substr(at + 1, next == spec.npos ? next : next - at - 1), host, words);
        at = next;
    }
    for (unsigned w = 0; w < word_count; ++w)
        if (kvm_cpuid_entry2 *e = find(leaves, places[w].leaf))
            e->*places[w].word = words[w];
    if (!(words[w1_ecx] & 1u << 26)) // no XSAVE: nor its leaf
        std::erase_if(leaves, [](const kvm_cpuid_entry2 &e) { return e.function == 0xd; });
    adapt(leaves, host_model, apic_id);
    return leaves;
}

void set_cpuid(int vcpu, const Leaves &leaves) {
    LeafList list(u32(leaves.size()));
    std::copy(leaves.begin(), leaves.end(), list.leaves());
    if (::ioctl(vcpu, abi::set_cpuid2, list.data()) < 0)
        throw ConfigError(std::string("the engine kvm: KVM_SET_CPUID2: ") + std::strerror(errno));
}

} // namespace rhea::kvm
