// IdeDrive: one drive on an IDE channel, an ATA disk or an ATAPI CD-ROM, or the lack of one.
//
// Facts: ATA/ATAPI-6 (T13/1410D); for packets MMC-4 and SPC-3; INF-8020i for what older hosts
// expect. A member of the IDE function and under its lock. Data go through one buffer: the disk
// fills or empties it a chunk at a time by a block::Request, the host by the data register in
// blocks, or the bus master at once. While a request is under way the drive is busy; a reset
// meanwhile keeps it busy until the request has ended. A state that is saved while one is under way
// makes it again after it was loaded; the owner waits for the drive to be quiet before it loads
// into it or destroys it.
//
// Decisions: host errors are UNC for reads and ABRT for writes and flushes; a request that reaches
// beyond the end fails as a whole with IDNF; a bus-master error aborts the command.
#pragma once
#include "block/node.h"
#include "block/vectors.h"
#include "dm/core/describe.h"
#include "dm/mem/target.h"
#include "hw/ide/ata.h"
#include "hw/ide/bus_master.h"

#include <array>
#include <atomic>
#include <span>
#include <string>
#include <vector>

namespace rhea::hw {

struct IdeDriveConfig {
    block::Disk *disk = nullptr; // a CD-ROM without one has no medium
    bool present = false;
    bool cdrom = false;
    std::string serial{}, model{};
};

struct IdeDriveState {
    enum class Phase : u8 {
        idle,
        reading, // a request is under way: busy
        writing,
        flushing,
        draining, // a reset waits for a request
        pio_in,   // the host takes from the buffer
        pio_out,  // the host fills it
        dma_in,   // the bus master does
        dma_out,
        packet, // the host gives a command packet
    };
    // The registers, [1] as they were before the last write (HOB).
    std::array<u8, 2> feature{}, count{1, 0}, lba_low{1, 0}, lba_mid{}, lba_high{};
    u8 device = 0, status = 0, error = 1, command = 0;
    bool irq = false;
    Phase phase = Phase::idle;
    u64 lba = 0;       // of the next chunk, in the drive's blocks
    u32 remaining = 0; // blocks after those in the buffer
    u32 chunk = 0;     // blocks in the buffer
    u32 block_size = 512;
    u32 drq_size = 512;                  // bytes to an interrupt
    u32 at = 0, drq_end = 0, filled = 0; // bytes in the buffer
    bool dma = false, verify = false;
    u8 multiple = 0, heads = 16, sectors = 63;
    bool write_cache = true, smart = true;
    u8 transfer_mode = 0x22; // as SET FEATURES 03h takes it
    u8 sense_key = 0, asc = 0, ascq = 0;
    u8 attention = 0; // sense code that the next command is refused with
    bool tray_open = false, locked = false, medium_event = false;
    std::vector<u8> data{}; // saved: the buffer

    static constexpr auto fields() {
        using S = IdeDriveState;
        constexpr u64 block = 2048, buffer = 128 << 10;
        return describe<S>(
            Field<&S::feature>{}, Field<&S::count>{}, Field<&S::lba_low>{}, Field<&S::lba_mid>{},
            Field<&S::lba_high>{}, Field<&S::device>{}, Field<&S::status>{}, Field<&S::error>{},
            Field<&S::command>{}, Field<&S::irq>{},
            Field<&S::phase>{.max = static_cast<u64>(Phase::packet)},
            Field<&S::lba>{.max = u64{1} << 49}, Field<&S::remaining>{},
            Field<&S::chunk>{.max = 256}, Field<&S::block_size>{.max = block},
            Field<&S::drq_size>{.max = buffer}, Field<&S::at>{.max = buffer},
            Field<&S::drq_end>{.max = buffer}, Field<&S::filled>{.max = buffer}, Field<&S::dma>{},
            Field<&S::verify>{}, Field<&S::multiple>{.max = 128}, Field<&S::heads>{.max = 16},
            Field<&S::sectors>{}, Field<&S::write_cache>{}, Field<&S::smart>{},
            Field<&S::transfer_mode>{}, Field<&S::sense_key>{.max = 15}, Field<&S::asc>{},
            Field<&S::ascq>{}, Field<&S::attention>{}, Field<&S::tray_open>{}, Field<&S::locked>{},
            Field<&S::medium_event>{}, Field<&S::data>{});
    }
};

class IdeDrive {
public:
    static constexpr u32 buffer_size = 128 << 10;

