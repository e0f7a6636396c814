#include "accel/dbt/host/x86_64/thunk.h"

#include <cstddef>
#include <cstring>
#include <initializer_list>

#include <sys/mman.h>
#include <unistd.h>

namespace rhea::dbt::host {
namespace {

// Stores bytes. RDI is the frame; every form takes a 32-bit displacement from it.
class Writer {
public:
    explicit Writer(u8 *at) : start_(at), at_(at) {}
    void bytes(std::initializer_list<u8> list) {
        for (const u8 byte : list)
            *at_++ = byte;
    }
    void at_frame(std::initializer_list<u8> opcode, unsigned reg, usize offset) {
        bytes(opcode);
        *at_++ = u8(0x87 | reg << 3);
        const u32 displacement = u32(offset);
        std::memcpy(at_, &displacement, 4);
        at_ += 4;
    }
    void load(unsigned gpr, usize offset) { at_frame({0x48, 0x8b}, gpr, offset); }
    void store(unsigned gpr, usize offset) { at_frame({0x48, 0x89}, gpr, offset); }
    void load_flags(usize offset) {
        at_frame({0xff}, 6, offset); // push
        bytes({0x9d});               // popfq
    }
    void store_flags(usize offset) {
        bytes({0x9c});               // pushfq
        at_frame({0x8f}, 0, offset); // pop
    }
    void insn(const NativeInsn &insn) {
        std::memcpy(at_, insn.bytes.data(), insn.length);
        at_ += insn.length;
    }
    u32 size() const { return u32(at_ - start_); }

private:
    u8 *start_, *at_;
};

enum : unsigned { reg_rax = 0, reg_rcx = 1, reg_rdx = 2, reg_rsi = 6 };

u32 emit_vector(u8 *at, const NativeInsn &insn, bool flags) {
    using F = VectorFrame;
    Writer w(at);
    w.at_frame({0x0f, 0xae}, 3, offsetof(F, host_mxcsr)); // stmxcsr
    w.at_frame({0x0f, 0xae}, 2, offsetof(F, mxcsr));      // ldmxcsr
    for (unsigned i = 0; i < 3; ++i)
        w.at_frame({0x0f, 0x28}, i, offsetof(F, xmm) + 16 * i);
    w.load(reg_rax, offsetof(F, rax));
    w.load(reg_rcx, offsetof(F, rcx));
    w.load(reg_rdx, offsetof(F, rdx));
    w.load(reg_rsi, offsetof(F, memory));
    if (flags)
        w.load_flags(offsetof(F, flags));
    w.insn(insn);
    if (flags)
        w.store_flags(offsetof(F, flags));
    w.at_frame({0x0f, 0xae}, 3, offsetof(F, mxcsr));
    w.at_frame({0x0f, 0xae}, 2, offsetof(F, host_mxcsr));
    for (unsigned i = 0; i < 3; ++i)
        w.at_frame({0x0f, 0x29}, i, offsetof(F, xmm) + 16 * i);
    w.store(reg_rax, offsetof(F, rax));
    w.store(reg_rcx, offsetof(F, rcx));
    w.bytes({0xc3});
    return w.size();
}

u32 emit_x87(u8 *at, const NativeInsn &insn, bool flags) {
    using F = X87Frame;
    Writer w(at);
    w.at_frame({0xd9}, 7, offsetof(F, host_control));      // fnstcw
    w.at_frame({0x0f, 0xae}, 3, offsetof(F, host_mxcsr));  // stmxcsr
    w.at_frame({0x48, 0x0f, 0xae}, 1, offsetof(F, image)); // fxrstor64
    w.load(reg_rax, offsetof(F, rax));
    w.load(reg_rcx, offsetof(F, rcx));
    w.load(reg_rsi, offsetof(F, memory));
    if (flags)
        w.load_flags(offsetof(F, flags));
    w.insn(insn);
    if (flags)
        w.store_flags(offsetof(F, flags));
    w.at_frame({0x48, 0x0f, 0xae}, 0, offsetof(F, image)); // fxsave64
    w.bytes({0xdb, 0xe3});                                 // fninit
    w.at_frame({0xd9}, 5, offsetof(F, host_control));      // fldcw
    w.at_frame({0x0f, 0xae}, 2, offsetof(F, host_mxcsr));  // ldmxcsr
    w.store(reg_rax, offsetof(F, rax));
    w.store(reg_rcx, offsetof(F, rcx));
    w.bytes({0xc3});
    return w.size();
}

} // namespace

ThunkCache::ThunkCache() noexcept {
    const int file = memfd_create("rhea-thunks", MFD_CLOEXEC);
    if (file < 0)
        return;
    if (ftruncate(file, code_size) == 0) {
        void *code = mmap(nullptr, code_size, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
        void *data = mmap(nullptr, code_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        void *slots = mmap(nullptr, slot_count * sizeof(Slot), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (code != MAP_FAILED && data != MAP_FAILED && slots != MAP_FAILED) {
            executable_ = static_cast<u8 *>(code);
            writable_ = static_cast<u8 *>(data);
            slots_ = static_cast<Slot *>(slots); // zero pages are empty slots
        } else {
            if (code != MAP_FAILED)
                munmap(code, code_size);
            if (data != MAP_FAILED)
                munmap(data, code_size);
            if (slots != MAP_FAILED)
                munmap(slots, slot_count * sizeof(Slot));
        }
    }
    close(file);
}

ThunkCache::~ThunkCache() {
    if (!valid())
        return;
    munmap(executable_, code_size);
    munmap(writable_, code_size);
    munmap(slots_, slot_count * sizeof(Slot));
}

void ThunkCache::run(const NativeInsn &insn, VectorFrame &frame, bool flags) noexcept {
    run(insn, flags ? Kind::vector_flags : Kind::vector, &frame);
}
void ThunkCache::run(const NativeInsn &insn, X87Frame &frame, bool flags) noexcept {
    run(insn, flags ? Kind::x87_flags : Kind::x87, &frame);
}

u32 ThunkCache::emit(u64 offset, const NativeInsn &insn, Kind kind) noexcept {
    u8 *at = writable_ + offset;
    const bool flags = (u8(kind) & 1) != 0;
    return kind == Kind::vector || kind == Kind::vector_flags ? emit_vector(at, insn, flags)
                                                              : emit_x87(at, insn, flags);
}

ThunkCache::Stub ThunkCache::stub(u64 offset) const noexcept {
    return reinterpret_cast<Stub>(executable_ + offset);
}

void ThunkCache::run(const NativeInsn &insn, Kind kind, void *frame) noexcept {
    u64 bytes;
    std::memcpy(&bytes, insn.bytes.data(), 8);
    // The instruction decides its kind, so mixing it into an eighth byte cannot make two keys
    // equal.
    const u64 key = bytes ^ u64(kind) << 56;
    usize at = usize((key * 0x9e37'79b9'7f4a'7c15) >> 40) & (slot_count - 1);
    for (;; at = (at + 1) & (slot_count - 1)) { // ends: a quarter of the slots stays free
        const u64 found = slots_[at].key.load(std::memory_order_acquire);
        if (found == key) {
            stub(slots_[at].code.load(std::memory_order_relaxed))(frame);
            return;
        }
        if (found == 0)
            break;
    }
    std::unique_lock lock(adding_);
    while (slots_[at].key.load(std::memory_order_relaxed) != 0 &&
           slots_[at].key.load(std::memory_order_relaxed) != key)
        at = (at + 1) & (slot_count - 1);
    Slot &slot = slots_[at];
    if (slot.key.load(std::memory_order_relaxed) == key) { // another thread was faster
        lock.unlock();
        stub(slot.code.load(std::memory_order_relaxed))(frame);
        return;
    }
    if (used_ + stub_size > code_size || slots_used_ >= slot_count / 4 * 3) {
        emit(0, insn, kind);
        stub(0)(frame);
        return;
    }
    const u64 offset = used_;
    used_ += (emit(offset, insn, kind) + 15) & ~u64{15};
    ++slots_used_;
    slot.code.store(u32(offset), std::memory_order_relaxed);
    slot.key.store(key, std::memory_order_release);
    lock.unlock();
    stub(offset)(frame);
}

} // namespace rhea::dbt::host
