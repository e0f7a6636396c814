// dm/mem without threads: RAM and its logs, what shows where, accesses taken apart, DMA.
#include "dm/core/endian.h"
#include "dm/mem/address_space.h"
#include "dm/mem/dispatcher.h"
#include "dm/mem/dma.h"
#include <cerrno>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <tuple>

namespace rhea {
namespace {

constexpr auto mem = Space::memory;
constexpr auto port = Space::port;

std::shared_ptr<RamRegion> make_ram(u64 size) {
    auto r = RamRegion::create("test", size);
    EXPECT_TRUE(r);
    return *r;
}

// Records what it is asked; reads give the offset of each byte.
struct Recorder final : Owner, Target {
    explicit Recorder(Traits traits = {})
        : Target(*static_cast<Owner *>(this), "recorder", traits) {}
    u64 read(u64 at, unsigned size) noexcept override {
        calls += "r" + std::to_string(at) + "/" + std::to_string(size) + " ";
        u64 v = 0;
        for (unsigned i = 0; i < size; ++i)
            v |= ((at + i) & 0xff) << 8 * i;
        return v | ~u64{0} << 8 * (size % 8); // junk above the size must not come through
    }
    void write(u64 at, unsigned size, u64 value) noexcept override {
        char text[64];
        std::snprintf(text, sizeof text, "w%lu/%u=%lx ", at, size, value);
        calls += text;
    }
    void settle() noexcept override { ++settled; }
    std::string take() { return std::exchange(calls, {}); }
    std::string calls;
    int settled = 0;
};

TEST(Ram, is_a_shared_memory_file_of_its_size) {
    auto ram = make_ram(1 << 20);
    ram->host()[0x1234] = 0x5a;
    void *again = mmap(nullptr, ram->size(), PROT_READ, MAP_SHARED, ram->fd(), 0);
    ASSERT_NE(again, MAP_FAILED);
    EXPECT_EQ(static_cast<u8 *>(again)[0x1234], 0x5a);
    munmap(again, ram->size());
    EXPECT_EQ(ram->pages(), 256u);
}

TEST(Ram, sizes_that_cannot_be_are_errors) {
    for (const u64 size : {u64{0}, u64{1}, u64{4097}, u64{1} << 63, ~u64{0}}) {
        const auto r = RamRegion::create("ram", size);
        ASSERT_FALSE(r) << size;
        EXPECT_EQ(r.error().code, EINVAL);
        EXPECT_NE(r.error().what.find(std::to_string(size)), std::string::npos);
    }
}

struct Listener final : RamListener {
    void pages_watched(RamRegion &, u64 first, u64 count) noexcept override {
        watched.push_back({first, count});
    }
    void code_written(RamRegion &, u64 offset, u64 size) noexcept override {
        code.push_back({offset, size});
    }
    void collect_writes(RamRegion &r, u64, u64) noexcept override {
        if (collect)
            r.written(collect, 1);
    }
    std::vector<PageRun> watched;
    std::vector<std::pair<u64, u64>> code;
    u64 collect = 0;
};

TEST(DirtyLog, gives_each_written_page_once_and_in_runs) {
    AddressMap map;
    auto ram = make_ram(64 * page_size);
    DirtyLog log(map, ram, PageWatch::display, DirtyLog::Start::clean);
    EXPECT_TRUE(log.take_pages().empty());

    ram->written(3 * page_size + 4095, 2); // pages 3 and 4
    ram->written(9 * page_size, 1);
    ram->written(20 * page_size, 0);

    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{3, 2}, {9, 1}}));
    EXPECT_TRUE(log.take_pages().empty());
}

TEST(DirtyLog, starts_dirty_unless_told_otherwise) {
    AddressMap map;
    auto ram = make_ram(8 * page_size);
    DirtyLog log(map, ram, PageWatch::migration);
    EXPECT_EQ(log.take_pages(2, 3), (std::vector<PageRun>{{2, 3}}));
    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{0, 2}, {5, 3}}));
}

