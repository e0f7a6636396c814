#include "accel/dbt/guest/x86/decode.h"

#include "accel/dbt/guest/x86/decode_table.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace rhea::dbt::x86 {
namespace {

// --- the compiled form of a row

enum class Place : u8 {
    none,
    rm_gpr,      // E
    rm_memory,   // M
    rm_register, // R: as E, register form only
    reg_gpr,     // G
    opcode_gpr,  // Z
    reg_xmm,     // V
    rm_xmm,      // W, U
    reg_mmx,     // P
    rm_mmx,      // Q, N
    reg_segment, // S
    reg_control, // C
    reg_debug,   // D
    immediate,   // I
    relative,    // J
    far_pointer, // A
    offset,      // O
    accumulator, // AL AX rAX zAX
    count_cl,
    count_one,
    port_dx,
    named_segment, // type: SegmentName
    st0,
    rm_st,
};

struct CompiledOperand {
    Place place = Place::none;
    char type = '0';        // of a register, or of either
    char memory_type = '0'; // of the memory form
    u8 access = 0;
    bool sign_extended = false;
};

namespace attribute {
inline constexpr u16 lock = 1, default_64 = 2, forced_64 = 4, byte = 8, io = 16, ignore_mod = 32,
                     second_immediate = 64, keeps_flags_by_count = 128,
                     keeps_flags_if_repeated = 256, reads_condition = 512, vector = 1024,
                     modrm = 2048, st_operands = 4096;
}

// What selects a row within its opcode: the bits of `key_mask` must equal `key_value`, and the
// prefix class (none, 66, F3, F2) must be in `prefixes`.
namespace key {
inline constexpr unsigned rm = 0, reg = 3;
inline constexpr u16 register_form = 1 << 6, mode_64 = 1 << 7, rex_w = 1 << 8, rex_b = 1 << 9,
                     size_16 = 1 << 10;
} // namespace key
inline constexpr u8 prefix_none = 1, prefix_66 = 2, prefix_f3 = 4, prefix_f2 = 8;

struct Entry {
    u16 key_mask = 0, key_value = 0;
    u16 attributes = 0;
    Op op = Op::invalid;
    u16 flags_read = 0, flags_written = 0, flags_undefined = 0;
    u8 prefixes = 15;
    u8 feature = 0;
    u8 operand_count = 0;
    CompiledOperand operand[4];
};

constexpr OperandField field_of(Place place) {
    switch (place) {
    case Place::rm_gpr:
    case Place::rm_memory:
    case Place::rm_register:
    case Place::rm_xmm:
    case Place::rm_mmx:
    case Place::rm_st: return OperandField::modrm_rm;
    case Place::reg_gpr:
    case Place::reg_xmm:
    case Place::reg_mmx:
    case Place::reg_segment:
    case Place::reg_control:
    case Place::reg_debug: return OperandField::modrm_reg;
    case Place::opcode_gpr: return OperandField::opcode_low_bits;
    default: return OperandField::implied;
    }
}

// --- parsing, at compile time only: throwing is what makes a bad row an error

struct Tokens {
    std::string_view rest;
    constexpr std::string_view next() {
        while (!rest.empty() && rest.front() == ' ')
            rest.remove_prefix(1);
        const std::string_view token = rest.substr(0, std::min(rest.find(' '), rest.size()));
        rest.remove_prefix(token.size());
        return token;
    }
};

constexpr unsigned hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return unsigned(c - '0');
    if (c >= 'A' && c <= 'F')
        return unsigned(c - 'A' + 10);
    throw "a hexadecimal digit is expected";
}
constexpr u8 hex_byte(std::string_view s) {
    if (s.size() < 2)
        throw "two hexadecimal digits are expected";
    return u8(hex_digit(s[0]) * 16 + hex_digit(s[1]));
}

