#include "hw/ide/drive.h"

#include "dm/core/trace.h"

#include <algorithm>
#include <cerrno>

namespace rhea::hw {

using namespace ata;
using Kind = block::Request::Kind;

IdeDrive::IdeDrive(Owner &owner, IdeDriveState &state, BusMaster &bus_master,
                   const IdeDriveConfig &config, bool slave)
    : owner_(owner), s(state), bus_master_(bus_master), config_(config), slave_(slave),
      buffer_(config.present ? buffer_size : 0) {
    std::ranges::fill(buffer_.span(), u8{0});
}

// What firmware is told too: 16 heads and 63 sectors, as every disk above 504 MiB says.
IdeDrive::Geometry IdeDrive::geometry() const noexcept {
    Geometry g;
    const u64 per_cylinder = u64{g.heads} * g.sectors;
    g.cylinders =
        static_cast<u32>(std::clamp<u64>((sectors() + per_cylinder - 1) / per_cylinder, 1, 16383));
    return g;
}

// ------------------------------------------------------------------------------------- registers

u8 IdeDrive::read_register(unsigned at, bool hob) const noexcept {
    switch (at) {
    case 1: return hob ? s.feature[1] : s.error;
    case 2: return s.count[hob];
    case 3: return s.lba_low[hob];
    case 4: return s.lba_mid[hob];
    case 5: return s.lba_high[hob];
    case 6: return static_cast<u8>(s.device | 0xa0);
    default: return s.status;
    }
}

void IdeDrive::write_register(unsigned at, u8 value) noexcept {
    if (s.status & BSY)
        return;
    const auto push = [value](std::array<u8, 2> &r) {
        r[1] = r[0];
        r[0] = value;
    };
    switch (at) {
    case 1: push(s.feature); break;
    case 2: push(s.count); break;
    case 3: push(s.lba_low); break;
    case 4: push(s.lba_mid); break;
    case 5: push(s.lba_high); break;
    case 6: s.device = value; break;
    default: break;
    }
}

void IdeDrive::put_signature() noexcept {
    s.count = {1, 0};
    s.lba_low = {1, 0};
    s.lba_mid = {static_cast<u8>(cdrom() ? 0x14 : 0), 0};
    s.lba_high = {static_cast<u8>(cdrom() ? 0xeb : 0), 0};
    s.device &= DEV;
}

void IdeDrive::ready() noexcept {
    s.phase = Phase::idle;
    s.status = cdrom() ? 0 : DRDY | DSC;
}

void IdeDrive::reset(bool power_on) noexcept {
    if (!present())
        return;
    s.feature = {};
    put_signature();
    s.device = 0;
    s.error = 1; // diagnostics passed
    s.irq = false;
    s.dma = s.verify = false;
    s.at = s.drq_end = s.filled = 0;
    s.remaining = s.chunk = 0;
    s.command = 0;
    if (power_on && cdrom())
        s.attention = RESET_OCCURRED;
    if (!cdrom()) {
        s.heads = static_cast<u8>(geometry().heads);
        s.sectors = static_cast<u8>(geometry().sectors);
    }
    if (quiet()) {
        ready();
    } else {
        s.phase = Phase::draining;
        s.status = BSY;
    }
}

void IdeDrive::command(u8 code) noexcept {
    if (code == DEVICE_RESET && cdrom()) { // the only one that a busy drive takes
        reset(false);
        return;
    }
    if (s.status & BSY || s.phase == Phase::draining)
        return;
    s.command = code;
    s.irq = false;
    s.error = 0;
    s.dma = s.verify = false;
    s.phase = Phase::idle;
    disk_command(code);
}

// -------------------------------------------------------------------------------- ends of commands

void IdeDrive::finish(bool interrupt) noexcept {
    s.phase = Phase::idle;
    s.status = DRDY | DSC;
    if (s.command == PACKET)
        s.count[0] = IO | CoD;
    s.irq = s.irq || interrupt;
}

void IdeDrive::fail(u8 error) noexcept {
    s.phase = Phase::idle;
    s.error = error;
    s.status = DRDY | DSC | ERR;
    s.irq = true;
}

// ---------------------------------------------------------------------------------- data transfers

void IdeDrive::submit(Kind kind) noexcept {
    switch (kind) {
    case Kind::read: s.phase = Phase::reading; break;
    case Kind::write: s.phase = Phase::writing; break;
    default: s.phase = Phase::flushing; break;
    }
    s.status = BSY;
    transfer_.kind = kind;
    transfer_.at = s.lba * s.block_size;
    transfer_.length = kind == Kind::flush ? 0 : u64{s.chunk} * s.block_size;
    transfer_.vector = {buffer_.data(), transfer_.length};
    transfer_.data = {&transfer_.vector, 1};
    transfer_.busy.store(true, std::memory_order_release);
    config_.disk->submit(transfer_);
}

void IdeDrive::Transfer::completed(const Result<> &result) noexcept {
    drive.owner_.enter([&] {
        busy.store(false, std::memory_order_release);
        drive.completed(result);
    });
}

void IdeDrive::completed(const Result<> &result) noexcept {
    const Phase phase = s.phase;
    if (phase == Phase::draining) {
        ready();
        return;
    }
    if (!result) {
        guest_error("ide: the host cannot serve a request at block %lu: %s", s.lba,
                    result.error().what.c_str());
        if (s.command == PACKET) {
            fail_packet(MEDIUM_ERROR, UNRECOVERED_READ_ERROR);
            return;
        }
        put_lba(s.lba, is_ext(s.command));
        fail(phase == Phase::reading ? UNC : ABRT);
        return;
    }
    switch (phase) {
    case Phase::reading:
        s.lba += s.chunk;
        s.filled = s.chunk * s.block_size;
        s.at = 0;
        if (!s.verify)
            give_to_host();
        else if (s.remaining)
            fetch();
        else
            finish();
        break;
    case Phase::writing:
        s.lba += s.chunk;
        if (s.remaining)
            want(true);
        else if (!s.write_cache)
            submit(Kind::flush);
        else
            finish();
        break;
    default: finish(); break;
    }
}

void IdeDrive::fetch() noexcept {
    s.chunk = std::min(s.remaining, buffer_size / s.block_size);
    s.remaining -= s.chunk;
    submit(Kind::read);
}

void IdeDrive::give_to_host() noexcept {
    if (s.dma) {
        s.phase = Phase::dma_in;
        s.status = DRDY | DSC | DRQ;
        run_dma();
    } else {
        s.phase = Phase::pio_in;
        show_block(true);
    }
}

void IdeDrive::want(bool interrupt) noexcept {
    s.chunk = std::min(s.remaining, buffer_size / s.block_size);
    s.remaining -= s.chunk;
    s.filled = s.chunk * s.block_size;
    s.at = 0;
    if (s.dma) {
        s.phase = Phase::dma_out;
        s.status = DRDY | DSC | DRQ;
        run_dma();
    } else {
        s.phase = Phase::pio_out;
        show_block(interrupt);
    }
}

void IdeDrive::offer(u32 bytes, u32 drq_size) noexcept {
    s.remaining = 0;
    s.filled = bytes;
    s.at = 0;
    s.drq_size = drq_size;
    give_to_host();
}

void IdeDrive::show_block(bool interrupt) noexcept {
    s.drq_end = std::min(s.at + s.drq_size, s.filled);
    s.status = DRDY | DSC | DRQ;
    s.irq = s.irq || interrupt;
    if (s.command == PACKET) {
        const u32 n = s.drq_end - s.at;
        s.count[0] = IO;
        s.lba_mid[0] = static_cast<u8>(n);
        s.lba_high[0] = static_cast<u8>(n >> 8);
    }
}

void IdeDrive::block_ended() noexcept {
    if (s.at < s.filled)
        show_block(true);
    else
        chunk_ended();
}

void IdeDrive::chunk_ended() noexcept {
    switch (s.phase) {
    case Phase::pio_in:
    case Phase::dma_in:
        if (s.remaining)
            fetch();
        else
            finish(s.dma || s.command == PACKET);
        break;
    case Phase::pio_out:
    case Phase::dma_out: submit(Kind::write); break;
    case Phase::packet: packet(); break;
    default: break;
    }
}

void IdeDrive::data_in(std::span<u8> to) noexcept {
    while (!to.empty() && s.phase == Phase::pio_in) {
        const usize n = std::min<usize>(to.size(), s.drq_end - s.at);
        std::copy_n(buffer_.data() + s.at, n, to.data());
        to = to.subspan(n);
        s.at += static_cast<u32>(n);
        if (s.at == s.drq_end)
            block_ended();
    }
    std::ranges::fill(to, u8{0xff});
}

void IdeDrive::data_out(std::span<const u8> from) noexcept {
    while (!from.empty() && (s.phase == Phase::pio_out || s.phase == Phase::packet)) {
        const usize n = std::min<usize>(from.size(), s.drq_end - s.at);
        std::copy_n(from.data(), n, buffer_.data() + s.at);
        from = from.subspan(n);
        s.at += static_cast<u32>(n);
        if (s.at == s.drq_end)
            block_ended();
    }
}

void IdeDrive::run_dma() noexcept {
    if (s.phase != Phase::dma_in && s.phase != Phase::dma_out)
        return;
    const auto bytes = buffer_.span().first(s.filled);
    switch (s.phase == Phase::dma_in ? bus_master_.to_memory(bytes, s.at)
                                     : bus_master_.from_memory(bytes, s.at)) {
    case BusMaster::Outcome::done: chunk_ended(); break;
    case BusMaster::Outcome::waits: break;
    case BusMaster::Outcome::failed:
        if (s.command == PACKET)
            fail_packet(ILLEGAL_REQUEST, INVALID_FIELD);
        else
            fail(ABRT);
        break;
    }
}

// -------------------------------------------------------------------------------- saving, loading

namespace {
bool buffer_matters(IdeDriveState::Phase phase) noexcept {
    using Phase = IdeDriveState::Phase;
    return phase == Phase::writing || (phase >= Phase::pio_in && phase <= Phase::packet);
}
} // namespace

void IdeDrive::fill_saved(IdeDriveState &copy) const {
    if (buffer_matters(s.phase))
        copy.data.assign(buffer_.data(), buffer_.data() + s.filled);
}

const char *IdeDrive::validate(const IdeDriveState &n) const noexcept {
    if (!present())
        return n.phase == Phase::idle && n.data.empty() ? nullptr
                                                        : "a drive that is not there works";
    if (n.block_size != 512 && n.block_size != 2048)
        return "a drive's block has no possible size";
    if (!n.drq_size || n.at > n.drq_end || n.drq_end > n.filled ||
        n.chunk * n.block_size > buffer_size)
        return "a drive's buffer is not in order";
    if (n.data.size() != (buffer_matters(n.phase) ? n.filled : 0))
        return "a drive's buffer has another length";
    const bool from_disk = n.phase == Phase::reading || n.phase == Phase::writing ||
                           n.phase == Phase::flushing || n.phase == Phase::pio_out ||
                           n.phase == Phase::dma_out || n.remaining;
    if (from_disk && !config_.disk)
        return "a drive without a medium transfers";
    if ((n.phase == Phase::packet && n.filled < 12) || (n.phase >= Phase::pio_in && !n.filled))
        return "a drive waits for nothing";
    return nullptr;
}

void IdeDrive::loaded() noexcept {
    std::ranges::copy(s.data, buffer_.data());
    s.data.clear();
    switch (s.phase) {
    case Phase::draining: ready(); break;
    case Phase::reading: submit(Kind::read); break;
    case Phase::writing: submit(Kind::write); break;
    case Phase::flushing: submit(Kind::flush); break;
    default: break;
    }
}

} // namespace rhea::hw