TEST(DirtyLog, clients_do_not_see_each_other) {
    AddressMap map;
    auto ram = make_ram(8 * page_size);
    DirtyLog screen(map, ram, PageWatch::display, DirtyLog::Start::clean);
    {
        DirtyLog copy(map, ram, PageWatch::migration, DirtyLog::Start::clean);
        ram->written(page_size, 1);
        EXPECT_TRUE(copy.take(page_size, 1));
        EXPECT_EQ(ram->page_flags()[1], 4);
        EXPECT_TRUE(screen.take(page_size, 1));
        EXPECT_EQ(ram->page_flags()[1], 6);
    }
    EXPECT_EQ(ram->page_flags()[1], 2); // the migration bit went with its log
    EXPECT_FALSE(screen.take(0, 8 * page_size));
    EXPECT_FALSE(screen.take(8 * page_size, 1));
}

TEST(DirtyLog, makes_the_engines_forget_free_pages) {
    AddressMap map;
    Listener engine;
    auto ram = make_ram(8 * page_size);
    ram->add_listener(engine);
    DirtyLog log(map, ram, PageWatch::display, DirtyLog::Start::clean);
    const u64 before = map.generation();
    engine.watched.clear();
    engine.collect = 5 * page_size;

    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{5, 1}}));

    EXPECT_EQ(engine.watched, (std::vector<PageRun>{{5, 1}}));
    EXPECT_GT(map.generation(), before);
    ram->remove_listener(engine);
}

TEST(Ram, a_write_to_translated_code_reaches_the_listener) {
    Listener engine;
    auto ram = make_ram(8 * page_size);
    ram->add_listener(engine);
    ram->watch(PageWatch::code, 2, 1);
    ram->written(page_size, 10);
    EXPECT_TRUE(engine.code.empty());
    ram->written(2 * page_size + 5, 10);
    ASSERT_EQ(engine.code.size(), 1u);
    EXPECT_EQ(engine.code[0], (std::pair<u64, u64>{2 * page_size + 5, 10}));
    EXPECT_EQ(ram->page_flags()[2], 1); // the engine's to take away
    ram->remove_listener(engine);
}

TEST(AddressMap, higher_priority_shows_and_what_is_below_comes_back) {
    AddressMap map;
    Recorder low, high;
    auto a = map.map(port, 0x100, 0x100, low);
    {
        auto b = map.map(port, 0x140, 0x10, high, 1);
        const auto view = map.view();
        ASSERT_EQ((*view)[port].size(), 3u);
        EXPECT_EQ(view->find(port, 0x13f)->target, &low);
        EXPECT_EQ(view->find(port, 0x140)->target, &high);
        EXPECT_EQ(view->find(port, 0x150)->target, &low);
        EXPECT_EQ(view->find(port, 0x150)->offset, 0x50u);
        EXPECT_EQ(view->find(port, 0xff), nullptr);
        EXPECT_EQ(view->find(port, 0x200), nullptr);
    }
    EXPECT_EQ((*map.view())[port].size(), 1u);
}

TEST(AddressMap, of_equal_priorities_the_later_shows) {
    AddressMap map;
    Recorder first, second;
    auto a = map.map(mem, 0, 0x1000, first);
    auto b = map.map(mem, 0x800, 0x1000, second);
    EXPECT_EQ(map.view()->find(mem, 0x800)->target, &second);
    EXPECT_EQ(map.view()->find(mem, 0x7ff)->target, &first);
}

TEST(AddressMap, a_mapping_may_end_at_the_last_address) {
    AddressMap map;
    Recorder top;
    auto a = map.map(mem, ~u64{0} - 0xfff, 0x1000, top);
    auto b = map.map(port, 0xffff, 1, top);
    EXPECT_EQ(map.view()->find(mem, ~u64{0})->target, &top);
    EXPECT_EQ(map.view()->find(mem, ~u64{0})->size(), 0x1000u);
    EXPECT_EQ(map.view()->find(port, 0xffff)->target, &top);
    EXPECT_EQ(map.view()->find(mem, 0), nullptr);
}