struct NamedFeature {
    std::string_view name;
    Feature feature;
};
constexpr NamedFeature feature_names[] = {
    {"fpu", Feature::fpu},
    {"tsc", Feature::tsc},
    {"msr", Feature::msr},
    {"cx8", Feature::cx8},
    {"sep", Feature::sep},
    {"cmov", Feature::cmov},
    {"clfsh", Feature::clfsh},
    {"mmx", Feature::mmx},
    {"fxsr", Feature::fxsr},
    {"sse", Feature::sse},
    {"sse2", Feature::sse2},
    {"sse3", Feature::sse3},
    {"pclmulqdq", Feature::pclmulqdq},
    {"monitor", Feature::monitor},
    {"ssse3", Feature::ssse3},
    {"cx16", Feature::cx16},
    {"sse4_1", Feature::sse4_1},
    {"sse4_2", Feature::sse4_2},
    {"movbe", Feature::movbe},
    {"popcnt", Feature::popcnt},
    {"aes", Feature::aes},
    {"xsave", Feature::xsave},
    {"rdrand", Feature::rdrand},
    {"syscall", Feature::syscall},
    {"rdtscp", Feature::rdtscp},
    {"long_mode", Feature::long_mode},
    {"lahf64", Feature::lahf64},
    {"lzcnt", Feature::lzcnt},
    {"sse4a", Feature::sse4a},
    {"bmi1", Feature::bmi1},
    {"fsgsbase", Feature::fsgsbase},
    {"invpcid", Feature::invpcid},
    {"adx", Feature::adx},
    {"smap", Feature::smap},
    {"sha", Feature::sha},
    {"clflushopt", Feature::clflushopt},
    {"clwb", Feature::clwb},
    {"rdseed", Feature::rdseed},
    {"rdpid", Feature::rdpid},
    {"svm", Feature::svm},
    {"vmx", Feature::vmx},
};

constexpr u16 parse_flags(std::string_view letters) {
    u32 flags = 0;
    for (const char c : letters) {
        switch (c) {
        case 'o': flags |= flag::of; break;
        case 's': flags |= flag::sf; break;
        case 'z': flags |= flag::zf; break;
        case 'a': flags |= flag::af; break;
        case 'p': flags |= flag::pf; break;
        case 'c': flags |= flag::cf; break;
        case 'd': flags |= flag::df; break;
        default: throw "unknown flag";
        }
    }
    return u16(flags);
}

constexpr void require(Entry &entry, u16 mask, u16 value) {
    if ((entry.key_mask & mask) != 0 && (entry.key_value & mask) != (value & entry.key_mask & mask))
        throw "a row that contradicts itself";
    entry.key_mask = u16(entry.key_mask | mask);
    entry.key_value = u16(entry.key_value | value);
}

constexpr void parse_rest(Entry &entry, std::string_view text) {
    Tokens tokens{text};
    for (std::string_view t = tokens.next(); !t.empty(); t = tokens.next()) {
        const auto on = [&](u16 bit) { entry.attributes = u16(entry.attributes | bit); };
        if (t == "<cc") {
            on(attribute::reads_condition);
        } else if (t[0] == '<') {
            entry.flags_read = u16(entry.flags_read | parse_flags(t.substr(1)));
        } else if (t[0] == '>' || t[0] == '?') {
            const u16 flags = parse_flags(t.substr(1));
            entry.flags_written = u16(entry.flags_written | flags);
            if (t[0] == '?')
                entry.flags_undefined = u16(entry.flags_undefined | flags);
        } else if (t == "lock") {
            on(attribute::lock);
        } else if (t == "mem") {
            require(entry, key::register_form, 0);
        } else if (t == "reg") {
            require(entry, key::register_form, key::register_form);
        } else if (t == "i64") {
            require(entry, key::mode_64, 0);
        } else if (t == "o64") {
            require(entry, key::mode_64, key::mode_64);
        } else if (t == "W0") {
            require(entry, key::rex_w, 0);
        } else if (t == "W1") {
            require(entry, key::rex_w, key::rex_w);
        } else if (t == "o16") {
            require(entry, key::size_16, key::size_16);
        } else if (t == "rexb0") {
            require(entry, key::rex_b, 0);
        } else if (t == "d64") {
            on(attribute::default_64);
        } else if (t == "f64") {
            on(attribute::forced_64);
        } else if (t == "byte") {
            on(attribute::byte);
        } else if (t == "io") {
            on(attribute::io);
        } else if (t == "modreg") {
            on(attribute::ignore_mod);
        } else if (t == "level") {
            on(attribute::second_immediate);
        } else if (t == "count") {
            on(attribute::keeps_flags_by_count);
        } else if (t == "rep") {
            on(attribute::keeps_flags_if_repeated);
        } else {
            bool found = false;
            for (const NamedFeature &named : feature_names) {
                if (named.name == t) {
                    entry.feature = u8(named.feature);
                    found = true;
                }
            }
            if (!found)
                throw "unknown word in a row's last column";
        }
    }
}

