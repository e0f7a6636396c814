// Registers as a table: each row says where a register is, what it stores, what the guest may
// change, and what happens.
//
//     class Uart final : public StateDevice<UartState> {
//     public:
//         Uart(std::string device_name, Wiring wiring);  // : ..., registers_(*this, s,
//         name().c_str())
//     private:
//         struct Model;
//         RegisterFile<Uart, UartState, Model> registers_;
//     };
//     struct Uart::Model {
//         using R = Register<Uart, UartState>;
//         static constexpr R registers[] = {
//             {.at = 0, .name = "DLL", .when = &Uart::dlab, .bits = slot<&UartState::dll>, .rw =
//             0xff},
//             {.at = 0, .name = "RBR", .read = &Uart::read_data, .write = &Uart::write_data},
//             {.at = 3, .name = "LCR", .bits = slot<&UartState::lcr>, .rw = 0xff},
//         };
//         static_assert(well_formed(registers));
//     };
//
// Rows are in order of `at`. Where rows overlap, the first whose guard `when` holds (or that has
// none) is the one that answers: that is how banks are said. The reset value is the initialiser of
// the state's member.
//
// An access may be of any size at any offset: it is taken apart into registers; one that covers a
// part of a register with storage changes that part; behaviour hooks then see the merged value.
// Offsets without a register read as Model::absent (0xff unless said) and ignore writes, with a
// guest_error.
#pragma once
#include "dm/core/bits.h"
#include "dm/core/describe.h"
#include "dm/core/trace.h"
#include "dm/core/types.h"
#include "dm/device/device.h"
#include <algorithm>
#include <array>
#include <string_view>