    // `slave`: drive 1 of its channel.
    IdeDrive(Owner &owner, IdeDriveState &state, BusMaster &bus_master,
             const IdeDriveConfig &config, bool slave);

    bool present() const noexcept { return config_.present; }
    bool cdrom() const noexcept { return config_.cdrom; }
    u64 sectors() const noexcept { return config_.disk ? config_.disk->length() / 512 : 0; }
    struct Geometry {
        u32 cylinders = 0, heads = 16, sectors = 63;
    };
    Geometry geometry() const noexcept; // as IDENTIFY tells it
    // No request is under way. Any thread.
    bool quiet() const noexcept { return !transfer_.busy.load(std::memory_order_acquire); }

    // The channel's calls.
    u8 read_register(unsigned at, bool hob) const noexcept; // 1 to 6
    void write_register(unsigned at, u8 value) noexcept;
    void command(u8 code) noexcept;
    void data_in(std::span<u8> to) noexcept; // what is not there reads as ones
    void data_out(std::span<const u8> from) noexcept;
    void reset(bool power_on) noexcept; // registers as after a reset, the signature in them
    void run_dma() noexcept;

    // Saving and loading.
    void fill_saved(IdeDriveState &copy) const;
    const char *validate(const IdeDriveState &) const noexcept;
    void loaded() noexcept;

private:
    using Phase = IdeDriveState::Phase;
    struct Transfer final : block::Request {
        explicit Transfer(IdeDrive &d) noexcept : drive(d) {}
        void completed(const Result<> &result) noexcept override;
        IdeDrive &drive;
        iovec vector{};
        std::atomic<bool> busy{false};
    };

    // Transfers.
    void offer(u32 bytes, u32 drq_size) noexcept; // what is in the buffer, and no more
    void give_to_host() noexcept;
    void fetch() noexcept;
    void want(bool interrupt) noexcept;
    void show_block(bool interrupt) noexcept;
    void block_ended() noexcept;
    void chunk_ended() noexcept;
    void submit(block::Request::Kind kind) noexcept;
    void completed(const Result<> &result) noexcept;
    // Ends of a command.
    void finish(bool interrupt = true) noexcept;
    void fail(u8 error) noexcept;
    void ready() noexcept;
    void put_signature() noexcept;
    void put_lba(u64 lba, bool ext) noexcept;
    static bool is_ext(u8 code) noexcept;

    // ATA commands.
    void disk_command(u8 code) noexcept;
    bool address(bool ext, u64 &lba, u32 &count) noexcept;
    void read_or_write(u8 code) noexcept;
    void set_features() noexcept;
    void smart() noexcept;
    void identify() noexcept;
    void identify_packet() noexcept;

    // Packets.
    void packet() noexcept;
    void reply(u32 bytes, u32 allowed) noexcept;
    void fail_packet(u8 key, u8 asc, u8 ascq = 0) noexcept;
    bool medium() const noexcept { return config_.disk && !s.tray_open; }
    u32 cd_blocks() const noexcept;
    void read_blocks(u64 lba, u64 count) noexcept;
    u32 inquiry(std::span<const u8> p) noexcept;
    u32 mode_sense(std::span<const u8> p, bool ten) noexcept;
    u32 read_toc(std::span<const u8> p) noexcept;
    u32 get_configuration(std::span<const u8> p) noexcept;
    u32 get_event_status() noexcept;
    void start_stop(u8 what) noexcept;
    bool check_medium() noexcept;

    Owner &owner_;
    IdeDriveState &s;
    BusMaster &bus_master_;
    const IdeDriveConfig config_;
    const bool slave_;
    block::Buffer buffer_;
    Transfer transfer_{*this};
};

} // namespace rhea::hw