struct NamedOperand {
    std::string_view name;
    Place place;
    char type;
};
constexpr NamedOperand named_operands[] = {
    {"AL", Place::accumulator, 'b'},  {"AX", Place::accumulator, 'w'},
    {"rAX", Place::accumulator, 'v'}, {"zAX", Place::accumulator, 'z'},
    {"CL", Place::count_cl, 'b'},     {"1", Place::count_one, 'b'},
    {"DX", Place::port_dx, 'w'},      {"ES", Place::named_segment, es},
    {"CS", Place::named_segment, cs}, {"SS", Place::named_segment, ss},
    {"DS", Place::named_segment, ds}, {"FS", Place::named_segment, fs},
    {"GS", Place::named_segment, gs}, {"ST0", Place::st0, 't'},
    {"STi", Place::rm_st, 't'},
};

constexpr Place place_of(char letter) {
    switch (letter) {
    case 'E': return Place::rm_gpr;
    case 'M': return Place::rm_memory;
    case 'R': return Place::rm_register;
    case 'G': return Place::reg_gpr;
    case 'Z': return Place::opcode_gpr;
    case 'V': return Place::reg_xmm;
    case 'W':
    case 'U': return Place::rm_xmm;
    case 'P': return Place::reg_mmx;
    case 'Q':
    case 'N': return Place::rm_mmx;
    case 'S': return Place::reg_segment;
    case 'C': return Place::reg_control;
    case 'D': return Place::reg_debug;
    case 'I': return Place::immediate;
    case 'J': return Place::relative;
    case 'A': return Place::far_pointer;
    case 'O': return Place::offset;
    default: throw "unknown place of an operand";
    }
}

constexpr void parse_operand(Entry &entry, std::string_view t) {
    if (entry.operand_count == 4)
        throw "too many operands";
    CompiledOperand &operand = entry.operand[entry.operand_count++];
    operand.access = access::read;
    if (t.back() == '=' || t.back() == '+' || t.back() == '.') {
        operand.access = t.back() == '='   ? access::write
                         : t.back() == '+' ? access::read_write
                                           : u8{0};
        t.remove_suffix(1);
    }
    for (const NamedOperand &named : named_operands) {
        if (named.name == t) {
            operand.place = named.place;
            operand.type = operand.memory_type = named.type;
            return;
        }
    }
    operand.place = place_of(t[0]);
    if (t[0] == 'M')
        require(entry, key::register_form, 0);
    if (t[0] == 'R' && (entry.attributes & attribute::ignore_mod) == 0)
        require(entry, key::register_form, key::register_form);
    if (t[0] == 'U' || t[0] == 'N')
        require(entry, key::register_form, key::register_form);
    t.remove_prefix(1);
    if (t == "bs") {
        operand.sign_extended = true;
        t = "b";
    }
    if (t.size() > 2)
        throw "bad type of an operand";
    if (t.empty() && operand.place != Place::rm_memory)
        throw "an operand without a type";
    operand.type = t.empty() ? '0' : t[0];
    operand.memory_type = t.empty() ? '0' : t.back();
    constexpr std::string_view types = "bwdqtxuvzyrcpasen0";
    if (types.find(operand.type) == types.npos || types.find(operand.memory_type) == types.npos)
        throw "unknown type of an operand";
}

// One row, and which of the 4 * 256 opcodes it belongs to.
struct ParsedForm {
    Entry entry;
    unsigned opcode = 0;
    unsigned repeat = 1;
};