namespace rhea {

// Storage of a register: a member of the state, or one element of a std::array member.
template <class S> struct Slot {
    u64 (*get)(const S &) noexcept = nullptr;
    void (*set)(S &, u64) noexcept = nullptr;
    u8 width = 0; // bytes; 0: no storage (compile-time code asks this: under the sanitizers the
                  // address of a function is no constant to compare with null)
};

namespace detail {
inline constexpr std::size_t whole = ~std::size_t{0};

template <auto M, std::size_t I, class S> constexpr auto &slot_member(S &s) noexcept {
    if constexpr (I == whole)
        return s.*M;
    else
        return std::get<I>(s.*M);
}
template <auto M, std::size_t I> consteval auto make_slot() {
    using S = decltype(owner_of(M));
    using T = std::remove_cvref_t<decltype(slot_member<M, I>(std::declval<S &>()))>;
    return Slot<S>{[](const S &s) noexcept { return static_cast<u64>(slot_member<M, I>(s)); },
                   [](S &s, u64 v) noexcept { slot_member<M, I>(s) = static_cast<T>(v); },
                   static_cast<u8>(sizeof(T))};
}
} // namespace detail

template <auto M, std::size_t I = detail::whole>
inline constexpr auto slot = detail::make_slot<M, I>();

// While it holds, the row answers. It knows by itself whether it is there, for the same reason.
template <class D> struct Guard {
    bool (D::*holds)() const noexcept = nullptr;
    bool there = false;
    constexpr Guard() = default;
    constexpr Guard(bool (D::*member)() const noexcept) noexcept : holds(member), there(true) {}
};

template <class D, class S> struct Register {
    u32 at = 0; // offset in the window
    std::string_view name;
    u8 width = 1;                             // bytes: 1, 2, 4 or 8
    Guard<D> when{};                          // this row answers only while this holds
    Slot<S> bits{};                           // storage
    u64 rw = 0, w1c = 0;                      // of which the guest writes, or clears by writing 1
    u64 constant = 0;                         // what reads give without storage and hook
    u64 (D::*read)() noexcept = nullptr;      // what reads give, instead of the storage
    void (D::*write)(u64) noexcept = nullptr; // the value written, after the storage has changed
    void (D::*wrote)() noexcept = nullptr;    // something was written; after `write`
};

template <class R, std::size_t N> consteval bool well_formed(const R (&r)[N]) {
    for (std::size_t i = 0; i < N; ++i) {
        if (r[i].name.empty() || !is_power_of_two(r[i].width) || r[i].width > 8)
            return false;
        if (r[i].rw & r[i].w1c || (r[i].rw | r[i].w1c | r[i].constant) & ~size_mask(r[i].width))
            return false;
        if ((r[i].rw | r[i].w1c) && !r[i].bits.width)
            return false; // writable bits want storage
        if (r[i].bits.width && (r[i].constant || r[i].bits.width > 8))
            return false;
        if (i && r[i].at < r[i - 1].at)
            return false;
        for (std::size_t j = 0; j < i; ++j) // an earlier row without a guard hides this one
            if (!r[j].when.there && r[i].at < r[j].at + r[j].width)
                return false;
    }
    return true;
}

extern TracePoint trace_register_read;
extern TracePoint trace_register_write;

namespace detail {
// The first row that covers each offset, plus one; 0: none does.
template <class Model> consteval u32 register_span() {
    u32 end = 0;
    for (const auto &r : Model::registers)
        end = std::max(end, r.at + r.width);
    return end;
}
template <class Model> consteval auto register_index() {
    constexpr u32 span = register_span<Model>();
    static_assert(span <= 0x10000, "a table of single registers, not of memory");
    std::array<u16, span> index{};
    u16 row = 0;
    for (const auto &r : Model::registers) {
        ++row;
        for (u32 at = r.at; at < r.at + r.width; ++at)
            if (!index[at])
                index[at] = row;
    }
    return index;
}
template <class Model> consteval u8 absent_byte() {
    if constexpr (requires { Model::absent; })
        return Model::absent;
    else
        return 0xff;
}
} // namespace detail

// One register file of device D with state S, from the table in Model: a member of the device.
//
// Model may be a nested struct of D that is only declared in the header; it is defined in D's .cc,
// where D's constructor is too. As a nested struct it may name D's private hooks.
template <class D, class S, class Model> class RegisterFile final : public Target {
public:
    static constexpr Traits any_access{.max_size = 8, .unaligned = true};

    RegisterFile(D &device, S &state, const char *name, Traits traits = any_access) noexcept
        : Target(device, name, traits), device_(device), s_(state) {}

    u64 read(u64 at, unsigned size) noexcept override {
        u64 value = 0;
        for (unsigned i = 0; i < size;) {
            const Row *r = find(at + i);
            if (!r) {
                value |= u64{detail::absent_byte<Model>()} << 8 * i++;
                continue;
            }
            const unsigned skip = static_cast<unsigned>(at + i - r->at);
            const unsigned n = std::min(size - i, r->width - skip);
            const u64 whole = get(*r);
            if (trace_register_read.on()) [[unlikely]]
                trace_register_read.print("%s %.*s -> 0x%lx", name(),
                                          static_cast<int>(r->name.size()), r->name.data(), whole);
            value |= (whole >> 8 * skip & size_mask(n)) << 8 * i;
            i += n;
        }
        return value;
    }

    void write(u64 at, unsigned size, u64 value) noexcept override {
        for (unsigned i = 0; i < size;) {
            const Row *r = find(at + i);
            if (!r) {
                guest_error("%s: write of 0x%02lx at 0x%lx: no register", name(),
                            value >> 8 * i & 0xff, at + i);
                ++i;
                continue;
            }
            const unsigned skip = static_cast<unsigned>(at + i - r->at);
            const unsigned n = std::min(size - i, r->width - skip);
            put(*r, (value >> 8 * i & size_mask(n)) << 8 * skip, size_mask(n) << 8 * skip);
            i += n;
        }
    }

private:
    using Row = Register<D, S>;

    const Row *find(u64 at) const noexcept {
        static constexpr auto index = detail::register_index<Model>();
        if (at >= index.size() || !index[at])
            return nullptr;
        constexpr std::size_t rows = std::size(Model::registers);
        for (std::size_t i = index[at] - 1u; i < rows && Model::registers[i].at <= at; ++i) {
            const Row &r = Model::registers[i];
            if (at - r.at < r.width && (!r.when.there || (device_.*r.when.holds)()))
                return &r;
        }
        return nullptr;
    }

    u64 get(const Row &r) noexcept {
        if (r.read)
            return (device_.*r.read)();
        return r.bits.get ? r.bits.get(s_) : r.constant;
    }

    // `value` at its place in the register, `written` the bits of the bytes that the access covers.
    void put(const Row &r, u64 value, u64 written) noexcept {
        if (trace_register_write.on()) [[unlikely]]
            trace_register_write.print("%s %.*s <- 0x%lx", name(), static_cast<int>(r.name.size()),
                                       r.name.data(), value);
        if (r.bits.get) {
            const u64 before = r.bits.get(s_);
            const u64 rw = r.rw & written;
            r.bits.set(s_, ((before & ~rw) | (value & rw)) & ~(value & r.w1c & written));
            value |= before & ~r.w1c & ~written;
        }
        if (r.write)
            (device_.*r.write)(value & size_mask(r.width));
        if (r.wrote)
            (device_.*r.wrote)();
    }

    D &device_;
    S &s_;
};

} // namespace rhea