TEST(AddressMap, moves_shows_and_hides_by_one_new_view_each) {
    AddressMap map;
    Recorder bar;
    auto a = map.map(mem, 0, 0x1000, bar, 0, false);
    EXPECT_EQ(map.view()->find(mem, 0), nullptr);
    const u64 g = map.generation();

    a.move_and_show(0xe0000000, true);
    EXPECT_EQ(map.generation(), g + 1);
    EXPECT_EQ(map.view()->find(mem, 0xe0000000)->target, &bar);
    a.move(0xf0000000);
    EXPECT_EQ(map.generation(), g + 2);
    EXPECT_EQ(map.view()->find(mem, 0xe0000000), nullptr);
    a.show(true); // nothing changes, nothing is published
    EXPECT_EQ(map.generation(), g + 2);
    a.move_and_show(~u64{0} - 0x7ff, true); // where a guest may try to put it: it does not fit
    EXPECT_TRUE((*map.view())[mem].empty());
    a.move_and_show(0x1000, true);
    EXPECT_EQ(map.view()->find(mem, 0x1fff)->target, &bar);
    a.unmap();
    a.unmap();
    EXPECT_TRUE((*map.view())[mem].empty());
}

TEST(AddressMap, a_mapping_can_be_handed_on) {
    AddressMap map;
    Recorder x, y;
    Mapping a = map.map(port, 0x10, 1, x);
    Mapping b = map.map(port, 0x20, 1, y);
    a = std::move(b);
    EXPECT_EQ(map.view()->find(port, 0x10), nullptr);
    EXPECT_EQ(map.view()->find(port, 0x20)->target, &y);
    EXPECT_FALSE(b);
}

TEST(AddressMap, tells_listeners_what_was_and_what_is) {
    struct Log final : MapListener {
        void map_changed(const ViewPtr &before, const ViewPtr &now) noexcept override {
            seen.push_back({(*before)[mem].size(), (*now)[mem].size(), now->generation});
        }
        std::vector<std::tuple<std::size_t, std::size_t, u64>> seen;
    } log;
    AddressMap map;
    Recorder d;
    auto a = map.map(mem, 0, 0x1000, d);
    map.add_listener(log);
    auto b = map.map(mem, 0x2000, 0x1000, d);
    a.unmap();
    map.remove_listener(log);
    b.unmap();
    using Seen = std::tuple<std::size_t, std::size_t, u64>;
    EXPECT_EQ(log.seen, (std::vector<Seen>{{0, 1, 2}, {1, 2, 3}, {2, 1, 4}}));
}

TEST(AddressMap, ram_outlives_its_mapping_as_long_as_a_view_shows_it) {
    AddressMap map;
    auto ram = make_ram(page_size);
    std::weak_ptr<RamRegion> watch = ram;
    Mapping a = map.map_ram(0, std::move(ram));
    ViewPtr old = map.view();
    a.unmap();
    EXPECT_FALSE(watch.expired());
    EXPECT_EQ(old->find(mem, 0)->ram->host()[0], 0);
    old.reset();
    EXPECT_TRUE(watch.expired());
}

struct Dispatch : ::testing::Test {
    AddressMap map;
    Accessor cpu{map};
};

TEST_F(Dispatch, nothing_there_reads_as_all_ones) {
    EXPECT_EQ(cpu.read(port, 0x80, 1), 0xffu);
    EXPECT_EQ(cpu.read(mem, 0x1234, 8), ~u64{0});
    EXPECT_EQ(cpu.read(Space::pci_config, 0, 4), 0xffffffffu);
    cpu.write(mem, 0x1234, 8, 0);
}