constexpr ParsedForm parse(const Form &form) {
    ParsedForm result;
    Entry &entry = result.entry;
    entry.op = form.op;
    parse_rest(entry, form.rest);
    Tokens tokens{form.encoding};
    std::string_view t = tokens.next();
    if (t == "NP" || t == "NFx" || t == "66" || t == "F3" || t == "F2") {
        entry.prefixes = t == "NP"    ? prefix_none
                         : t == "NFx" ? u8(prefix_none | prefix_66)
                         : t == "66"  ? prefix_66
                         : t == "F3"  ? prefix_f3
                                      : prefix_f2;
        t = tokens.next();
    }
    unsigned map = 0;
    if (t == "0F") {
        map = 1;
        t = tokens.next();
        if (t == "38" || t == "3A") {
            map = t == "38" ? 2 : 3;
            t = tokens.next();
        }
    }
    result.opcode = map * 256 + hex_byte(t);
    t.remove_prefix(2);
    if (t == "+r")
        result.repeat = 8;
    else if (t == "+cc")
        result.repeat = 16;
    else if (!t.empty())
        throw "unknown ending of an opcode";
    t = tokens.next();
    if (!t.empty()) {
        entry.attributes = u16(entry.attributes | attribute::modrm);
        if (t[0] != '/') {
            const u8 modrm = hex_byte(t);
            if (modrm < 0xc0)
                throw "only register forms have a whole ModRM byte";
            require(entry, key::register_form, key::register_form);
            require(entry, 7 << key::reg, u16((modrm >> 3 & 7) << key::reg));
            require(entry, 7 << key::rm, u16((modrm & 7) << key::rm));
        } else if (t != "/r") {
            require(entry, 7 << key::reg, u16(hex_digit(t[1]) << key::reg));
        }
        if (!tokens.next().empty())
            throw "something follows ModRM";
    }
    Tokens operands{form.operands};
    for (t = operands.next(); !t.empty(); t = operands.next())
        parse_operand(entry, t);
    const bool has_v = std::string_view(form.operands).find('v') != std::string_view::npos; // CRC32
    if ((form.op == Op::sse && !has_v) || form.op == Op::mmx || form.op == Op::maskmov)
        entry.attributes = u16(entry.attributes | attribute::vector);
    else if (entry.operand_count > 0) {
        for (const CompiledOperand &operand : entry.operand) {
            if (operand.place == Place::none || operand.place == Place::immediate ||
                operand.place == Place::relative || operand.place == Place::port_dx)
                continue;
            if (operand.type == 'b')
                entry.attributes = u16(entry.attributes | attribute::byte);
            break; // the destination decides
        }
    }
    return result;
}

constexpr usize entry_count = [] {
    usize count = 0;
    for (const Form &form : forms)
        count += parse(form).repeat;
    return count;
}();

struct Table {
    std::array<Entry, entry_count> entry; // by opcode, then in the order of the rows
    std::array<u16, 4 * 256 + 1> first{}; // first entry of each opcode
    std::array<bool, 4 * 256> has_modrm{};
};

consteval Table compile() {
    Table table;
    std::array<u16, 4 * 256 + 1> fill{};
    for (const Form &form : forms) {
        const ParsedForm parsed = parse(form);
        for (unsigned i = 0; i < parsed.repeat; ++i)
            ++table.first[parsed.opcode + i + 1];
    }
    for (usize i = 1; i < table.first.size(); ++i)
        table.first[i] = u16(table.first[i] + table.first[i - 1]);
    fill = table.first;
    for (const Form &form : forms) {
        const ParsedForm parsed = parse(form);
        const bool modrm = (parsed.entry.attributes & attribute::modrm) != 0;
        for (unsigned i = 0; i < parsed.repeat; ++i) {
            const unsigned opcode = parsed.opcode + i;
            if (fill[opcode] != table.first[opcode] && table.has_modrm[opcode] != modrm)
                throw "some forms of an opcode have ModRM and some do not";
            table.has_modrm[opcode] = modrm;
            table.entry[fill[opcode]++] = parsed.entry;
        }
    }
    return table;
}

constexpr Table table = compile();

// --- decoding

class Reader {
public:
    explicit Reader(std::span<const u8> code)
        : bytes_(code.data()), limit_(std::min<usize>(code.size(), 15)) {}
    bool byte(u8 &value) {
        if (position_ >= limit_)
            return false;
        value = bytes_[position_++];
        return true;
    }
    bool take(unsigned size, u64 &value) {
        if (position_ + size > limit_) {
            position_ = limit_;
            return false;
        }
        value = 0;
        for (unsigned i = 0; i < size; ++i)
            value |= u64{bytes_[position_++]} << (8 * i);
        return true;
    }
    u8 position() const { return u8(position_); }
    DecodeStatus out_of_bytes() const {
        return limit_ == 15 ? DecodeStatus::too_long : DecodeStatus::truncated;
    }

private:
    const u8 *bytes_;
    usize limit_, position_ = 0;
};

