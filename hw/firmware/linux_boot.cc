#include "hw/firmware/linux_boot.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "dm/config/key_value.h"
#include "dm/core/config_error.h"
#include "dm/core/endian.h"
#include "dm/core/result.h"
#include "dm/mem/dma.h"
#include "hw/firmware/file.h"

namespace rhea::hw {

namespace {

/// Offsets in the file's first sectors and in boot_params alike.
enum Header : u32 {
    SETUP_SECTS = 0x1f1,
    SYSSIZE = 0x1f4,
    BOOT_FLAG = 0x1fe,
    JUMP = 0x200,
    HEADER = 0x202,
    VERSION = 0x206,
    TYPE_OF_LOADER = 0x210,
    LOADFLAGS = 0x211,
    CODE32_START = 0x214,
    RAMDISK_IMAGE = 0x218,
    RAMDISK_SIZE = 0x21c,
    CMD_LINE_PTR = 0x228,
    INITRD_ADDR_MAX = 0x22c,
    CMDLINE_SIZE = 0x238,
    PREF_ADDRESS = 0x258,
    INIT_SIZE = 0x260,
    HEADER_END = 0x268,
};
/// Offsets in boot_params alone.
enum BootParams : u32 {
    ACPI_RSDP_ADDR = 0x070,
    ALT_MEM_K = 0x1e0,
    E820_ENTRIES = 0x1e8,
    E820_TABLE = 0x2d0
};
constexpr u8 LOADED_HIGH = 0x01;

// Where we put things in conventional memory, which is free before the kernel takes over.
constexpr u32 boot_params_at = 0x10000, gdt_at = 0x11000, command_line_at = 0x12000,
              command_line_room = 0x10000;
constexpr u32 conventional_end = 0x9fc00;
constexpr u32 kernel_at = 0x100000;
constexpr u64 four_gib = u64{1} << 32;

std::string mib(u64 bytes) {
    return std::to_string((bytes + 0xf'ffff) >> 20) + " MiB";
}

/// The kernel file's own description of itself, checked.
struct Image {
    std::array<u8, HEADER_END> head{};
    u16 version = 0;
    u64 setup_size = 0;  // bytes of the file before the protected-mode part
    u64 kernel_size = 0; // bytes of that
    u64 needs_up_to = 0; // guest-physical end of what it uses before it looks at the memory map
    u32 initrd_max = 0;
    u32 command_line_max = 0;
};

Image examine(const File &file) {
    Image k;
    if (file.size() < 4)
        throw ConfigError("is no Linux kernel: the file is empty");
    const auto n = std::min<u64>(file.size(), k.head.size());
    file.read(0, std::span(k.head).first(n));
    if (std::memcmp(k.head.data(), "\177ELF", 4) == 0)
        throw ConfigError("is an ELF file; a bzImage is expected (like Debian's /boot/vmlinuz-*)");
    if (k.head[0] == 0x1f && k.head[1] == 0x8b)
        throw ConfigError("is a gzip file; a bzImage is expected (an initrd goes to -initrd)");
    const bool has_header = n > HEADER + 4 && load_le<u16>(&k.head[BOOT_FLAG]) == 0xaa55 &&
                            std::memcmp(&k.head[HEADER], "HdrS", 4) == 0;
    if (!has_header)
        throw ConfigError("is no Linux kernel: it has no boot header");
    if (n < k.head.size())
        throw ConfigError("is truncated: it ends within the boot header");

    k.version = load_le<u16>(&k.head[VERSION]);
    if (k.version < 0x0206)
        throw ConfigError("is too old a kernel: boot protocol " + std::to_string(k.version >> 8) +
                          '.' + std::to_string(k.version & 0xff) +
                          ", 2.6 is needed (Linux 2.6.22)");
    if (!(k.head[LOADFLAGS] & LOADED_HIGH))
        throw ConfigError("is a zImage, which loads below 1 MiB; a bzImage is expected");
    const u8 sectors = k.head[SETUP_SECTS];
    k.setup_size = (u64{sectors ? sectors : u8{4}} + 1) * 512;
    const u64 paragraphs = load_le<u32>(&k.head[SYSSIZE]);
    // The size is rounded up to 16 bytes; signatures may follow it.
    if (!paragraphs || file.size() + 15 < k.setup_size + paragraphs * 16)
        throw ConfigError("is truncated: its header tells of " +
                          std::to_string(k.setup_size + paragraphs * 16) + " bytes, the file has " +
                          std::to_string(file.size()));
    k.kernel_size = std::min(paragraphs * 16, file.size() - k.setup_size);
    k.initrd_max = load_le<u32>(&k.head[INITRD_ADDR_MAX]);
    k.command_line_max = load_le<u32>(&k.head[CMDLINE_SIZE]);
    k.needs_up_to = kernel_at + k.kernel_size;
    if (k.version >= 0x020a) {
        const u64 preferred = load_le<u64>(&k.head[PREF_ADDRESS]);
        const u64 end = preferred + load_le<u32>(&k.head[INIT_SIZE]);
        if (preferred >= four_gib || end > four_gib)
            throw ConfigError("wants to be above 4 GiB, where the 32-bit entry cannot put it");
        k.needs_up_to = std::max(k.needs_up_to, end);
    }
    return k;
}

/// Guest RAM as the loader writes it. What is written was checked to be RAM.
class Loader {
public:
    explicit Loader(AddressMap &map) : dma_(map) {}
    void put(u64 at, std::span<const u8> bytes) { VERIFY(dma_.write(at, bytes)); }
    void put(u64 at, const File &file, u64 offset, u64 size) {
        while (size) {
            PinnedSpan part = dma_.pin(at, size, Dma::For::writing);
            VERIFY(part);
            file.read(offset, part.bytes());
            at += part.size();
            offset += part.size();
            size -= part.size();
        }
    }

private:
    Dma dma_;
};

class E820 {
public:
    enum Type : u32 { ram = 1, reserved = 2, nvs = 4 };
    void add(u64 start, u64 end, Type type) {
        if (start >= end)
            return;
        std::array<u8, 20> e;
        store_le<u64>(&e[0], start);
        store_le<u64>(&e[8], end - start);
        store_le<u32>(&e[16], type);
        bytes.insert(bytes.end(), e.begin(), e.end());
    }
    std::vector<u8> bytes;
};

constexpr std::array<u64, 4> gdt{
    0, 0,
    0x00cf'9b00'0000'ffff, // code: 0 to 4 GiB, 32 bits
    0x00cf'9300'0000'ffff, // data
};

template <class Fn> auto about(const std::string &option, Fn &&fn) {
    try {
        return fn();
    } catch (const ConfigError &e) {
        throw ConfigError(option + ": " + e.what());
    }
}

} // namespace

LinuxEntry load_linux(AddressMap &map, const LinuxBoot &boot, const RamLayout &ram,
                      const AcpiTables &acpi) {
    const std::string option = "-kernel " + boot.kernel;
    const File kernel_file = about(option, [&] { return File(boot.kernel); });
    const Image k = about(option, [&] { return examine(kernel_file); });
    Loader load(map);

    u64 rsdp_at = 0;
    const u64 acpi_size = (place_tables(acpi, 0, rsdp_at).size() + 0xfff) & ~u64{0xfff};
    const u64 top = std::min<u64>(ram.below_4g, four_gib) & ~u64{0xfff};
    if (top < acpi_size + k.needs_up_to)
        throw ConfigError(
            option + ": this kernel needs at least " + mib(k.needs_up_to + acpi_size) +
            " of memory to start, and the guest has " + mib(ram.below_4g + ram.above_4g) + " (-m)");
    const u64 acpi_at = top - acpi_size;

    std::vector<u8> params(4096);
    std::copy_n(k.head.begin() + SETUP_SECTS, HEADER_END - SETUP_SECTS,
                params.begin() + SETUP_SECTS);
    // The header ends where its own jump over it leads to; what follows it in the file is code.
    const u32 header_end = JUMP + 2u + k.head[JUMP + 1];
    if (header_end < HEADER_END)
        std::fill(params.begin() + header_end, params.begin() + HEADER_END, u8{0});

    if (!boot.initrd.empty()) {
        const std::string initrd_option = "-initrd " + boot.initrd;
        const File initrd = about(initrd_option, [&] { return File(boot.initrd); });
        const u64 limit = std::min<u64>(acpi_at, u64{k.initrd_max} + 1) & ~u64{0xfff};
        const u64 size = (initrd.size() + 0xfff) & ~u64{0xfff};
        if (initrd.size() == 0)
            throw ConfigError(initrd_option + ": the file is empty");
        if (limit < k.needs_up_to || limit - k.needs_up_to < size) {
            const bool by_kernel = k.needs_up_to + size > u64{k.initrd_max} + 1;
            throw ConfigError(
                initrd_option + ": does not fit: it has " + mib(initrd.size()) +
                (by_kernel ? ", and this kernel takes an initrd below " + mib(k.initrd_max)
                           : "; with this kernel the guest needs at least " +
                                 mib(k.needs_up_to + size + acpi_size) + " of memory (-m)"));
        }
        const u64 at = limit - size;
        about(initrd_option, [&] { load.put(at, initrd, 0, initrd.size()); });
        store_le<u32>(&params[RAMDISK_IMAGE], u32(at));
        store_le<u32>(&params[RAMDISK_SIZE], u32(initrd.size()));
    }

    if (boot.command_line.size() > std::min(k.command_line_max, command_line_room - 1))
        throw ConfigError(
            "-append: the command line has " + std::to_string(boot.command_line.size()) +
            " bytes, this kernel takes at most " + std::to_string(k.command_line_max));
    std::vector<u8> line(boot.command_line.begin(), boot.command_line.end());
    line.push_back(0);
    load.put(command_line_at, line);
    store_le<u32>(&params[CMD_LINE_PTR], command_line_at);

    about(option, [&] { load.put(kernel_at, kernel_file, k.setup_size, k.kernel_size); });
    store_le<u32>(&params[CODE32_START], kernel_at);
    params[TYPE_OF_LOADER] = 0xff; // no number assigned

    load.put(acpi_at, place_tables(acpi, acpi_at, rsdp_at));
    store_le<u64>(&params[ACPI_RSDP_ADDR], rsdp_at);

    E820 map_table;
    map_table.add(0, conventional_end, E820::ram);
    map_table.add(conventional_end, 0xa0000, E820::reserved);
    map_table.add(0xf0000, 0x100000, E820::reserved);
    map_table.add(0x100000, acpi_at, E820::ram);
    map_table.add(acpi_at, ram.below_4g, E820::nvs);
    map_table.add(0xfffc0000, four_gib, E820::reserved); // where firmware's flash is
    map_table.add(four_gib, four_gib + ram.above_4g, E820::ram);
    params[E820_ENTRIES] = u8(map_table.bytes.size() / 20);
    std::ranges::copy(map_table.bytes, params.begin() + E820_TABLE);
    store_le<u32>(&params[ALT_MEM_K], u32((acpi_at - 0x100000) >> 10));
    load.put(boot_params_at, params);

    std::array<u8, sizeof gdt> gdt_bytes;
    for (usize i = 0; i < gdt.size(); ++i)
        store_le<u64>(&gdt_bytes[8 * i], gdt[i]);
    load.put(gdt_at, gdt_bytes);
    return {kernel_at, boot_params_at, gdt_at, sizeof gdt - 1};
}

} // namespace rhea::hw
