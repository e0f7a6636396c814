// The packet commands of a CD-ROM drive. Facts: MMC-4 (T10/1545D), SPC-3, INF-8020i.
#include "hw/ide/drive.h"

#include <algorithm>
#include <string_view>

namespace rhea::hw {

using namespace ata;

namespace {

constexpr u32 cd_block = 2048;
constexpr u32 longest_cd = 80 * 60 * 75; // blocks; a longer one is a DVD
constexpr u16 profile_cd = 0x0008, profile_dvd = 0x0010;

u32 be16(std::span<const u8> p, usize at) noexcept {
    return load_be<u16>(&p[at]);
}
u32 be32(std::span<const u8> p, usize at) noexcept {
    return load_be<u32>(&p[at]);
}

void put_msf(u8 *to, u32 block) noexcept {
    block += 150; // two seconds before the first block
    to[0] = 0;
    to[1] = static_cast<u8>(block / 75 / 60);
    to[2] = static_cast<u8>(block / 75 % 60);
    to[3] = static_cast<u8>(block % 75);
}

// These are answered although something is to be told first (MMC-4, 4.1.6).
bool ignores_attention(u8 code) noexcept {
    return code == INQUIRY || code == REQUEST_SENSE || code == GET_CONFIGURATION ||
           code == GET_EVENT_STATUS;
}

} // namespace

u32 IdeDrive::cd_blocks() const noexcept {
    return medium() ? static_cast<u32>(std::min<u64>(config_.disk->length() / cd_block, ~u32{0}))
                    : 0;
}

void IdeDrive::fail_packet(u8 key, u8 asc, u8 ascq) noexcept {
    s.sense_key = key;
    s.asc = asc;
    s.ascq = ascq;
    s.count[0] = IO | CoD;
    fail(static_cast<u8>(key << 4 | ABRT));
}

bool IdeDrive::check_medium() noexcept {
    if (medium())
        return true;
    fail_packet(NOT_READY, MEDIUM_NOT_PRESENT, s.tray_open ? 2 : 1);
    return false;
}

// `bytes` are in the buffer; the host takes as many as it has room for.
void IdeDrive::reply(u32 bytes, u32 allowed) noexcept {
    const u32 n = std::min(bytes, allowed);
    if (n)
        offer(n, s.drq_size);
    else
        finish();
}

void IdeDrive::read_blocks(u64 lba, u64 count) noexcept {
    if (!check_medium())
        return;
    if (lba > cd_blocks() || count > cd_blocks() - lba) {
        fail_packet(ILLEGAL_REQUEST, LBA_OUT_OF_RANGE);
        return;
    }
    if (!count) {
        finish();
        return;
    }
    s.lba = lba;
    s.remaining = static_cast<u32>(count);
    s.block_size = cd_block;
    fetch();
}

void IdeDrive::packet() noexcept {
    std::array<u8, 12> p;
    std::copy_n(buffer_.data(), p.size(), p.begin());
    s.phase = Phase::idle;
    s.error = 0;
    const u8 code = p[0];
    if (s.attention && !ignores_attention(code)) {
        fail_packet(UNIT_ATTENTION, std::exchange(s.attention, u8{0}));
        return;
    }
    u8 *const b = buffer_.data();
    if (code != REQUEST_SENSE)
        s.sense_key = s.asc = s.ascq = 0;
    std::fill_n(b, 512, u8{0});
    u32 n = 0;
    switch (code) {
    case TEST_UNIT_READY:
    case SEEK_10:
        if (check_medium())
            finish();
        return;
    case REQUEST_SENSE:
        if (!s.sense_key && s.attention) {
            s.sense_key = UNIT_ATTENTION;
            s.asc = std::exchange(s.attention, u8{0});
        }
        b[0] = 0x70;
        b[2] = std::exchange(s.sense_key, u8{0});
        b[7] = 10;
        b[12] = std::exchange(s.asc, u8{0});
        b[13] = std::exchange(s.ascq, u8{0});
        reply(18, p[4]);
        return;
    case INQUIRY:
        n = inquiry(p);
        if (n)
            reply(n, be16(p, 3));
        return;
    case READ_CAPACITY:
        if (!check_medium())
            return;
        store_be<u32>(b, cd_blocks() ? cd_blocks() - 1 : 0);
        store_be<u32>(b + 4, cd_block);
        reply(8, 8);
        return;
    case READ_10: read_blocks(be32(p, 2), be16(p, 7)); return;
    case READ_12: read_blocks(be32(p, 2), be32(p, 6)); return;
    case READ_CD: {
        const u32 blocks = be32(p, 5) & 0xff'ffff;
        // Of a block its user data can be had; what surrounds them is not in the image.
        if ((p[9] & 0xf8) == 0 || !blocks)
            finish();
        else if ((p[9] & 0xfe) != 0x10 || (p[10] & 7) ||
                 ((p[1] >> 2 & 7) > 2 && (p[1] >> 2 & 7) != 4))
            fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        else
            read_blocks(be32(p, 2), blocks);
        return;
    }
    case READ_TOC:
        n = read_toc(p);
        if (n)
            reply(n, be16(p, 7));
        return;
    case MODE_SENSE_6:
    case MODE_SENSE_10: {
        const bool ten = code == MODE_SENSE_10;
        n = mode_sense(p, ten);
        if (n)
            reply(n, ten ? be16(p, 7) : p[4]);
        return;
    }
    case GET_CONFIGURATION:
        n = get_configuration(p);
        if (n)
            reply(n, be16(p, 7));
        return;
    case GET_EVENT_STATUS:
        if (!(p[1] & 1)) { // no queue of events: the host has to ask
            fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
            return;
        }
        if (p[4] & 0x10) {
            n = get_event_status();
        } else {
            b[1] = 2;
            b[2] = 0x80; // none of these classes
            b[3] = 0x10;
            n = 4;
        }
        reply(n, be16(p, 7));
        return;
    case START_STOP_UNIT: start_stop(p[4]); return;
    case PREVENT_ALLOW:
        s.locked = p[4] & 1;
        finish();
        return;
    case SET_SPEED: finish(); return;
    case MECHANISM_STATUS:
        b[1] = s.tray_open ? 0x10 : 0;
        reply(8, be16(p, 8));
        return;
    case READ_DISC_INFORMATION:
        if (!check_medium())
            return;
        if (p[1] & 7) {
            fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
            return;
        }
        store_be<u16>(b, 32);
        b[2] = 0x0e; // complete, its last session too
        b[3] = b[4] = b[5] = b[6] = 1;
        b[7] = 0x20; // for any use
        std::fill_n(b + 16, 8, u8{0xff});
        reply(34, be16(p, 7));
        return;
    default: fail_packet(ILLEGAL_REQUEST, INVALID_OPCODE); return;
    }
}

u32 IdeDrive::inquiry(std::span<const u8> p) noexcept {
    u8 *const b = buffer_.data();
    if (p[1] & 1) { // vital product data
        b[0] = 0x05;
        b[1] = p[2];
        if (p[2] == 0x00) {
            b[3] = 2;
            b[4] = 0x00;
            b[5] = 0x80;
            return 6;
        }
        if (p[2] == 0x80) {
            const usize n = std::min<usize>(config_.serial.size(), 20);
            b[3] = static_cast<u8>(n);
            std::copy_n(config_.serial.data(), n, b + 4);
            return static_cast<u32>(4 + n);
        }
        fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        return 0;
    }
    if (p[2]) {
        fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        return 0;
    }
    const auto text = [b](u32 at, u32 n, std::string_view t) {
        for (u32 i = 0; i < n; ++i)
            b[at + i] = i < t.size() ? static_cast<u8>(t[i]) : u8{' '};
    };
    b[0] = 0x05; // CD-ROM
    b[1] = 0x80; // removable
    b[3] = 0x21; // ATAPI, response format 1
    b[4] = 31;
    text(8, 8, "RHEA");
    text(16, 16, config_.model);
    text(32, 4, "1.0");
    return 36;
}

u32 IdeDrive::mode_sense(std::span<const u8> p, bool ten) noexcept {
    const u8 page = p[2] & 0x3f, control = p[2] >> 6;
    if (control == 3) {
        fail_packet(ILLEGAL_REQUEST, 0x39); // there are no saved parameters
        return 0;
    }
    u8 *const b = buffer_.data();
    u32 n = ten ? 8 : 4;
    const u32 header = n;
    if (page == 0x01 || page == 0x3f) { // error recovery
        b[n] = 0x01;
        b[n + 1] = 6;
        b[n + 3] = control == 1 ? 0 : 5; // retries
        n += 8;
    }
    if (page == 0x2a || page == 0x3f) { // capabilities (MMC-3, 5.3.10)
        b[n] = 0x2a;
        b[n + 1] = 18;
        if (control != 1) {
            b[n + 2] = 0x0b;                                       // reads CD-R, CD-RW, DVD-ROM
            b[n + 4] = 0x70;                                       // mode 2 forms, multisession
            b[n + 6] = static_cast<u8>(0x29 | (s.locked ? 2 : 0)); // tray, eject, lock
            store_be<u16>(b + n + 8, 706 * 4);                     // 16 times 176 KB/s
            store_be<u16>(b + n + 12, 128);
            store_be<u16>(b + n + 14, 706 * 4);
        }
        n += 20;
    }
    if (n == header) {
        fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        return 0;
    }
    const u8 type = s.tray_open ? 0x71 : medium() ? 0x01 : 0x70;
    if (ten) {
        store_be<u16>(b, static_cast<u16>(n - 2));
        b[2] = type;
    } else {
        b[0] = static_cast<u8>(n - 1);
        b[1] = type;
    }
    return n;
}

u32 IdeDrive::read_toc(std::span<const u8> p) noexcept {
    if (!check_medium())
        return 0;
    const bool msf = p[1] & 2;
    // INF-8020i has the format in the last byte.
    const u8 format = p[2] & 15 ? p[2] & 15 : p[9] >> 6;
    const u8 track = p[6];
    u8 *const b = buffer_.data();
    const auto put = [&](u8 *to, u32 block) {
        if (msf)
            put_msf(to, block);
        else
            store_be<u32>(to, block);
    };
    b[2] = b[3] = 1; // first and last track, or session
    u32 n = 4;
    const auto entry = [&](u8 number, u32 block) {
        b[n + 1] = 0x14; // a data track
        b[n + 2] = number;
        put(b + n + 4, block);
        n += 8;
    };
    if (format == 0) {
        if (track > 1 && track != 0xaa) {
            fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
            return 0;
        }
        if (track <= 1)
            entry(1, 0);
        entry(0xaa, cd_blocks());
    } else if (format == 1) {
        entry(1, 0);
    } else if (format == 2) { // as a lead-in has it: points A0, A1, A2 and the track
        const auto point = [&](u8 what, u8 minutes, u32 block, bool at_block) {
            b[n] = 1; // session
            b[n + 1] = 0x14;
            b[n + 3] = what;
            if (at_block)
                put_msf(b + n + 7, block); // its first byte is a zero too
            else
                b[n + 8] = minutes;
            n += 11;
        };
        point(0xa0, 1, 0, false);
        point(0xa1, 1, 0, false);
        point(0xa2, 0, cd_blocks(), true);
        point(1, 0, 0, true);
    } else {
        fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        return 0;
    }
    store_be<u16>(b, static_cast<u16>(n - 2));
    return n;
}

u32 IdeDrive::get_configuration(std::span<const u8> p) noexcept {
    const u8 which = p[1] & 3;
    const u32 from = be16(p, 2);
    if (which == 3) {
        fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        return 0;
    }
    u8 *const b = buffer_.data();
    const u16 now = !medium() ? u16{0} : cd_blocks() > longest_cd ? profile_dvd : profile_cd;
    store_be<u16>(b + 6, now);
    u32 n = 8;
    struct Feature {
        u16 number;
        u8 flags; // version, persistent, current
        bool current;
        std::array<u8, 8> data;
        u8 length;
    };
    const u8 dvd = now == profile_dvd, cd = now == profile_cd;
    const Feature features[] = {
        {0x0000, 0x03, true, {0, profile_dvd, dvd, 0, 0, profile_cd, cd, 0}, 8},
        {0x0001, 0x0b, true, {0, 0, 0, 2, 1, 0, 0, 0}, 8}, // core: by ATAPI
        {0x0003, 0x03, true, {0x29, 0, 0, 0}, 4},          // removable medium
        {0x0010, medium() ? u8{1} : u8{0}, medium(), {0, 0, 8, 0, 0, 1, 0, 0}, 8}, // reads
    };
    for (const Feature &f : features) {
        if (which == 2 ? f.number != from : f.number < from || (which == 1 && !f.current))
            continue;
        store_be<u16>(b + n, f.number);
        b[n + 2] = f.flags;
        b[n + 3] = f.length;
        std::copy_n(f.data.begin(), f.length, b + n + 4);
        n += 4u + f.length;
    }
    store_be<u32>(b, n - 4);
    return n;
}

u32 IdeDrive::get_event_status() noexcept {
    enum : u8 { NOTHING = 0, NEW_MEDIUM = 2, REMOVED = 3 };
    u8 *const b = buffer_.data();
    b[1] = 6;
    b[2] = 4; // medium
    b[3] = 0x10;
    const bool happened = std::exchange(s.medium_event, false);
    b[4] = !happened ? NOTHING : medium() ? NEW_MEDIUM : REMOVED;
    b[5] = static_cast<u8>((s.tray_open ? 1 : 0) | (medium() ? 2 : 0));
    return 8;
}

void IdeDrive::start_stop(u8 what) noexcept {
    const bool start = what & 1, tray = what & 2;
    if (tray) {
        if (!start && s.locked && !s.tray_open) {
            fail_packet(medium() ? ILLEGAL_REQUEST : NOT_READY, REMOVAL_PREVENTED, 2);
            return;
        }
        if (s.tray_open == start) {
            s.tray_open = !start;
            s.medium_event = true;
            if (start && config_.disk)
                s.attention = MEDIUM_MAY_HAVE_CHANGED;
        }
    }
    finish();
}

} // namespace rhea::hw