TEST_F(Dispatch, an_access_that_is_too_wide_is_split) {
    Recorder byte_wide({.max_size = 1}), word_wide({.max_size = 4});
    auto a = map.map(port, 0x40, 4, byte_wide);
    auto b = map.map(mem, 0x1000, 0x100, word_wide);
    EXPECT_EQ(cpu.read(port, 0x41, 2), 0x0201u);
    EXPECT_EQ(byte_wide.take(), "r1/1 r2/1 ");
    cpu.write(mem, 0x1010, 8, 0x1122334455667788);
    EXPECT_EQ(word_wide.take(), "w16/4=55667788 w20/4=11223344 ");
    EXPECT_EQ(word_wide.settled, 2);
}

TEST_F(Dispatch, an_unaligned_access_is_split_unless_the_device_takes_it) {
    Recorder aligned({.max_size = 4}), any({.max_size = 4, .unaligned = true});
    auto a = map.map(port, 0x100, 16, aligned);
    auto b = map.map(port, 0x200, 16, any);
    cpu.write(port, 0x101, 4, 0x44332211);
    EXPECT_EQ(aligned.take(), "w1/1=11 w2/2=3322 w4/1=44 ");
    EXPECT_EQ(cpu.read(port, 0x203, 4), 0x06050403u);
    EXPECT_EQ(any.take(), "r3/4 ");
}

TEST_F(Dispatch, an_access_across_a_border_goes_to_both) {
    Recorder left, right;
    auto a = map.map(port, 0x100, 2, left);
    auto b = map.map(port, 0x102, 2, right);
    EXPECT_EQ(cpu.read(port, 0x100, 4), 0x01000100u);
    EXPECT_EQ(left.take() + right.take(), "r0/2 r0/2 ");
    EXPECT_EQ(cpu.read(port, 0x103, 2), 0xff01u);
}

TEST_F(Dispatch, addresses_wrap_at_the_end_of_the_ports) {
    Recorder first, last;
    auto a = map.map(port, 0, 1, first);
    auto b = map.map(port, 0xffff, 1, last);
    cpu.write(port, 0xffff, 2, 0xbbaa);
    EXPECT_EQ(last.take() + first.take(), "w0/1=aa w0/1=bb ");
    cpu.write(port, 0x1ffff, 1, 1);
    EXPECT_EQ(last.take(), "w0/1=1 ");
}

TEST_F(Dispatch, ram_and_rom_are_bytes) {
    auto ram = make_ram(2 * page_size), rom = make_ram(page_size);
    store_le<u64>(rom->host(), 0x8877665544332211);
    auto a = map.map_ram(0, ram);
    auto b = map.map_rom(2 * page_size, rom, 0, page_size);
    DirtyLog log(map, ram, PageWatch::display, DirtyLog::Start::clean);

    cpu.write(mem, page_size - 4, 8, 0x0807060504030201);
    EXPECT_EQ(cpu.read(mem, page_size - 4, 8), 0x0807060504030201u);
    EXPECT_EQ(cpu.read(mem, page_size - 1, 2), 0x0504u);
    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{0, 2}}));

    cpu.write(mem, 2 * page_size, 4, 0);
    EXPECT_EQ(cpu.read(mem, 2 * page_size, 8), 0x8877665544332211u);
    EXPECT_EQ(cpu.read(mem, 2 * page_size - 2, 4), 0x22110000u);
    b.set_writable(true); // shadow RAM
    cpu.write(mem, 2 * page_size, 4, 0);
    EXPECT_EQ(cpu.read(mem, 2 * page_size, 4), 0u);
}

TEST_F(Dispatch, flash_reads_directly_and_writes_through_its_device) {
    auto rom = make_ram(page_size);
    rom->host()[7] = 0x77;
    Recorder flash;
    auto a = map.map_rom(0x10000, rom, 0, page_size, 0, true, &flash);
    EXPECT_EQ(cpu.read(mem, 0x10007, 1), 0x77u);
    cpu.write(mem, 0x10007, 1, 0x40);
    EXPECT_EQ(flash.take(), "w7/1=40 ");
    EXPECT_EQ(rom->host()[7], 0x77);
}