u64 sign_extend(u64 value, unsigned size) {
    const unsigned shift = 64 - 8 * size;
    return shift == 0 ? value : u64(i64(value << shift) >> shift);
}

// The memory form of ModRM (SDM volume 2, tables 2-1 to 2-3). False: bytes are missing.
bool decode_address(Reader &reader, Insn &insn) {
    const unsigned mod = insn.modrm >> 6, rm = insn.modrm & 7;
    unsigned displacement_size = mod == 1 ? 1 : mod == 2 ? (insn.address_size == 2 ? 2 : 4) : 0;
    if (insn.address_size == 2) {
        static constexpr u8 bases[8] = {rbx, rbx, rbp, rbp, rsi, rdi, rbp, rbx};
        static constexpr u8 indices[8] = {rsi,         rdi,         rsi,         rdi,
                                          no_register, no_register, no_register, no_register};
        insn.base = bases[rm];
        insn.index = indices[rm];
        if (mod == 0 && rm == 6) {
            insn.base = no_register;
            displacement_size = 2;
        }
    } else if (rm == 4) {
        u8 sib;
        if (!reader.byte(sib))
            return false;
        const u8 index = u8((sib >> 3 & 7) | (insn.rex & 2) << 2);
        insn.scale = sib >> 6;
        insn.index = index == rsp ? no_register : index;
        insn.base = u8((sib & 7) | (insn.rex & 1) << 3);
        if ((sib & 7) == 5 && mod == 0) {
            insn.base = no_register;
            displacement_size = 4;
        }
    } else if (rm == 5 && mod == 0) {
        insn.base = no_register; // RIP in 64-bit mode: the caller sets it
        displacement_size = 4;
    } else {
        insn.base = u8(rm | (insn.rex & 1) << 3);
    }
    if (insn.index == no_register)
        insn.scale = 0;
    u64 displacement = 0;
    if (displacement_size != 0) {
        if (!reader.take(displacement_size, displacement))
            return false;
        insn.displacement = i32(sign_extend(displacement, displacement_size));
    }
    return true;
}

struct Size {
    u8 bytes;
    bool aligned;
};

Size size_of(char type, const Insn &insn, bool mode_64) {
    switch (type) {
    case 'b': return {1, false};
    case 'w': return {2, false};
    case 'd': return {4, false};
    case 'q': return {8, false};
    case 't': return {10, false};
    case 'x': return {16, true};
    case 'u': return {16, false};
    case 'v': return {insn.operand_size, false};
    case 'z': return {u8(insn.operand_size == 2 ? 2 : 4), false};
    case 'y': return {u8((insn.rex & 8) != 0 ? 8 : 4), false};
    case 'r': return {u8(mode_64 ? 8 : 4), false};
    case 'c': return {u8((insn.rex & 8) != 0 ? 16 : 8), (insn.rex & 8) != 0};
    case 'p': return {u8(insn.operand_size + 2), false};
    case 'a': return {u8(2 * insn.operand_size), false};
    case 's': return {u8(mode_64 ? 10 : 6), false};
    case 'e': return {u8(insn.operand_size == 2 ? 14 : 28), false};
    case 'n': return {u8(insn.operand_size == 2 ? 94 : 108), false};
    default: return {0, false};
    }
}

u32 condition_flags(unsigned condition) {
    static constexpr u32 read[8] = {flag::of,
                                    flag::cf,
                                    flag::zf,
                                    flag::cf | flag::zf,
                                    flag::sf,
                                    flag::pf,
                                    flag::sf | flag::of,
                                    flag::zf | flag::sf | flag::of};
    return read[condition >> 1];
}

class Decoder {
public:
    Decoder(std::span<const u8> code, CodeSize size, Insn &insn)
        : reader_(code), insn_(insn), size_(size), mode_64_(size == CodeSize::bits64) {}

