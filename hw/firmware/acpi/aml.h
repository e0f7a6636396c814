#pragma once
// ACPI machine language, assembled term by term: each function returns the bytes of one term, terms
// are joined by `+`.
//
//     device("RTC", name("_HID", eisa_id("PNP0B00")) + name("_CRS", resources(io(0x70, 2) +
//     irq(8))))
//
// Encodings: ACPI specification 6.3, chapter 20 (AML) and 6.4 (resource descriptors). For our own
// tables only: names and sizes that cannot be encoded are our mistakes and end in VERIFY.
#include <initializer_list>
#include <string_view>
#include <vector>

#include "dm/core/types.h"

namespace rhea::hw::aml {

class Aml {
public:
    Aml() = default;
    Aml(std::initializer_list<u8> bytes) : bytes_(bytes) {}
    explicit Aml(std::vector<u8> bytes) : bytes_(std::move(bytes)) {}
    const std::vector<u8> &bytes() const { return bytes_; }
    Aml &operator+=(const Aml &o) {
        bytes_.insert(bytes_.end(), o.bytes_.begin(), o.bytes_.end());
        return *this;
    }
    friend Aml operator+(Aml a, const Aml &b) { return std::move(a += b); }

private:
    std::vector<u8> bytes_;
};

/// "\\_SB.PCI0", "_HID", "LNKA": segments are padded with '_'.
Aml path(std::string_view text);

Aml integer(u64 value);
Aml string(std::string_view text);
/// "PNP0A03" as the integer that _HID wants.
Aml eisa_id(std::string_view id);
Aml buffer(const std::vector<u8> &bytes);
Aml package(std::initializer_list<Aml> elements);
/// The same of `count` elements that stand one after another.
Aml package_of(u8 count, const Aml &elements);

Aml scope(std::string_view where, const Aml &body);
Aml device(std::string_view as, const Aml &body);
Aml name(std::string_view as, const Aml &value);
/// Serialized, since bodies create names.
Aml method(std::string_view as, u8 arguments, const Aml &body);

enum class RegionSpace : u8 { memory = 0, io = 1, pci_config = 2 };
Aml region(std::string_view as, RegionSpace space, u64 offset, u64 length);
struct FieldUnit {
    std::string_view as;
    u32 bits;
};
/// Byte accesses, no lock, preserve.
Aml byte_field(std::string_view of, std::initializer_list<FieldUnit> units);

Aml argument(u8 n);
Aml store(const Aml &value, const Aml &to);
Aml bit_and(const Aml &a, const Aml &b);
Aml or_into(const Aml &a, const Aml &b, const Aml &to);
Aml less(const Aml &a, const Aml &b);
Aml if_true(const Aml &condition, const Aml &body);
Aml give(const Aml &value);
Aml dword_field_of(const Aml &buffer_name, u32 byte_offset, std::string_view as);

// Resource descriptors; resources() makes the buffer of them with its end tag.
Aml resources(const Aml &descriptors);
Aml io(u16 base, u8 length, u8 alignment = 1);
Aml irq(u8 number);
/// The extended descriptor, level triggered, active high, shared; its first number is at byte 5.
Aml interrupts(std::initializer_list<u32> numbers);
Aml fixed_memory(u32 base, u32 length);
Aml bus_numbers(u16 first, u16 last);
Aml io_range(u16 first, u16 last);
Aml memory_range(u32 first, u32 last, bool cacheable);
Aml memory_range64(u64 first, u64 last);

} // namespace rhea::hw::aml
