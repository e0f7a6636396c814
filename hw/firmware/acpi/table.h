#pragma once
// The header that every ACPI table but FACS and RSDP begins with (ACPI 6.3, 5.2.6), and its
// checksum.
#include <numeric>
#include <span>
#include <string_view>
#include <vector>

#include "dm/core/endian.h"

namespace rhea::hw {

struct AcpiHeader {
    char signature[4];
    Le<u32> length;
    u8 revision;
    u8 checksum;
    char oem_id[6];
    char oem_table_id[8];
    Le<u32> oem_revision;
    char creator_id[4];
    Le<u32> creator_revision;
};
static_assert(sizeof(AcpiHeader) == 36);

/// What makes the bytes add up to 0 where 0 stands now.
inline u8 acpi_checksum(std::span<const u8> bytes) {
    return u8(-std::accumulate(bytes.begin(), bytes.end(), 0u));
}

std::vector<u8> with_header(std::string_view signature, u8 revision, std::span<const u8> body);

} // namespace rhea::hw