    DecodeStatus run() {
        insn_ = Insn{};
        insn_.base = insn_.index = no_register;
        insn_.segment = ds;
        const DecodeStatus status = decode();
        insn_.length = reader_.position();
        return status;
    }

private:
    bool fetch_opcode() {
        u8 byte;
        for (;;) {
            if (!reader_.byte(byte))
                return false;
            switch (byte) {
            case 0x26: override_segment(es); continue;
            case 0x2e: override_segment(cs); continue;
            case 0x36: override_segment(ss); continue;
            case 0x3e: override_segment(ds); continue;
            case 0x64: override_segment(fs); continue;
            case 0x65: override_segment(gs); continue;
            case 0x66: insn_.prefix_66 = true; break;
            case 0x67: insn_.prefix_67 = true; break;
            case 0xf0: insn_.lock = true; break;
            case 0xf2:
            case 0xf3: insn_.prefix_rep = byte; break;
            default:
                if (mode_64_ && byte >> 4 == 4) {
                    insn_.rex = byte;
                    continue;
                }
                insn_.opcode = byte;
                return byte != 0x0f || fetch_escaped_opcode();
            }
            insn_.rex = 0; // counts only directly before the opcode
        }
    }
    bool fetch_escaped_opcode() {
        insn_.map = 1;
        if (!reader_.byte(insn_.opcode))
            return false;
        if (insn_.opcode == 0x38 || insn_.opcode == 0x3a) {
            insn_.map = insn_.opcode == 0x38 ? 2 : 3;
            return reader_.byte(insn_.opcode);
        }
        return true;
    }
    void override_segment(u8 segment) {
        insn_.rex = 0;
        if (mode_64_ && segment < fs)
            return; // no effect, and does not cancel an earlier FS or GS
        insn_.segment_override = true;
        insn_.segment = segment;
    }

    void set_sizes() {
        if (mode_64_) {
            insn_.operand_size = (insn_.rex & 8) != 0 ? 8 : insn_.prefix_66 ? 2 : 4;
            insn_.address_size = insn_.prefix_67 ? 4 : 8;
        } else {
            const bool code16 = size_ == CodeSize::bits16;
            insn_.operand_size = code16 != insn_.prefix_66 ? 2 : 4;
            insn_.address_size = code16 != insn_.prefix_67 ? 2 : 4;
        }
    }

    const Entry *find_entry(unsigned opcode) const {
        const unsigned prefix_class = insn_.prefix_rep == 0xf3   ? prefix_f3
                                      : insn_.prefix_rep == 0xf2 ? prefix_f2
                                      : insn_.prefix_66          ? prefix_66
                                                                 : prefix_none;
        u32 have = u32{insn_.modrm & 7u} << key::rm | u32{insn_.modrm >> 3 & 7u} << key::reg;
        have |= insn_.modrm >= 0xc0 ? key::register_form : 0u;
        have |= mode_64_ ? key::mode_64 : 0u;
        have |= (insn_.rex & 8) != 0 ? key::rex_w : 0u;
        have |= (insn_.rex & 1) != 0 ? key::rex_b : 0u;
        have |= insn_.operand_size == 2 ? key::size_16 : 0u;
        for (unsigned i = table.first[opcode]; i < table.first[opcode + 1]; ++i) {
            const Entry &entry = table.entry[i];
            if ((have & entry.key_mask) == entry.key_value && (prefix_class & entry.prefixes) != 0)
                return &entry;
        }
        return nullptr;
    }

    void apply_size_rules(const Entry &entry) {
        const u16 a = entry.attributes;
        if (a & attribute::vector)
            insn_.operand_size = (insn_.rex & 8) != 0                          ? 8
                                 : insn_.prefix_66 && insn_.prefix_rep == 0xf2 ? 2
                                                                               : 4;
        else if (a & attribute::byte)
            insn_.operand_size = 1;
        else if ((a & attribute::forced_64) && mode_64_)
            insn_.operand_size = 8;
        else if ((a & attribute::default_64) && mode_64_)
            insn_.operand_size = insn_.operand_size == 4 ? 8 : insn_.operand_size;
        else if ((a & attribute::io) && insn_.operand_size == 8)
            insn_.operand_size = 4;
        else if (a & attribute::ignore_mod)
            insn_.operand_size = mode_64_ ? 8 : 4;
    }

