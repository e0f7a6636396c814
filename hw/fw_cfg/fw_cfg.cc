#include "hw/fw_cfg/fw_cfg.h"

#include "dm/core/bits.h"
#include "dm/core/config_error.h"
#include "dm/core/endian.h"

#include <algorithm>
#include <cstring>

namespace rhea::hw {

namespace {

constexpr u32 DMA_ERROR = 0x01, DMA_READ = 0x02, DMA_SKIP = 0x04, DMA_SELECT = 0x08,
              DMA_WRITE = 0x10;
constexpr u32 ID_TRADITIONAL = 1, ID_DMA = 2;
constexpr u64 dma_signature = 0x51454d55'20434647; // "QEMU CFG"

struct DmaAccess {
    Be<u32> control, length;
    Be<u64> address;
};
static_assert(sizeof(DmaAccess) == 16);

struct DirectoryEntry {
    Be<u32> size;
    Be<u16> key, reserved;
    char name[56];
};
static_assert(sizeof(DirectoryEntry) == 64);

} // namespace

FwCfg::FwCfg(std::string name, AddressMap &map)
    : StateDevice(std::move(name)), dma_(map), ports_(*this, "fw_cfg", {.max_size = 2}),
      dma_ports_(*this, "fw_cfg dma", {.max_size = 8}), windows_{Window{"ports", Space::port, 0x510,
                                                                        2, &ports_},
                                                                 Window{"dma", Space::port, 0x514,
                                                                        8, &dma_ports_}} {
    const std::string_view magic = "QEMU";
    add_item(signature, {magic.begin(), magic.end()});
    add_u32(id, ID_TRADITIONAL | ID_DMA);
    write_directory();
}

void FwCfg::add_item(u16 key, std::vector<u8> bytes) {
    items_[key] = std::move(bytes);
}

void FwCfg::add_u16(u16 key, u16 value) {
    std::vector<u8> bytes(sizeof value);
    store_le<u16>(bytes.data(), value);
    add_item(key, std::move(bytes));
}
void FwCfg::add_u32(u16 key, u32 value) {
    std::vector<u8> bytes(sizeof value);
    store_le<u32>(bytes.data(), value);
    add_item(key, std::move(bytes));
}
void FwCfg::add_u64(u16 key, u64 value) {
    std::vector<u8> bytes(sizeof value);
    store_le<u64>(bytes.data(), value);
    add_item(key, std::move(bytes));
}
void FwCfg::add_string(u16 key, std::string_view text) {
    std::vector<u8> bytes(text.begin(), text.end());
    bytes.push_back(0);
    add_item(key, std::move(bytes));
}

void FwCfg::add_file(std::string name, std::vector<u8> bytes) {
    if (name.empty() || name.size() >= sizeof(DirectoryEntry::name))
        throw ConfigError("fw_cfg: the file name '" + name + "' must have 1 to 55 bytes");
    const auto found = files_.find(name);
    if (found == files_.end() && files_.size() >= 0x3fff - first_file)
        throw ConfigError("fw_cfg: too many files");
    const u16 key =
        found != files_.end() ? found->second : static_cast<u16>(first_file + files_.size());
    files_[std::move(name)] = key;
    items_[key] = std::move(bytes);
    write_directory();
}

const std::vector<u8> *FwCfg::file(std::string_view name) const noexcept {
    const auto found = files_.find(name);
    return found == files_.end() ? nullptr : &items_.find(found->second)->second;
}

void FwCfg::write_directory() {
    std::vector<u8> bytes(4 + files_.size() * sizeof(DirectoryEntry));
    store_be<u32>(bytes.data(), static_cast<u32>(files_.size()));
    u8 *to = bytes.data() + 4;
    for (const auto &[name, key] : files_) {
        DirectoryEntry entry{};
        entry.size = static_cast<u32>(items_[key].size());
        entry.key = key;
        std::memcpy(entry.name, name.data(), name.size());
        std::memcpy(to, &entry, sizeof entry);
        to += sizeof entry;
    }
    items_[file_directory] = std::move(bytes);
}

std::span<const u8> FwCfg::current() const noexcept {
    const auto item = items_.find(s.selected);
    if (item == items_.end() || s.offset >= item->second.size())
        return {};
    return std::span(item->second).subspan(s.offset);
}

void FwCfg::advance(u64 n) noexcept {
    s.offset = static_cast<u32>(std::min<u64>(s.offset + n, ~u32{0}));
}

// Bit 14 asked for write access in old versions; the other bits are the number.
void FwCfg::select(u16 key) noexcept {
    s.selected = key & 0xbfff;
    s.offset = 0;
}

u64 FwCfg::read_ports(u64 at, unsigned size) noexcept {
    if (at != 1 || size != 1) // the selector cannot be read
        return size_mask(size);
    const auto bytes = current();
    advance(1);
    return bytes.empty() ? 0 : bytes[0];
}

void FwCfg::write_ports(u64 at, unsigned size, u64 value) noexcept {
    if (at == 0 && size == 2)
        select(static_cast<u16>(value));
}

u64 FwCfg::read_dma(u64 at, unsigned size) noexcept {
    return byte_swap(dma_signature) >> 8 * at & size_mask(size);
}

void FwCfg::write_dma(u64 at, unsigned size, u64 value) noexcept {
    if (size == 8) {
        run_dma(byte_swap(value));
    } else if (size == 4 && at == 0) {
        s.dma_high = byte_swap(static_cast<u32>(value));
    } else if (size == 4 && at == 4) {
        run_dma(u64{s.dma_high} << 32 | byte_swap(static_cast<u32>(value)));
    }
}

// What the control word becomes: 0, or the error bit.
u32 FwCfg::transfer(u32 control, u32 length, u64 address) noexcept {
    if (control & DMA_SELECT)
        select(static_cast<u16>(control >> 16));
    if (control & DMA_READ) {
        const auto bytes = current();
        const u64 known = std::min<u64>(bytes.size(), length);
        const bool done = dma_.write(address, bytes.first(known)) &&
                          dma_.fill(address + known, length - known, 0);
        advance(length);
        return done ? 0 : DMA_ERROR;
    }
    if (control & DMA_WRITE)
        return DMA_ERROR;
    if (control & DMA_SKIP)
        advance(length);
    return 0;
}

void FwCfg::run_dma(u64 address) noexcept {
    s.dma_high = 0;
    DmaAccess access;
    if (!dma_.read(address, access))
        return; // nowhere to tell the error to
    const Be<u32> outcome = transfer(access.control, access.length, access.address);
    dma_.write(address, outcome);
}

} // namespace rhea::hw