TEST_F(Dispatch, bytes_cross_ram_holes_and_devices) {
    auto ram = make_ram(page_size);
    Recorder d;
    auto a = map.map_ram(0, ram);
    auto b = map.map(mem, page_size + 2, 2, d);
    std::array<u8, 8> out{};
    const std::array<u8, 8> in{1, 2, 3, 4, 5, 6, 7, 8};
    cpu.write_bytes(page_size - 3, in);
    EXPECT_EQ(d.take(), "w0/1=6 w1/1=7 ");
    cpu.read_bytes(page_size - 3, out);
    EXPECT_EQ(out, (std::array<u8, 8>{1, 2, 3, 0xff, 0xff, 0, 1, 0xff}));
}

TEST_F(Dispatch, a_request_carries_one_access) {
    Recorder d;
    auto a = map.map(port, 0x60, 8, d);
    Request r{.space = port, .direction = Direction::read, .size = 2, .address = 0x62};
    cpu.serve(r);
    EXPECT_EQ(r.value, 0x0302u);
    r = {.space = port, .direction = Direction::write, .size = 1, .address = 0x64, .value = 0xd1};
    cpu.serve(r);
    r.size = 0;
    cpu.serve(r);
    r.size = 9;
    cpu.serve(r);
    EXPECT_EQ(d.take(), "r2/2 w4/1=d1 ");
}

TEST_F(Dispatch, a_run_goes_up_and_down_through_host_memory) {
    Recorder d;
    auto a = map.map(port, 0x1f0, 8, d);
    std::array<u8, 8> data{1, 2, 3, 4, 5, 6, 7, 8};
    Request out{.space = port,
                .direction = Direction::write,
                .size = 2,
                .address = 0x1f0,
                .count = 2,
                .data = data.data() + 4,
                .data_step = -2};
    cpu.serve(out);
    EXPECT_EQ(d.take(), "w0/2=605 w0/2=403 ");
    Request in{.space = port,
               .direction = Direction::read,
               .size = 4,
               .address = 0x1f0,
               .count = 2,
               .data = data.data(),
               .data_step = 4};
    cpu.serve(in);
    EXPECT_EQ(data, (std::array<u8, 8>{0, 1, 2, 3, 0, 1, 2, 3}));
    EXPECT_EQ(d.settled, 4);
}

TEST_F(Dispatch, a_run_that_the_device_does_not_take_whole_goes_item_by_item) {
    Recorder narrow({.max_size = 1});
    auto a = map.map(mem, 0x1000, 0x100, narrow);
    std::array<u8, 4> data{1, 2, 3, 4};
    Request r{.space = mem,
              .direction = Direction::write,
              .size = 2,
              .address = 0x1000,
              .count = 2,
              .data = data.data(),
              .data_step = 2,
              .address_step = 2};
    cpu.serve(r);
    EXPECT_EQ(narrow.take(), "w0/1=1 w1/1=2 w2/1=3 w3/1=4 ");
    Request hole{.space = port,
                 .direction = Direction::read,
                 .size = 1,
                 .address = 0x99,
                 .count = 4,
                 .data = data.data(),
                 .data_step = 1};
    cpu.serve(hole);
    EXPECT_EQ(data, (std::array<u8, 4>{0xff, 0xff, 0xff, 0xff}));
}

TEST_F(Dispatch, a_device_may_move_itself_in_the_middle_of_a_run) {
    struct Mover final : Owner, Target {
        Mover() : Target(*static_cast<Owner *>(this), "mover") {}
        u64 read(u64, unsigned) noexcept override { return 0; }
        void write(u64, unsigned, u64) noexcept override {
            if (++writes == 5000)
                mapping.show(false);
        }
        Mapping mapping;
        int writes = 0;
    } d;
    d.mapping = map.map(port, 0x80, 1, d);
    std::vector<u8> data(20000);
    Request r{.space = port,
              .direction = Direction::write,
              .size = 1,
              .address = 0x80,
              .count = 20000,
              .data = data.data(),
              .data_step = 1};
    cpu.serve(r);
    EXPECT_EQ(d.writes, 8192); // to the end of the stretch that was under way
    d.mapping.unmap();
}

