#include "hw/firmware/acpi/aml.h"

#include "dm/core/result.h"

namespace rhea::hw::aml {

namespace {

// Opcodes, ACPI 6.3 table 20.2.
enum : u8 {
    op_zero = 0x00,
    op_one = 0x01,
    op_name = 0x08,
    op_byte = 0x0a,
    op_word = 0x0b,
    op_dword = 0x0c,
    op_string = 0x0d,
    op_qword = 0x0e,
    op_scope = 0x10,
    op_buffer = 0x11,
    op_package = 0x12,
    op_method = 0x14,
    op_extended = 0x5b,
    op_argument = 0x68,
    op_store = 0x70,
    op_and = 0x7b,
    op_or = 0x7d,
    op_dword_field = 0x8a,
    op_less = 0x95,
    op_if = 0xa0,
    op_return = 0xa4,
    ext_region = 0x80,
    ext_field = 0x81,
    ext_device = 0x82,
};

Aml le(u64 value, unsigned bytes) {
    std::vector<u8> v;
    for (unsigned i = 0; i < bytes; ++i)
        v.push_back(u8(value >> 8 * i));
    return Aml(std::move(v));
}

/// PkgLength of `n` bytes that follow it; it counts itself (20.2.4).
Aml package_length(usize n, bool counts_itself = true) {
    for (unsigned more = 0; more <= 3; ++more) {
        const u64 total = n + (counts_itself ? more + 1 : 0);
        if (more == 0) {
            if (total < 0x40)
                return Aml{u8(total)};
        } else if (total < u64{1} << (4 + 8 * more)) {
            return Aml{u8(more << 6 | (total & 15))} + le(total >> 4, more);
        }
    }
    VERIFY(!"an AML package of 256 MiB");
}

Aml sized(const Aml &content) {
    return package_length(content.bytes().size()) + content;
}

Aml segment(std::string_view text) {
    VERIFY(!text.empty() && text.size() <= 4);
    std::vector<u8> v(text.begin(), text.end());
    v.resize(4, '_');
    return Aml(std::move(v));
}

} // namespace

Aml path(std::string_view text) {
    Aml out;
    if (text.starts_with('\\')) {
        out += Aml{'\\'};
        text.remove_prefix(1);
    }
    Aml segments;
    u8 n = 0;
    while (!text.empty()) {
        const std::string_view s = text.substr(0, text.find('.'));
        text.remove_prefix(std::min(text.size(), s.size() + 1));
        segments += segment(s);
        ++n;
    }
    if (n == 0)
        return out + Aml{0};
    if (n == 2)
        out += Aml{0x2e};
    else if (n > 2)
        out += Aml{0x2f, n};
    return out + segments;
}

Aml integer(u64 v) {
    if (v <= 1)
        return Aml{u8(v ? op_one : op_zero)};
    if (v <= 0xff)
        return Aml{op_byte} + le(v, 1);
    if (v <= 0xffff)
        return Aml{op_word} + le(v, 2);
    if (v <= 0xffff'ffff)
        return Aml{op_dword} + le(v, 4);
    return Aml{op_qword} + le(v, 8);
}

Aml string(std::string_view text) {
    return Aml{op_string} + Aml(std::vector<u8>(text.begin(), text.end())) + Aml{0};
}

Aml eisa_id(std::string_view id) {
    VERIFY(id.size() == 7);
    const auto letter = [&](usize i) { return u32(id[i] - '@') & 0x1f; };
    const auto digit = [&](usize i) { return u32(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10); };
    const u32 v = letter(0) << 26 | letter(1) << 21 | letter(2) << 16 | digit(3) << 12 |
                  digit(4) << 8 | digit(5) << 4 | digit(6);
    return Aml{op_dword, u8(v >> 24), u8(v >> 16), u8(v >> 8), u8(v)};
}

Aml buffer(const std::vector<u8> &bytes) {
    return Aml{op_buffer} + sized(integer(bytes.size()) + Aml(bytes));
}

Aml package(std::initializer_list<Aml> elements) {
    Aml content;
    for (const Aml &e : elements)
        content += e;
    return package_of(u8(elements.size()), content);
}
Aml package_of(u8 count, const Aml &elements) {
    return Aml{op_package} + sized(Aml{count} + elements);
}

Aml scope(std::string_view where, const Aml &body) {
    return Aml{op_scope} + sized(path(where) + body);
}
Aml device(std::string_view as, const Aml &body) {
    return Aml{op_extended, ext_device} + sized(path(as) + body);
}
Aml name(std::string_view as, const Aml &value) {
    return Aml{op_name} + path(as) + value;
}
Aml method(std::string_view as, u8 arguments, const Aml &body) {
    constexpr u8 serialized = 0x08;
    return Aml{op_method} + sized(path(as) + Aml{u8(arguments | serialized)} + body);
}

Aml region(std::string_view as, RegionSpace space, u64 offset, u64 length) {
    return Aml{op_extended, ext_region} + path(as) + Aml{u8(space)} + integer(offset) +
           integer(length);
}
Aml byte_field(std::string_view of, std::initializer_list<FieldUnit> units) {
    constexpr u8 byte_access = 1; // no lock, preserve
    Aml content = path(of) + Aml{byte_access};
    for (const FieldUnit &u : units)
        content += segment(u.as) + package_length(u.bits, false);
    return Aml{op_extended, ext_field} + sized(content);
}

Aml argument(u8 n) {
    return Aml{u8(op_argument + n)};
}
Aml store(const Aml &value, const Aml &to) {
    return Aml{op_store} + value + to;
}
Aml bit_and(const Aml &a, const Aml &b) {
    return Aml{op_and} + a + b + Aml{0};
}
Aml or_into(const Aml &a, const Aml &b, const Aml &to) {
    return Aml{op_or} + a + b + to;
}
Aml less(const Aml &a, const Aml &b) {
    return Aml{op_less} + a + b;
}
Aml if_true(const Aml &condition, const Aml &body) {
    return Aml{op_if} + sized(condition + body);
}
Aml give(const Aml &value) {
    return Aml{op_return} + value;
}
Aml dword_field_of(const Aml &buffer_name, u32 byte_offset, std::string_view as) {
    return Aml{op_dword_field} + buffer_name + integer(byte_offset) + segment(as);
}

// --- resources: 6.4.2 (small), 6.4.3 (large)

Aml resources(const Aml &descriptors) {
    return buffer((descriptors + Aml{0x79, 0x00}).bytes());
}
Aml io(u16 base, u8 length, u8 alignment) {
    return Aml{0x47, 0x01} + le(base, 2) + le(base, 2) + Aml{alignment, length};
}
Aml irq(u8 number) {
    return Aml{0x22} + le(1u << number, 2);
}
Aml interrupts(std::initializer_list<u32> numbers) {
    constexpr u8 consumer_level_high_shared = 0x09;
    Aml list{consumer_level_high_shared, u8(numbers.size())};
    for (const u32 n : numbers)
        list += le(n, 4);
    return Aml{0x89} + le(list.bytes().size(), 2) + list;
}
Aml fixed_memory(u32 base, u32 length) {
    return Aml{0x86, 0x09, 0x00, 0x01} + le(base, 4) + le(length, 4);
}

namespace {
/// Address space descriptors of 2, 4 and 8 byte fields: fixed at both ends, no translation.
Aml range(u8 tag, unsigned width, u8 type, u8 type_flags, u64 first, u64 last) {
    constexpr u8 producer_fixed = 0x0c;
    const Aml body = Aml{type, producer_fixed, type_flags} + le(0, width) + le(first, width) +
                     le(last, width) + le(0, width) + le(last - first + 1, width);
    return Aml{tag} + le(body.bytes().size(), 2) + body;
}
constexpr u8 word_range = 0x88, dword_range = 0x87, qword_range = 0x8a;
constexpr u8 type_memory = 0, type_io = 1, type_bus = 2;
} // namespace

Aml bus_numbers(u16 first, u16 last) {
    return range(word_range, 2, type_bus, 0, first, last);
}
Aml io_range(u16 first, u16 last) {
    constexpr u8 entire = 3;
    return range(word_range, 2, type_io, entire, first, last);
}
Aml memory_range(u32 first, u32 last, bool cacheable) {
    constexpr u8 read_write = 1, cached = 2;
    return range(dword_range, 4, type_memory, cacheable ? read_write | cached : read_write, first,
                 last);
}
Aml memory_range64(u64 first, u64 last) {
    constexpr u8 read_write_cached = 3;
    return range(qword_range, 8, type_memory, read_write_cached, first, last);
}

} // namespace rhea::hw::aml
