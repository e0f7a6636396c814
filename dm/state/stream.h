// The saved-state stream: what a machine is saved to and restored from.
//
//     header   "RHEASTAT", u32 format (1)
//     section  'S', u16 + name, u16 + type, u16 version, u32 payload length, payload, u32 CRC-32 of
//     the section
//     ...
//     end      'E', u32 number of sections
//     payload  fields: u8 + name, u32 length, value
//     value    a letter for the kind, then:  b bool (1 byte)   u/i integer (u8 size, little-endian)
//     t text (bytes)
//              a array, v sequence (u32 count, values)   s struct (u32 length, fields)
//
// All integers are little-endian. The stream says what each value is, so a reader can list one that
// it does not know; a section of a newer version than ours is refused, a field that is younger than
// the stream keeps its initialiser.
//
// Loading treats the stream as hostile: Reader::open checks all bounds and checksums first; a value
// of another kind or size, one above its field's maximum, a field that is missing, unknown or there
// twice is an Error that names it, and nothing of the section has been assigned by then. Memory is
// bounded by the length of the stream.
//
// No thread safety: one writer, one reader, one thread each.
#pragma once
#include "dm/core/describe.h"
#include "dm/core/endian.h"
#include "dm/core/result.h"
#include "dm/core/types.h"
#include <array>
#include <concepts>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace rhea::state {

namespace detail {

template <class T> inline constexpr bool is_array = false;
template <class T, std::size_t N> inline constexpr bool is_array<std::array<T, N>> = true;
template <class T> inline constexpr bool is_vector = false;
template <class T, class A> inline constexpr bool is_vector<std::vector<T, A>> = true;

template <class T> consteval char kind() {
    if constexpr (std::is_same_v<T, bool>)
        return 'b';
    else if constexpr (std::is_enum_v<T>)
        return kind<std::underlying_type_t<T>>();
    else if constexpr (std::unsigned_integral<T>)
        return 'u';
    else if constexpr (std::signed_integral<T>)
        return 'i';
    else if constexpr (std::is_same_v<T, std::string>)
        return 't';
    else if constexpr (is_array<T>)
        return 'a';
    else if constexpr (is_vector<T>)
        return 'v';
    else {
        static_assert(Described<T>,
                      "saved state: integers, enumerators, bool, std::string, std::array, "
                      "std::vector and structs with fields()");
        return 's';
    }
}

} // namespace detail

// The version of a described struct: the youngest of its fields. (A nested struct's youngest field
// counts for the section, not for the struct: raise `.since` on the outer field list by naming the
// section's version explicitly.)
template <Described S> consteval u16 version_of() {
    u16 v = 1;
    std::apply([&](const auto &...f) { ((v = f.since > v ? f.since : v), ...); }, S::fields());
    return v;
}

// Appends fields to a payload.
class FieldWriter {
public:
    explicit FieldWriter(std::vector<u8> &out) noexcept : out_(out) {}

    template <class T> void field(std::string_view name, const T &value) {
        const std::size_t length_at = begin_field(name);
        put(value);
        end_field(length_at);
    }
    template <Described S> void fields(const S &s) {
        each_field(s, [&](const auto &f, const auto &v) { field(f.name, v); });
    }

private:
    std::size_t begin_field(std::string_view name);
    std::size_t begin_struct();
    void end_field(std::size_t length_at);
    void byte(u8 b) { out_.push_back(b); }
    void integer(char kind, unsigned size, u64 value);
    void raw(u64 value, unsigned size);
    void text(std::string_view s);

    template <class T> void put(const T &value) {
        constexpr char kind = detail::kind<T>();
        if constexpr (kind == 'b') {
            byte('b');
            byte(value);
        } else if constexpr (kind == 'u' || kind == 'i') {
            integer(kind, sizeof value, static_cast<u64>(value));
        } else if constexpr (kind == 't') {
            text(value);
        } else if constexpr (kind == 'a' || kind == 'v') {
            byte(kind);
            raw(value.size(), 4);
            for (const auto &v : value)
                put(v);
        } else {
            byte('s');
            const std::size_t length_at = begin_struct();
            fields(value);
            end_field(length_at);
        }
    }

    std::vector<u8> &out_;
};

// Reads the fields of one payload, in any order; the first error sticks.
class FieldReader {
public:
    FieldReader(std::span<const u8> payload, u16 version, std::string where);

    u16 version() const noexcept { return version_; }

    // Assigns the field's value. Absent: no error if it is younger than the section (`since`), else
    // one.
    template <class T> void field(std::string_view name, T &to, u16 since = 1, u64 max = ~u64{0}) {
        std::span<const u8> value;
        if (!find(name, since, value))
            return;
        T t = to;
        Cursor c{value};
        if (!get(c, t, max) || !c.rest.empty())
            bad_value(name);
        else
            to = std::move(t);
    }
    template <Described S> void fields(S &s) {
        each_field(s, [&](const auto &f, auto &v) { field(f.name, v, f.since, f.max); });
    }