struct DmaTest : ::testing::Test {
    AddressMap map;
    std::shared_ptr<RamRegion> ram = make_ram(4 * page_size), rom = make_ram(page_size);
    Recorder device;
    Mapping a = map.map_ram(0, ram);
    Mapping b = map.map_rom(4 * page_size, rom, 0, page_size);
    Mapping c = map.map(mem, 5 * page_size, page_size, device);
    Dma dma{map};
};

TEST_F(DmaTest, copies_structures_in_and_out_and_logs_writes) {
    struct Descriptor {
        Le<u64> address;
        Le<u32> length;
    };
    DirtyLog log(map, ram, PageWatch::display, DirtyLog::Start::clean);
    ASSERT_TRUE(dma.write(page_size - 4, Descriptor{0x1122334455667788, 42}));
    Descriptor d{};
    ASSERT_TRUE(dma.read(page_size - 4, d));
    EXPECT_EQ(d.address, 0x1122334455667788u);
    EXPECT_EQ(d.length, 42u);
    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{0, 2}}));
    ASSERT_TRUE(dma.fill(3 * page_size, page_size, 0xcc));
    EXPECT_EQ(ram->host()[4 * page_size - 1], 0xcc);
    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{3, 1}}));
}

TEST_F(DmaTest, reaches_ram_only_and_counts_what_it_refuses) {
    std::array<u8, 16> bytes{};
    bytes.fill(0xee);
    EXPECT_FALSE(dma.write(4 * page_size - 8, bytes)); // runs into ROM
    EXPECT_EQ(ram->host()[4 * page_size - 1], 0xee);   // what came before was written
    EXPECT_EQ(rom->host()[0], 0);
    EXPECT_FALSE(dma.read(5 * page_size - 8, bytes)); // from ROM into a device
    EXPECT_EQ(bytes[0], 0);
    EXPECT_EQ(bytes[15], 0);
    EXPECT_FALSE(dma.read(0x1'0000'0000, bytes));
    EXPECT_FALSE(dma.fill(5 * page_size, 1, 0));
    EXPECT_FALSE(dma.read(~u64{0}, bytes));
    EXPECT_EQ(device.take(), "");
    EXPECT_EQ(dma.refused(), 5u);
    EXPECT_TRUE(dma.read(4 * page_size, bytes)); // ROM alone may be read
    EXPECT_TRUE(dma.read(1 << 30, std::span<u8>{}));
}

TEST_F(DmaTest, a_pin_outlives_the_mapping_and_logs_when_released) {
    DirtyLog log(map, ram, PageWatch::display, DirtyLog::Start::clean);
    PinnedSpan pin = dma.pin(2 * page_size, 100 * page_size, Dma::For::writing);
    ASSERT_TRUE(pin);
    EXPECT_EQ(pin.size(), 2 * page_size);
    std::weak_ptr<RamRegion> alive = ram;
    a.unmap();
    pin.data()[0] = 1;
    pin = PinnedSpan{};
    EXPECT_EQ(log.take_pages(), (std::vector<PageRun>{{2, 2}}));
    EXPECT_FALSE(dma.pin(0, 1, Dma::For::reading));
    EXPECT_FALSE(dma.pin(4 * page_size, 1, Dma::For::writing));
    EXPECT_TRUE(dma.pin(4 * page_size, 1, Dma::For::reading));
    EXPECT_FALSE(dma.pin(4 * page_size, 0, Dma::For::reading));
}

} // namespace
} // namespace rhea
