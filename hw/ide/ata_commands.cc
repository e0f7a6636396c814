// The commands of an ATA disk, and those that a packet device takes outside of packets.
#include "dm/core/trace.h"
#include "hw/ide/drive.h"

#include <algorithm>
#include <string_view>

namespace rhea::hw {

using namespace ata;
using Kind = block::Request::Kind;

namespace {

struct Access {
    u8 code;
    bool ext, write, dma, multiple;
};
constexpr Access accesses[] = {
    {READ_SECTORS, false, false, false, false},
    {0x21, false, false, false, false},
    {READ_SECTORS_EXT, true, false, false, false},
    {READ_DMA_EXT, true, false, true, false},
    {READ_MULTIPLE_EXT, true, false, false, true},
    {WRITE_SECTORS, false, true, false, false},
    {0x31, false, true, false, false},
    {WRITE_SECTORS_EXT, true, true, false, false},
    {WRITE_DMA_EXT, true, true, true, false},
    {WRITE_MULTIPLE_EXT, true, true, false, true},
    {READ_MULTIPLE, false, false, false, true},
    {WRITE_MULTIPLE, false, true, false, true},
    {READ_DMA, false, false, true, false},
    {0xc9, false, false, true, false},
    {WRITE_DMA, false, true, true, false},
    {0xcb, false, true, true, false},
    {READ_VERIFY, false, false, false, false},
    {0x41, false, false, false, false},
    {READ_VERIFY_EXT, true, false, false, false},
};
constexpr u32 largest_multiple = 16;

const Access *find_access(u8 code) noexcept {
    const auto i = std::ranges::find(accesses, code, &Access::code);
    return i == std::end(accesses) ? nullptr : i;
}

// The words of an IDENTIFY answer.
class Words {
public:
    explicit Words(u8 *bytes) noexcept : bytes_(bytes) { std::fill_n(bytes, 512, u8{0}); }
    void put(unsigned word, u64 value, unsigned words = 1) noexcept {
        store_le(bytes_ + 2 * word, 2 * words, value);
    }
    // Two characters a word, the first in its upper byte; padded with blanks.
    void text(unsigned word, unsigned words, std::string_view t) noexcept {
        for (unsigned i = 0; i < 2 * words; ++i)
            bytes_[(2 * word + i) ^ 1] = i < t.size() ? static_cast<u8>(t[i]) : u8{' '};
    }
    void seal() noexcept { // word 255: signature and checksum
        bytes_[510] = 0xa5;
        u8 sum = 0;
        for (unsigned i = 0; i < 511; ++i)
            sum = static_cast<u8>(sum + bytes_[i]);
        bytes_[511] = static_cast<u8>(-sum);
    }

private:
    u8 *bytes_;
};

// Words 62 and 63, 88: the DMA modes that there are, and the one that is chosen.
void put_modes(Words &w, u8 chosen) noexcept {
    const auto active = [chosen](u8 base) -> u32 {
        return (chosen & 0xf8) == base ? 0x100u << (chosen & 7) : 0;
    };
    w.put(53, 7); // words 54 to 58, 64 to 70 and 88 are valid
    w.put(62, 0x07 | active(0x10));
    w.put(63, 0x07 | active(0x20));
    w.put(64, 0x03);
    for (unsigned i = 65; i <= 68; ++i)
        w.put(i, 120);
    w.put(88, 0x3f | active(0x40));
    w.put(93, 0x6001); // a cable with 80 conductors
}

} // namespace

// The address that the registers say; a command with an impossible one ends here.
bool IdeDrive::address(bool ext, u64 &lba, u32 &count) noexcept {
    if (ext) {
        lba = s.lba_low[0] | u64{s.lba_mid[0]} << 8 | u64{s.lba_high[0]} << 16 |
              u64{s.lba_low[1]} << 24 | u64{s.lba_mid[1]} << 32 | u64{s.lba_high[1]} << 40;
        count = s.count[0] | u32{s.count[1]} << 8;
        count = count ? count : 65536;
    } else {
        count = s.count[0] ? s.count[0] : 256;
        const u32 head = s.device & 15;
        if (s.device & LBA) {
            lba = s.lba_low[0] | u32{s.lba_mid[0]} << 8 | u32{s.lba_high[0]} << 16 | head << 24;
        } else {
            const u32 cylinder = s.lba_mid[0] | u32{s.lba_high[0]} << 8;
            if (!s.lba_low[0] || s.lba_low[0] > s.sectors || head >= s.heads) {
                fail(IDNF);
                return false;
            }
            lba = (u64{cylinder} * s.heads + head) * s.sectors + s.lba_low[0] - 1;
        }
    }
    if (lba > sectors() || count > sectors() - lba) {
        put_lba(std::max(lba, sectors()), ext);
        fail(IDNF);
        return false;
    }
    return true;
}

void IdeDrive::put_lba(u64 lba, bool ext) noexcept {
    if (ext || s.device & LBA) {
        s.lba_low = {static_cast<u8>(lba), static_cast<u8>(lba >> 24)};
        s.lba_mid = {static_cast<u8>(lba >> 8), static_cast<u8>(lba >> 32)};
        s.lba_high = {static_cast<u8>(lba >> 16), static_cast<u8>(lba >> 40)};
        if (!ext)
            s.device = static_cast<u8>((s.device & 0xf0) | ((lba >> 24) & 15));
    } else if (s.heads && s.sectors) {
        const u64 track = lba / s.sectors, cylinder = track / s.heads;
        s.lba_low[0] = static_cast<u8>(lba % s.sectors + 1);
        s.lba_mid[0] = static_cast<u8>(cylinder);
        s.lba_high[0] = static_cast<u8>(cylinder >> 8);
        s.device = static_cast<u8>((s.device & 0xf0) | (track % s.heads));
    }
}

bool IdeDrive::is_ext(u8 code) noexcept {
    const Access *a = find_access(code);
    return a && a->ext;
}

void IdeDrive::read_or_write(u8 code) noexcept {
    const Access &a = *find_access(code);
    if (a.multiple && !s.multiple) {
        fail(ABRT);
        return;
    }
    if (a.write && config_.disk->read_only()) {
        fail(ABRT);
        return;
    }
    u64 lba = 0;
    u32 count = 0;
    if (!address(a.ext, lba, count))
        return;
    s.lba = lba;
    s.remaining = count;
    s.block_size = 512;
    s.drq_size = a.multiple ? s.multiple * 512u : 512;
    s.dma = a.dma;
    s.verify = code == READ_VERIFY || code == READ_VERIFY + 1 || code == READ_VERIFY_EXT;
    if (a.write)
        want(false);
    else
        fetch();
}

void IdeDrive::disk_command(u8 code) noexcept {
    if (cdrom())
        switch (code) {
        case PACKET:
            s.dma = s.feature[0] & 1;
            s.drq_size = s.lba_mid[0] | u32{s.lba_high[0]} << 8;
            s.drq_size = s.drq_size && s.drq_size != 0xffff ? s.drq_size & 0xfffe : 0xfffe;
            s.drq_size = std::max<u32>(s.drq_size, 2);
            s.count[0] = CoD;
            s.phase = Phase::packet;
            s.status = DRDY | DRQ;
            s.at = 0;
            s.drq_end = s.filled = 12;
            return;
        case IDENTIFY_PACKET_DEVICE: identify_packet(); return;
        case IDENTIFY_DEVICE:
        case READ_SECTORS: // these answer with the signature (ATA/ATAPI-6, 9.12)
            put_signature();
            fail(ABRT);
            return;
        case SET_FEATURES:
        case IDLE_IMMEDIATE:
        case STANDBY_IMMEDIATE:
        case CHECK_POWER_MODE:
        case SLEEP: break;
        default: fail(ABRT); return;
        }
    if (!cdrom() && find_access(code)) {
        read_or_write(code);
        return;
    }
    if ((code & 0xf0) == 0x10 || (code & 0xf0) == 0x70) { // RECALIBRATE, SEEK
        finish();
        return;
    }
    switch (code) {
    case IDENTIFY_DEVICE: identify(); return;
    case INITIALIZE_DEVICE_PARAMETERS:
        if (!s.count[0]) {
            fail(ABRT);
            return;
        }
        s.sectors = s.count[0];
        s.heads = static_cast<u8>((s.device & 15) + 1);
        finish();
        return;
    case SET_MULTIPLE_MODE:
        if (s.count[0] > largest_multiple || (s.count[0] & (s.count[0] - 1))) {
            s.multiple = 0;
            fail(ABRT);
            return;
        }
        s.multiple = s.count[0];
        finish();
        return;
    case FLUSH_CACHE:
    case FLUSH_CACHE_EXT: submit(Kind::flush); return;
    case READ_NATIVE_MAX:
    case READ_NATIVE_MAX_EXT: {
        const bool ext = code == READ_NATIVE_MAX_EXT;
        const u64 last = sectors() ? sectors() - 1 : 0;
        put_lba(ext ? last : std::min<u64>(last, 0x0fff'ffff), ext);
        finish();
        return;
    }
    case CHECK_POWER_MODE:
    case 0x98:
        s.count[0] = 0xff; // active or idle
        finish();
        return;
    case STANDBY_IMMEDIATE:
    case IDLE_IMMEDIATE:
    case STANDBY:
    case IDLE:
    case SLEEP:
    case 0x94: // the same, as ATA-1 numbers them
    case 0x95:
    case 0x96:
    case 0x97:
    case 0x99: finish(); return;
    case SET_FEATURES: set_features(); return;
    case SMART: smart(); return;
    default: fail(ABRT); return;
    }
}

void IdeDrive::set_features() noexcept {
    constexpr u8 CACHE_ON = 0x02, TRANSFER_MODE = 0x03, CACHE_OFF = 0x82;
    const u8 value = s.count[0];
    switch (s.feature[0]) {
    case CACHE_ON: s.write_cache = true; break;
    case CACHE_OFF:
        s.write_cache = false;
        if (config_.disk && !cdrom()) {
            submit(Kind::flush);
            return;
        }
        break;
    case TRANSFER_MODE: {
        const u8 kind = value & 0xf8, mode = value & 7;
        const bool pio = value <= 1 || (kind == 0x08 && mode <= 4);
        const bool dma =
            ((kind == 0x10 || kind == 0x20) && mode <= 2) || (kind == 0x40 && mode <= 5);
        if (!pio && !dma) {
            fail(ABRT);
            return;
        }
        s.transfer_mode = pio ? s.transfer_mode : value;
        break;
    }
    case 0x55: // read look-ahead off, on; reverting to power-on defaults off, on
    case 0xaa:
    case 0x66:
    case 0xcc: break;
    default: fail(ABRT); return;
    }
    finish();
}

// SMART as ATA/ATAPI-6, 8.55 has it: a drive without a fault, with no attributes that a vendor
// would define.
void IdeDrive::smart() noexcept {
    enum : u8 { DATA = 0xd0, THRESHOLDS = 0xd1, AUTOSAVE = 0xd2, ENABLE = 0xd8, DISABLE, STATUS };
    const u8 what = s.feature[0];
    if (s.lba_mid[0] != 0x4f || s.lba_high[0] != 0xc2 || (!s.smart && what != ENABLE)) {
        fail(ABRT);
        return;
    }
    switch (what) {
    case DATA:
    case THRESHOLDS: {
        u8 *const b = buffer_.data();
        std::fill_n(b, 512, u8{0});
        b[0] = 0x10; // structure version
        if (what == DATA)
            b[368] = 0x03, b[369] = 0; // autosave; nothing that runs off line
        u8 sum = 0;
        for (unsigned i = 0; i < 511; ++i)
            sum = static_cast<u8>(sum + b[i]);
        b[511] = static_cast<u8>(-sum);
        offer(512, 512);
        return;
    }
    case AUTOSAVE: break;
    case ENABLE: s.smart = true; break;
    case DISABLE: s.smart = false; break;
    case STATUS: break; // 4Fh and C2h stay: no threshold is exceeded
    default: fail(ABRT); return;
    }
    finish();
}

void IdeDrive::identify() noexcept {
    Words w(buffer_.data());
    const Geometry g = geometry();
    const u64 all = sectors();
    const u64 current =
        std::min<u64>(all / (s.heads && s.sectors ? s.heads * s.sectors : 1), 65535);
    w.put(0, 0x0040);
    w.put(1, g.cylinders);
    w.put(3, g.heads);
    w.put(6, g.sectors);
    w.text(10, 10, config_.serial);
    w.text(23, 4, "1.0");
    w.text(27, 20, config_.model);
    w.put(47, 0x8000 | largest_multiple);
    w.put(49, 0x0b00); // IORDY, LBA, DMA
    w.put(50, 0x4000);
    w.put(51, 0x0200);
    w.put(54, current);
    w.put(55, s.heads);
    w.put(56, s.sectors);
    w.put(57, current * s.heads * s.sectors, 2);
    w.put(59, s.multiple ? 0x100 | s.multiple : 0);
    w.put(60, std::min<u64>(all, 0x0fff'ffff), 2);
    put_modes(w, s.transfer_mode);
    w.put(80, 0x0070); // ATA/ATAPI-4 to 6
    w.put(82, 0x0021); // write cache, SMART
    w.put(83, 0x7400); // FLUSH CACHE (EXT), 48-bit addresses
    w.put(84, 0x4000);
    w.put(85, (s.write_cache ? 0x20u : 0) | (s.smart ? 1 : 0));
    w.put(86, 0x3400);
    w.put(87, 0x4000);
    w.put(100, all, 4);
    w.seal();
    offer(512, 512);
}

void IdeDrive::identify_packet() noexcept {
    Words w(buffer_.data());
    w.put(0, 0x85c0); // packet device, CD-ROM, removable, DRQ within 50 us, packets of 12 bytes
    w.text(10, 10, config_.serial);
    w.text(23, 4, "1.0");
    w.text(27, 20, config_.model);
    w.put(49, 0x0b00);
    put_modes(w, s.transfer_mode);
    w.put(80, 0x0070);
    w.put(82, 0x0210); // DEVICE RESET, packets
    w.put(83, 0x4000);
    w.put(84, 0x4000);
    w.put(85, 0x0210);
    w.put(87, 0x4000);
    w.seal();
    offer(512, 512);
}

} // namespace rhea::hw