    DecodeStatus decode() {
        if (!fetch_opcode())
            return reader_.out_of_bytes();
        const unsigned opcode = insn_.map * 256u + insn_.opcode;
        if (table.first[opcode] == table.first[opcode + 1])
            return DecodeStatus::invalid;
        insn_.has_modrm = table.has_modrm[opcode];
        if (insn_.has_modrm && !reader_.byte(insn_.modrm))
            return reader_.out_of_bytes();
        set_sizes();
        const Entry *entry = find_entry(opcode);
        if (entry == nullptr)
            return DecodeStatus::invalid;
        insn_.op = entry->op;
        insn_.cpuid_feature = entry->feature;
        if (opcode == 0x82) // the alias of 80 that 64-bit mode does not have: as hosts can run it
            insn_.opcode = 0x80;
        apply_size_rules(*entry);
        const bool memory = insn_.has_modrm && insn_.modrm < 0xc0 &&
                            (entry->attributes & attribute::ignore_mod) == 0;
        if (memory) {
            if (!decode_address(reader_, insn_))
                return reader_.out_of_bytes();
            if (mode_64_ && (insn_.modrm & 0xc7) == 5)
                insn_.base = rip_register;
            if (!insn_.segment_override && (insn_.base == rsp || insn_.base == rbp))
                insn_.segment = ss;
        }
        if (insn_.lock && !((entry->attributes & attribute::lock) != 0 && memory))
            return DecodeStatus::invalid;
        for (unsigned i = 0; i < entry->operand_count; ++i) {
            if (const DecodeStatus status = operand(entry->operand[i], insn_.operand[i]);
                status != DecodeStatus::ok)
                return status;
        }
        insn_.operand_count = entry->operand_count;
        if (entry->attributes & attribute::second_immediate) {
            u64 value;
            if (!reader_.take(1, value))
                return reader_.out_of_bytes();
            insn_.selector = u16(value);
        }
        set_flags(*entry);
        return DecodeStatus::ok;
    }

    void gpr(Operand &out, unsigned index) {
        out.kind = OperandKind::gpr;
        out.index = u8(index);
        if (out.size == 1 && insn_.rex == 0 && index >= 4) {
            out.index = u8(index - 4);
            out.high = 1;
        }
    }
    unsigned rm_index() const { return (insn_.modrm & 7u) | (insn_.rex & 1u) << 3; }
    unsigned reg_index() const { return (insn_.modrm >> 3 & 7u) | (insn_.rex & 4u) << 1; }

    // A memory operand, or false if ModRM has a register.
    bool memory_operand(const CompiledOperand &form, Operand &out) {
        if (insn_.modrm >= 0xc0)
            return false;
        out.kind = OperandKind::memory;
        const Size size = size_of(form.memory_type, insn_, mode_64_);
        out.size = size.bytes;
        out.aligned = size.aligned;
        return true;
    }
    DecodeStatus immediate(OperandKind kind, bool sign_extended, Operand &out) {
        out.kind = kind;
        if (!reader_.take(out.size, insn_.immediate))
            return reader_.out_of_bytes();
        // Zero-extended: bytes and words that count as they are (ports, shift counts, RET, masks).
        if (kind == OperandKind::relative || sign_extended)
            insn_.immediate = sign_extend(insn_.immediate, out.size);
        return DecodeStatus::ok;
    }

