#include "dm/state/stream.h"
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <zlib.h>

namespace rhea::state {

namespace {

constexpr char magic[8] = {'R', 'H', 'E', 'A', 'S', 'T', 'A', 'T'};
constexpr u32 format = 1;

u32 crc(std::span<const u8> bytes) noexcept {
    return static_cast<u32>(crc32_z(0, bytes.data(), bytes.size()));
}

void append(std::vector<u8> &out, u64 value, unsigned size) {
    for (unsigned i = 0; i < size; ++i)
        out.push_back(static_cast<u8>(value >> 8 * i));
}

void append(std::vector<u8> &out, std::string_view s) {
    out.insert(out.end(), s.begin(), s.end());
}

// A cursor over hostile bytes: every step says whether it stayed inside.
struct Bytes {
    std::span<const u8> rest;

    bool integer(unsigned size, u64 &value) noexcept {
        if (rest.size() < size)
            return false;
        value = load_le(rest.data(), size);
        rest = rest.subspan(size);
        return true;
    }
    bool bytes(std::size_t n, std::span<const u8> &out) noexcept {
        if (rest.size() < n)
            return false;
        out = rest.first(n);
        rest = rest.subspan(n);
        return true;
    }
    bool text(unsigned length_size, std::string_view &out) noexcept {
        u64 n = 0;
        std::span<const u8> s;
        if (!integer(length_size, n) || !bytes(n, s))
            return false;
        out = {reinterpret_cast<const char *>(s.data()), s.size()};
        return true;
    }
};

} // namespace

// --- writing

std::size_t FieldWriter::begin_field(std::string_view name) {
    VERIFY(!name.empty() && name.size() <= 255);
    byte(static_cast<u8>(name.size()));
    append(out_, name);
    return begin_struct();
}

std::size_t FieldWriter::begin_struct() {
    raw(0, 4);
    return out_.size() - 4;
}

void FieldWriter::end_field(std::size_t length_at) {
    const std::size_t length = out_.size() - length_at - 4;
    VERIFY(length <= ~u32{0});
    store_le<u32>(&out_[length_at], static_cast<u32>(length));
}

void FieldWriter::raw(u64 value, unsigned size) {
    append(out_, value, size);
}

void FieldWriter::integer(char kind, unsigned size, u64 value) {
    byte(static_cast<u8>(kind));
    byte(static_cast<u8>(size));
    raw(value, size);
}

void FieldWriter::text(std::string_view s) {
    VERIFY(s.size() <= ~u32{0});
    byte('t');
    raw(s.size(), 4);
    append(out_, s);
}

Writer::Writer() {
    append(out_, {magic, sizeof magic});
    append(out_, format, 4);
}

std::size_t Writer::begin(std::string_view name, std::string_view type, u16 version) {
    VERIFY(name.size() <= 0xffff && type.size() <= 0xffff);
    const std::size_t start = out_.size();
    out_.push_back('S');
    append(out_, name.size(), 2);
    append(out_, name);
    append(out_, type.size(), 2);
    append(out_, type);
    append(out_, version, 2);
    length_at_ = out_.size();
    append(out_, 0, 4);
    return start;
}

void Writer::end(std::size_t start) {
    const std::size_t length = out_.size() - length_at_ - 4;
    VERIFY(length <= ~u32{0});
    store_le<u32>(&out_[length_at_], static_cast<u32>(length));
    append(out_, crc(std::span(out_).subspan(start)), 4);
    ++sections_;
}

std::vector<u8> Writer::finish() {
    out_.push_back('E');
    append(out_, sections_, 4);
    std::vector<u8> done = std::move(out_);
    *this = Writer();
    return done;
}

// --- reading

Result<Reader> Reader::open(std::span<const u8> stream) {
    Bytes in{stream};
    std::span<const u8> head;
    u64 version = 0;
    if (!in.bytes(sizeof magic, head) || std::memcmp(head.data(), magic, sizeof magic) != 0)
        return fail(EINVAL, "saved state: this is no saved state");
    if (!in.integer(4, version) || version != format)
        return fail(EINVAL, "saved state: format " + std::to_string(version) +
                                " is not one that this program reads (1)");
    Reader reader;
    for (;;) {
        const std::span<const u8> start = in.rest;
        u64 marker = 0;
        if (!in.integer(1, marker))
            return fail(EINVAL, "saved state: it is cut off");
        if (marker == 'E') {
            u64 count = 0;
            if (!in.integer(4, count) || count != reader.sections_.size() || !in.rest.empty())
                return fail(EINVAL, "saved state: it is cut off or damaged at its end");
            return reader;
        }
        Section s;
        u64 section_version = 0, length = 0, sum = 0;
        if (marker != 'S' || !in.text(2, s.name) || !in.text(2, s.type) ||
            !in.integer(2, section_version) || !in.integer(4, length) ||
            !in.bytes(length, s.payload))
            return fail(EINVAL, "saved state: it is cut off or damaged after " +
                                    std::to_string(reader.sections_.size()) + " sections");
        const auto covered = start.first(start.size() - in.rest.size());
        if (!in.integer(4, sum) || sum != crc(covered))
            return fail(EINVAL, "saved state: section " + std::to_string(reader.sections_.size()) +
                                    " is damaged (checksum)");
        s.version = static_cast<u16>(section_version);
        if (reader.find(s.name))
            return fail(EINVAL,
                        "saved state: section '" + std::string(s.name) + "' is there twice");
        reader.sections_.push_back(s);
    }
}

const Section *Reader::find(std::string_view name) const noexcept {
    const auto i = std::ranges::find(sections_, name, &Section::name);
    return i == sections_.end() ? nullptr : &*i;
}

Result<const Section *> Reader::check(std::string_view name, std::string_view type,
                                      u16 version) const {
    const Section *s = find(name);
    const std::string where = "saved state of '" + std::string(name) + "'";
    if (!s)
        return fail(ENOENT, where + ": it is missing");
    if (s->type != type)
        return fail(EINVAL, where + ": it is of a '" + std::string(s->type) + "', not of a '" +
                                std::string(type) + "'");
    if (s->version > version || s->version == 0)
        return fail(EINVAL, where + ": version " + std::to_string(s->version) +
                                " is newer than this program knows (" + std::to_string(version) +
                                ")");
    return s;
}

bool FieldReader::next_entry(std::span<const u8> &rest, Entry &entry) noexcept {
    Bytes in{rest};
    u64 length = 0;
    if (!in.text(1, entry.name) || entry.name.empty() || !in.integer(4, length) ||
        !in.bytes(length, entry.value))
        return false;
    rest = in.rest;
    return true;
}

FieldReader::FieldReader(std::span<const u8> payload, u16 version, std::string where)
    : version_(version), where_("saved state of '" + std::move(where) + "'") {
    while (!payload.empty()) {
        Entry e;
        if (!next_entry(payload, e)) {
            fail("its fields are damaged");
            return;
        }
        entries_.push_back(e);
    }
}

bool FieldReader::find(std::string_view name, u16 since, std::span<const u8> &value) {
    if (failed())
        return false;
    Entry *found = nullptr;
    for (Entry &e : entries_)
        if (e.name == name) {
            if (found) {
                fail("field '" + std::string(name) + "' is there twice");
                return false;
            }
            found = &e;
        }
    if (!found) {
        if (since <= version_)
            fail("field '" + std::string(name) + "' is missing");
        return false;
    }
    found->used = true;
    value = found->value;
    return true;
}

void FieldReader::fail(std::string what) {
    if (!failed())
        error_ = {EINVAL, where_ + ": " + std::move(what)};
}

void FieldReader::bad_value(std::string_view name) {
    fail("field '" + std::string(name) + "' has a value that it cannot have");
}

Result<> FieldReader::finish() {
    for (const Entry &e : entries_)
        if (!e.used)
            fail("field '" + std::string(e.name) + "' is not known");
    if (failed())
        return tl::unexpected<Error>(error_);
    return {};
}

bool FieldReader::take(Cursor &c, std::size_t n, const u8 *&p) noexcept {
    if (c.rest.size() < n)
        return false;
    p = c.rest.data();
    c.rest = c.rest.subspan(n);
    return true;
}

bool FieldReader::kind_is(Cursor &c, char kind) noexcept {
    const u8 *p = nullptr;
    return take(c, 1, p) && *p == static_cast<u8>(kind);
}

bool FieldReader::count_of(Cursor &c, u32 &count) noexcept {
    const u8 *p = nullptr;
    if (!take(c, 4, p))
        return false;
    count = load_le<u32>(p);
    return true;
}

bool FieldReader::integer(Cursor &c, unsigned size, u64 &value) noexcept {
    const u8 *p = nullptr;
    if (!take(c, 1, p) || *p != size || !take(c, size, p))
        return false;
    value = load_le(p, size);
    return true;
}

// --- listing

namespace {

// Recursion is bounded by the length of the stream over four bytes a level, and by this.
constexpr int deepest = 16;

bool dump_fields(std::span<const u8> payload, const std::string &prefix, std::string &out,
                 int depth);

bool dump_value(Bytes &in, const std::string &prefix, std::string &out, int depth) {
    u64 kind = 0, size = 0, n = 0;
    std::string_view text;
    std::span<const u8> inner;
    if (depth > deepest || !in.integer(1, kind))
        return false;
    char number[32];
    switch (kind) {
    case 'b':
        if (!in.integer(1, n))
            return false;
        out += n ? "true" : "false";
        return true;
    case 'u':
    case 'i':
        if (!in.integer(1, size) || size > 8 || !in.integer(static_cast<unsigned>(size), n))
            return false;
        std::snprintf(number, sizeof number, "0x%lx", n);
        out += number;
        return true;
    case 't':
        if (!in.text(4, text))
            return false;
        out += '"';
        out += text;
        out += '"';
        return true;
    case 'a':
    case 'v':
        if (!in.integer(4, n))
            return false;
        for (u64 i = 0; i < n; ++i) {
            out += i ? " " : "";
            if (!dump_value(in, prefix + "[" + std::to_string(i) + "]", out, depth + 1))
                return false;
        }
        return true;
    case 's':
        if (!in.integer(4, n) || !in.bytes(n, inner))
            return false;
        out += '{';
        if (!dump_fields(inner, prefix, out, depth + 1))
            return false;
        out += '}';
        return true;
    default: return false;
    }
}

bool dump_fields(std::span<const u8> payload, const std::string &prefix, std::string &out,
                 int depth) {
    Bytes in{payload};
    while (!in.rest.empty()) {
        std::string_view name;
        u64 length = 0;
        std::span<const u8> value;
        if (!in.text(1, name) || !in.integer(4, length) || !in.bytes(length, value))
            return false;
        const std::string path = prefix + "." + std::string(name);
        out += depth ? " " + std::string(name) + "=" : path + " = ";
        Bytes v{value};
        if (!dump_value(v, path, out, depth))
            return false;
        if (!depth)
            out += '\n';
    }
    return true;
}

} // namespace

std::string dump(const Reader &reader) {
    std::string out;
    for (const Section &s : reader.sections()) {
        const std::string name(s.name);
        out += "[" + name + "] " + std::string(s.type) + " version " + std::to_string(s.version) +
               "\n";
        if (!dump_fields(s.payload, name, out, 0))
            out += "\n(the rest of this section is damaged)\n";
    }
    return out;
}

} // namespace rhea::state
