#include "hw/firmware/acpi/tables.h"

#include <algorithm>
#include <cstring>

#include "dm/core/result.h"
#include "hw/acpi/piix4_pm.h"
#include "hw/firmware/acpi/table.h"

namespace rhea::hw {

namespace {

struct Gas { // generic address structure, 5.2.3.2
    u8 space = 0;
    u8 bits = 0;
    u8 offset = 0;
    u8 access = 0; // 1: bytes, 2: words, 3: double words
    Le<u64> address{};
};
static_assert(sizeof(Gas) == 12);

struct Fadt { // after the header; 5.2.9, revision 3
    Le<u32> firmware_ctrl, dsdt;
    u8 reserved0, preferred_pm_profile;
    Le<u16> sci_int;
    Le<u32> smi_cmd;
    u8 acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    Le<u32> pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk, pm_tmr_blk,
        gpe0_blk, gpe1_blk;
    u8 pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len, gpe1_base,
        cst_cnt;
    Le<u16> p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    u8 duty_offset, duty_width, day_alrm, mon_alrm, century;
    Le<u16> iapc_boot_arch;
    u8 reserved1;
    Le<u32> flags;
    Gas reset_reg;
    u8 reset_value;
    u8 reserved2[3];
    Le<u64> x_firmware_ctrl, x_dsdt;
    Gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk, x_pm2_cnt_blk, x_pm_tmr_blk,
        x_gpe0_blk, x_gpe1_blk;
};
static_assert(sizeof(AcpiHeader) + sizeof(Fadt) == 244);

template <class T> std::vector<u8> bytes_of(const T &t) {
    const auto *p = reinterpret_cast<const u8 *>(&t);
    return {p, p + sizeof t};
}

Gas port(u16 address, u8 bits, u8 access) {
    return {1, bits, 0, access, address};
}

Fadt make_fadt(const AcpiConfig &c) {
    using Pm = Piix4Pm;
    enum : u32 { // flags
        wbinvd = 1 << 0,
        proc_c1 = 1 << 2,
        slp_button = 1 << 5, // not as a fixed feature
        rtc_s4 = 1 << 7,
        reset_reg_sup = 1 << 10,
    };
    enum : u16 { legacy_devices = 1 << 0, i8042 = 1 << 1, no_vga = 1 << 2 };
    const auto at = [&](u16 offset) { return u16(c.pm_base + offset); };
    Fadt f{};
    f.sci_int = Pm::sci;
    f.smi_cmd = Pm::smi_command_port;
    f.acpi_enable = Pm::enable_value;
    f.acpi_disable = Pm::disable_value;
    f.pm1a_evt_blk = at(Pm::pm1_event);
    f.pm1a_cnt_blk = at(Pm::pm1_control);
    f.pm_tmr_blk = at(Pm::pm_timer);
    f.gpe0_blk = at(Pm::gpe0);
    f.pm1_evt_len = 4;
    f.pm1_cnt_len = 2;
    f.pm_tmr_len = 4;
    f.gpe0_blk_len = Pm::gpe0_length;
    f.p_lvl2_lat = 0xfff; // no C2, no C3
    f.p_lvl3_lat = 0xfff;
    f.century = 0x32;
    f.iapc_boot_arch = u16(legacy_devices | i8042 | (c.display ? 0 : no_vga));
    f.flags = wbinvd | proc_c1 | slp_button | rtc_s4 | reset_reg_sup;
    f.reset_reg = port(0xcf9, 8, 1); // PIIX3 reset control, 82371SB 2.5.7
    f.reset_value = 0x06;            // hard, now
    f.x_pm1a_evt_blk = port(at(Pm::pm1_event), 32, 2);
    f.x_pm1a_cnt_blk = port(at(Pm::pm1_control), 16, 2);
    f.x_pm_tmr_blk = port(at(Pm::pm_timer), 32, 3);
    f.x_gpe0_blk = port(at(Pm::gpe0), u8(8 * Pm::gpe0_length), 1);
    return f;
}

std::vector<u8> make_madt(const AcpiConfig &c) { // 5.2.12
    std::vector<u8> out;
    const auto u8s = [&](std::initializer_list<u32> v) {
        for (const u32 x : v)
            out.push_back(u8(x));
    };
    const auto u32le = [&](u32 v) { u8s({v, v >> 8, v >> 16, v >> 24}); };
    u32le(0xfee0'0000);
    u32le(1); // PCAT_COMPAT: there is an 8259 pair
    for (unsigned i = 0; i < c.cpus; ++i) {
        u8s({0, 8, i, i}); // processor local APIC
        u32le(1);          // enabled
    }
    u8s({1, 12, 0, 0}); // I/O APIC 0
    u32le(0xfec0'0000);
    u32le(0);
    const auto source_override = [&](u8 isa, u32 input, u8 flags) {
        u8s({2, 10, 0, isa});
        u32le(input);
        u8s({flags, 0});
    };
    constexpr u8 as_bus = 0x00, level_high = 0x0d;
    source_override(0, 2, as_bus);
    for (const u8 isa : {u8{5}, Piix4Pm::sci, u8{10}, u8{11}}) // what PCI is routed to, and SCI
        source_override(isa, isa, level_high);
    u8s({4, 6, 0xff, 0, 0, 1}); // LINT1 of all is NMI
    return out;
}

struct Rsdp { // 5.2.5.3, revision 0
    char signature[8];
    u8 checksum;
    char oem_id[6];
    u8 revision;
    Le<u32> rsdt_address;
};
static_assert(sizeof(Rsdp) == 20);

/// The file of tables, and the script's steps that go with each of them.
class Assembly {
public:
    explicit Assembly(AcpiTables &out) : out_(out) {}

    u32 append(const std::vector<u8> &table) {
        out_.tables.resize((out_.tables.size() + 7) & ~usize{7}); // tables have 8-byte fields
        const auto at = u32(out_.tables.size());
        out_.tables.insert(out_.tables.end(), table.begin(), table.end());
        return at;
    }
    void point(u32 from, u32 to, u32 bytes = 4) {
        for (u32 i = 0; i < bytes; ++i)
            out_.tables[from + i] = u8(u64{to} >> 8 * i);
        out_.script.push_back({LoaderStep::Kind::add_pointer, AcpiTables::tables_file,
                               AcpiTables::tables_file, from, bytes, 0});
    }
    void checksum(u32 table, u32 length) {
        const u32 at = table + u32(offsetof(AcpiHeader, checksum));
        out_.tables[at] = 0;
        out_.script.push_back(
            {LoaderStep::Kind::add_checksum, AcpiTables::tables_file, "", at, table, length});
    }

private:
    AcpiTables &out_;
};

} // namespace

std::vector<u8> with_header(std::string_view signature, u8 revision, std::span<const u8> body) {
    AcpiHeader h{};
    std::memcpy(h.signature, signature.data(), 4);
    h.length = u32(sizeof h + body.size());
    h.revision = revision;
    std::memcpy(h.oem_id, "RHEA  ", 6);
    std::memcpy(h.oem_table_id, "RHEAPC  ", 8);
    h.oem_revision = 1;
    std::memcpy(h.creator_id, "RHEA", 4);
    h.creator_revision = 1;
    std::vector<u8> out(sizeof h + body.size());
    std::memcpy(out.data(), &h, sizeof h);
    std::ranges::copy(body, out.begin() + sizeof h);
    out[offsetof(AcpiHeader, checksum)] = acpi_checksum(out);
    return out;
}

AcpiTables make_acpi_tables(const AcpiConfig &c) {
    AcpiTables t;
    Assembly a(t);
    constexpr u32 facs_alignment = 64;
    enum Zone : u32 { zone_high = 1, zone_fseg = 2 };
    t.script.push_back({LoaderStep::Kind::allocate, AcpiTables::rsdp_file, "", 16, zone_fseg, 0});
    t.script.push_back(
        {LoaderStep::Kind::allocate, AcpiTables::tables_file, "", facs_alignment, zone_high, 0});

    std::vector<u8> facs(64); // 5.2.10
    std::memcpy(facs.data(), "FACS", 4);
    facs[4] = 64;
    const u32 facs_at = a.append(facs);
    const u32 dsdt_at = a.append(make_dsdt(c));

    const u32 fadt_at = a.append(with_header("FACP", 3, bytes_of(make_fadt(c))));
    constexpr u32 body = sizeof(AcpiHeader);
    a.point(fadt_at + body + u32(offsetof(Fadt, firmware_ctrl)), facs_at);
    a.point(fadt_at + body + u32(offsetof(Fadt, dsdt)), dsdt_at);
    a.point(fadt_at + body + u32(offsetof(Fadt, x_dsdt)), dsdt_at, 8);
    a.checksum(fadt_at, body + sizeof(Fadt));

    const u32 madt_at = a.append(with_header("APIC", 3, make_madt(c)));

    const u32 rsdt_at = a.append(with_header("RSDT", 1, std::vector<u8>(8)));
    a.point(rsdt_at + body, fadt_at);
    a.point(rsdt_at + body + 4, madt_at);
    a.checksum(rsdt_at, body + 8);

    Rsdp r{};
    std::memcpy(r.signature, "RSD PTR ", 8);
    std::memcpy(r.oem_id, "RHEA  ", 6);
    r.rsdt_address = rsdt_at;
    t.rsdp = bytes_of(r);
    t.script.push_back({LoaderStep::Kind::add_pointer, AcpiTables::rsdp_file,
                        AcpiTables::tables_file, u32(offsetof(Rsdp, rsdt_address)), 4, 0});
    t.script.push_back({LoaderStep::Kind::add_checksum, AcpiTables::rsdp_file, "",
                        u32(offsetof(Rsdp, checksum)), 0, sizeof(Rsdp)});
    return t;
}

std::vector<std::pair<std::string, std::vector<u8>>> AcpiTables::loader_files() const {
    constexpr usize entry_size = 128, name_size = 56;
    std::vector<u8> bytes;
    for (const LoaderStep &s : script) {
        std::vector<u8> e(entry_size);
        const auto put_name = [&](usize at, const std::string &n) {
            VERIFY(n.size() < name_size);
            std::copy(n.begin(), n.end(), e.begin() + std::ptrdiff_t(at));
        };
        store_le<u32>(&e[0], u32(s.kind));
        put_name(4, s.file);
        switch (s.kind) {
        case LoaderStep::Kind::allocate:
            store_le<u32>(&e[4 + name_size], s.a);
            e[8 + name_size] = u8(s.b);
            break;
        case LoaderStep::Kind::add_pointer:
            put_name(4 + name_size, s.other_file);
            store_le<u32>(&e[4 + 2 * name_size], s.a);
            e[8 + 2 * name_size] = u8(s.b);
            break;
        case LoaderStep::Kind::add_checksum:
            store_le<u32>(&e[4 + name_size], s.a);
            store_le<u32>(&e[8 + name_size], s.b);
            store_le<u32>(&e[12 + name_size], s.c);
            break;
        }
        bytes.insert(bytes.end(), e.begin(), e.end());
    }
    return {{tables_file, tables}, {rsdp_file, rsdp}, {script_file, std::move(bytes)}};
}

std::vector<u8> place_tables(const AcpiTables &t, u64 tables_at, u64 &rsdp_at) {
    std::vector<u8> out = t.tables;
    out.resize((out.size() + 15) & ~usize{15});
    const usize rsdp_offset = out.size();
    rsdp_at = tables_at + rsdp_offset;
    out.insert(out.end(), t.rsdp.begin(), t.rsdp.end());
    const auto offset_of = [&](const std::string &file) {
        return file == AcpiTables::rsdp_file ? rsdp_offset : 0;
    };
    for (const LoaderStep &s : t.script) {
        const usize base = offset_of(s.file);
        if (s.kind == LoaderStep::Kind::add_pointer) {
            u64 v = 0;
            for (u32 i = 0; i < s.b; ++i)
                v |= u64{out[base + s.a + i]} << 8 * i;
            v += tables_at + offset_of(s.other_file);
            for (u32 i = 0; i < s.b; ++i)
                out[base + s.a + i] = u8(v >> 8 * i);
        } else if (s.kind == LoaderStep::Kind::add_checksum) {
            out[base + s.a] = acpi_checksum(std::span(out).subspan(base + s.b, s.c));
        }
    }
    return out;
}

} // namespace rhea::hw
