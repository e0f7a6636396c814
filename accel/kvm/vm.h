#pragma once
// The file descriptors of /dev/kvm and of one virtual machine, and its memory slots.
//
// Slots follow the AddressMap's views. KVM cannot change a set of slots at once, and a vCPU that
// runs meanwhile would find a hole where its code was; so slots change only while no vCPU is in
// guest code: a change kicks all of them out, and who comes first to go in again waits for the
// others and brings the slots up to date. A vCPU in guest code keeps its ViewReader active, at the
// generation of the slots.
//
// enter() and leave() are called by vCPU threads, everything else by the engine's owner, but for
// the listener's side, which any thread may call.

#include "dm/mem/address_space.h"

#include <condition_variable>
#include <linux/kvm.h>
#include <mutex>
#include <string>
#include <vector>

namespace rhea::kvm {

class Descriptor {
public:
    explicit Descriptor(int fd = -1) noexcept : fd_(fd) {}
    ~Descriptor();
    Descriptor(Descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor &operator=(Descriptor &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    operator int() const noexcept { return fd_; }

private:
    int fd_;
};

// /dev/kvm with the API and the capabilities that the engine needs. Throws ConfigError.
Descriptor open_kvm();

class Kicked {
public:
    virtual void kick_out() noexcept = 0; // any thread; takes no lock but leaves

protected:
    ~Kicked() = default;
};

class Vm final : MapListener {
public:
    explicit Vm(AddressMap &map); // throws ConfigError
    ~Vm();
    Vm(const Vm &) = delete;
    Vm &operator=(const Vm &) = delete;

    int device() const noexcept { return device_; } // of /dev/kvm
    int fd() const noexcept { return fd_; }
    AddressMap &map() noexcept { return map_; }
    void add(Kicked &vcpu);
    void remove(Kicked &vcpu) noexcept;

    // Around KVM_RUN.
    void enter(ViewReader &reader) noexcept;
    void leave(ViewReader &reader) noexcept;

private:
    struct Slot {
        u32 number;
        u64 base, size;
        u8 *host;
        bool writable;
        bool operator==(const Slot &o) const noexcept {
            return base == o.base && size == o.size && host == o.host && writable == o.writable;
        }
    };
    void map_changed(const ViewPtr &before, const ViewPtr &now) noexcept override;
    void update(const ViewPtr &view) noexcept;
    bool set(const Slot &slot, u64 size) noexcept;
    u32 free_number() const noexcept;

    AddressMap &map_;
    Descriptor device_, fd_;
    u32 most_slots_ = 0;
    std::mutex vcpus_mutex_; // leaf
    std::vector<Kicked *> vcpus_;

    std::mutex mutex_; // slots and who is inside; a leaf but for the map's
    std::condition_variable changed_;
    unsigned inside_ = 0;
    ViewPtr view_; // what the slots show; keeps its regions
    std::vector<Slot> slots_;
};

} // namespace rhea::kvm