    DecodeStatus operand(const CompiledOperand &form, Operand &out) {
        out.access = u8(form.access & 3);
        out.field = field_of(form.place);
        out.size = size_of(form.type, insn_, mode_64_).bytes;
        const auto plain = [&](OperandKind kind, unsigned index) {
            out.kind = kind;
            out.index = u8(index);
        };
        switch (form.place) {
        case Place::none: break;
        case Place::rm_gpr:
            if (!memory_operand(form, out))
                gpr(out, rm_index());
            break;
        case Place::rm_memory: memory_operand(form, out); break;
        case Place::rm_register: gpr(out, rm_index()); break;
        case Place::reg_gpr: gpr(out, reg_index()); break;
        case Place::opcode_gpr: gpr(out, (insn_.opcode & 7u) | (insn_.rex & 1u) << 3); break;
        case Place::reg_xmm: plain(OperandKind::xmm, reg_index()); break;
        case Place::rm_xmm:
            if (!memory_operand(form, out))
                plain(OperandKind::xmm, rm_index());
            break;
        case Place::reg_mmx: plain(OperandKind::mmx, insn_.modrm >> 3 & 7u); break;
        case Place::rm_mmx:
            if (!memory_operand(form, out))
                plain(OperandKind::mmx, insn_.modrm & 7u);
            break;
        case Place::reg_segment:
            plain(OperandKind::segment, insn_.modrm >> 3 & 7u);
            if (out.index >= segment_count || (out.index == cs && form.access != access::read))
                return DecodeStatus::invalid;
            break;
        case Place::reg_control:
            plain(OperandKind::control, reg_index());
            if (out.index > 8 || (1u << out.index & 0b1'0001'1101u) == 0)
                return DecodeStatus::invalid;
            break;
        case Place::reg_debug:
            plain(OperandKind::debug, reg_index());
            if (out.index > 7)
                return DecodeStatus::invalid;
            break;
        case Place::immediate:
            return immediate(OperandKind::immediate, form.sign_extended || form.type == 'z', out);
        case Place::relative: return immediate(OperandKind::relative, true, out);
        case Place::far_pointer: {
            out.kind = OperandKind::far_pointer;
            u64 selector;
            if (!reader_.take(insn_.operand_size, insn_.immediate) || !reader_.take(2, selector))
                return reader_.out_of_bytes();
            insn_.selector = u16(selector);
            break;
        }
        case Place::offset:
            out.kind = OperandKind::memory;
            insn_.base = moffs_register;
            if (!reader_.take(insn_.address_size, insn_.immediate))
                return reader_.out_of_bytes();
            break;
        case Place::accumulator: gpr(out, rax); break;
        case Place::count_cl: gpr(out, rcx); break;
        case Place::port_dx: gpr(out, rdx); break;
        case Place::count_one:
            out.kind = OperandKind::immediate;
            insn_.immediate = 1;
            break;
        case Place::named_segment:
            plain(OperandKind::segment, unsigned(form.type));
            out.size = 2;
            break;
        case Place::st0: plain(OperandKind::st, 0); break;
        case Place::rm_st: plain(OperandKind::st, insn_.modrm & 7u); break;
        }
        return DecodeStatus::ok;
    }

    void set_flags(const Entry &entry) {
        insn_.flags_read = entry.flags_read;
        insn_.flags_written = entry.flags_written;
        insn_.flags_undefined = entry.flags_undefined;
        if (entry.attributes & attribute::reads_condition) {
            insn_.condition = insn_.opcode & 15;
            insn_.flags_read |= condition_flags(insn_.condition);
        }
        bool may_keep =
            (entry.attributes & attribute::keeps_flags_if_repeated) != 0 && insn_.prefix_rep != 0;
        if (entry.attributes & attribute::keeps_flags_by_count) {
            const Operand &count = insn_.operand[insn_.operand_count - 1];
            const u64 mask = insn_.operand_size == 8 ? 63 : 31;
            may_keep = count.kind != OperandKind::immediate || (insn_.immediate & mask) == 0;
            if (count.kind != OperandKind::immediate || (insn_.immediate & mask) != 1)
                insn_.flags_undefined |= flag::of;
        }
        if (may_keep) // what may stay as it was is an input
            insn_.flags_read |= insn_.flags_written;
    }

    Reader reader_;
    Insn &insn_;
    CodeSize size_;
    bool mode_64_;
};

} // namespace

bool without_feature(Insn &insn) noexcept {
    if (insn.op != Op::tzcnt && insn.op != Op::lzcnt)
        return false;
    insn.op = insn.op == Op::tzcnt ? Op::bsf : Op::bsr;
    insn.cpuid_feature = u16(Feature::none);
    insn.operand[0].access = access::read_write; // the destination is kept if the source is zero
    insn.flags_undefined = insn.flags_written & ~flag::zf;
    return true;
}

DecodeStatus decode(std::span<const u8> code, CodeSize size, Insn &insn) noexcept {
    return Decoder(code, size, insn).run();
}

} // namespace rhea::dbt::x86