    // After the last field: the error, also if the payload has fields that nobody asked for.
    Result<> finish();
    bool failed() const noexcept { return error_.code != 0; }
    void fail(std::string what); // the section's own checks; keeps the first

private:
    struct Entry {
        std::string_view name;
        std::span<const u8> value;
        bool used = false;
    };
    struct Cursor {
        std::span<const u8> rest;
    };
    bool find(std::string_view name, u16 since, std::span<const u8> &value);
    void bad_value(std::string_view name);
    static bool take(Cursor &c, std::size_t n, const u8 *&p) noexcept;
    static bool kind_is(Cursor &c, char kind) noexcept;
    static bool count_of(Cursor &c, u32 &count) noexcept;
    static bool integer(Cursor &c, unsigned size, u64 &value) noexcept;

    template <class T> bool get(Cursor &c, T &to, u64 max) {
        constexpr char kind = detail::kind<T>();
        if (!kind_is(c, kind))
            return false;
        if constexpr (kind == 'b') {
            const u8 *p = nullptr;
            if (!take(c, 1, p) || *p > 1)
                return false;
            to = *p;
        } else if constexpr (kind == 'u' || kind == 'i') {
            u64 v = 0;
            if (!integer(c, sizeof(T), v))
                return false;
            if (kind == 'u' && v > max)
                return false;
            if (kind == 'i' &&
                max != ~u64{0}) { // a bound on a signed value is one on its magnitude
                const u64 magnitude = static_cast<i64>(v) < 0 ? u64{0} - v : v;
                if (magnitude > max)
                    return false;
            }
            to = static_cast<T>(v);
        } else if constexpr (kind == 't') {
            u32 n = 0;
            const u8 *p = nullptr;
            if (!count_of(c, n) || n > max || !take(c, n, p))
                return false;
            to.assign(reinterpret_cast<const char *>(p), n);
        } else if constexpr (kind == 'a') {
            u32 n = 0;
            if (!count_of(c, n) || n != to.size())
                return false;
            for (auto &v : to)
                if (!get(c, v, max))
                    return false;
        } else if constexpr (kind == 'v') { // `max` bounds the number of elements
            u32 n = 0;
            if (!count_of(c, n) || n > max)
                return false;
            to.clear();
            for (u32 i = 0; i < n;
                 ++i) { // each takes at least a byte, so this ends with the stream
                to.emplace_back();
                if (!get(c, to.back(), ~u64{0}))
                    return false;
            }
        } else {
            return nested(c, to);
        }
        return true;
    }
    template <class S> bool nested(Cursor &c, S &to) {
        constexpr std::size_t n = std::tuple_size_v<decltype(S::fields())>;
        std::array<Entry, n> entries{};
        std::size_t count = 0;
        bool ok = true;
        u32 bytes = 0;
        if (!count_of(c, bytes))
            return false;
        const u8 *p = nullptr;
        if (!take(c, bytes, p))
            return false;
        std::span<const u8> rest{p, bytes};
        while (!rest.empty()) {
            if (count == n || !next_entry(rest, entries[count]))
                return false;
            ++count;
        }
        std::size_t used = 0;
        each_field(to, [&](const auto &f, auto &v) {
            Entry *found = nullptr;
            for (std::size_t i = 0; i < count; ++i)
                if (entries[i].name == f.name && !entries[i].used) {
                    found = &entries[i];
                    break;
                }
            if (!found) {
                ok &= f.since > version_;
                return;
            }
            found->used = true;
            ++used;
            Cursor inner{found->value};
            ok &= get(inner, v, f.max) && inner.rest.empty();
        });
        return ok && used == count;
    }
    static bool next_entry(std::span<const u8> &rest, Entry &entry) noexcept;

    std::vector<Entry> entries_;
    u16 version_;
    std::string where_;
    Error error_;
};

class Writer {
public:
    Writer();

    // One section: fn(FieldWriter &) writes its fields. Names are unique in a stream.
    template <class Fn>
    void section(std::string_view name, std::string_view type, u16 version, Fn &&fn) {
        const std::size_t start = begin(name, type, version);
        FieldWriter fields(out_);
        fn(fields);
        end(start);
    }

    // The whole stream; the writer is empty afterwards.
    std::vector<u8> finish();

private:
    std::size_t begin(std::string_view name, std::string_view type, u16 version);
    void end(std::size_t start);

    std::vector<u8> out_;
    std::size_t length_at_ = 0;
    u32 sections_ = 0;
};

struct Section {
    std::string_view name;
    std::string_view type;
    u16 version = 0;
    std::span<const u8> payload;
};

// The sections of a stream; the bytes must outlive it.
class Reader {
public:
    static Result<Reader> open(std::span<const u8> stream);

    std::span<const Section> sections() const noexcept { return sections_; }
    const Section *find(std::string_view name) const noexcept;

    // Reads a section by fn(FieldReader &). An Error if it is missing, of another type or younger
    // than `version`, or if a field is wrong.
    template <class Fn>
    Result<> section(std::string_view name, std::string_view type, u16 version, Fn &&fn) const {
        auto found = check(name, type, version);
        if (!found)
            return tl::unexpected<Error>(std::move(found.error()));
        FieldReader fields((*found)->payload, (*found)->version, std::string(name));
        fn(fields);
        return fields.finish();
    }

private:
    Result<const Section *> check(std::string_view name, std::string_view type, u16 version) const;
    std::vector<Section> sections_;
};

// What a stream holds, as text, one line a field: for people and for tests that compare two
// streams.
std::string dump(const Reader &reader);

} // namespace rhea::state
