#include "accel/kvm/vm.h"

#include "dm/core/config_error.h"
#include "dm/core/log.h"
#include "dm/core/trace.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace rhea::kvm {
namespace {

TRACE_POINT(kvm_slot, "a KVM memory slot is set (size 0: removed)");

struct Needed {
    int capability;
    const char *name;
};
constexpr Needed needed[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI"},
    {KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR"},
};

std::string why_not_opened(int error) {
    switch (error) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        return "/dev/kvm is not there: load the module kvm_intel or kvm_amd, and see that "
               "virtualization is on in the firmware's settings";
    case EACCES:
    case EPERM:
        return "no permission for /dev/kvm: add the user to the group that owns it (usually kvm), "
               "and log in again";
    default: return std::string("/dev/kvm cannot be opened: ") + std::strerror(error);
    }
}

} // namespace

Descriptor::~Descriptor() {
    if (fd_ >= 0)
        ::close(fd_);
}

Descriptor open_kvm() {
    Descriptor kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (kvm < 0)
        throw ConfigError("the engine kvm: " + why_not_opened(errno));
    const int version = ::ioctl(kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        throw ConfigError("the engine kvm: the kernel speaks version " + std::to_string(version) +
                          " of KVM's interface, " + std::to_string(KVM_API_VERSION) + " is needed");
    for (const Needed &n : needed)
        if (::ioctl(kvm, KVM_CHECK_EXTENSION, n.capability) <= 0)
            throw ConfigError(std::string("the engine kvm: this kernel's KVM has no ") + n.name +
                              "; a newer kernel has it");
    return kvm;
}

Vm::Vm(AddressMap &map) : map_(map), device_(open_kvm()) {
    do
        fd_ = Descriptor(::ioctl(device_, KVM_CREATE_VM, 0));
    while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0)
        throw ConfigError(std::string("the engine kvm: no virtual machine can be made: ") +
                          std::strerror(errno));
    // Four pages below the firmware that Intel CPUs without unrestricted mode need for themselves.
    u64 identity = 0xfeff'c000;
    if (::ioctl(device_, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
        ::ioctl(fd_, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
        throw ConfigError(std::string("the engine kvm: KVM_SET_IDENTITY_MAP_ADDR: ") +
                          std::strerror(errno));
    if (::ioctl(fd_, KVM_SET_TSS_ADDR, 0xfeff'd000ul) < 0)
        throw ConfigError(std::string("the engine kvm: KVM_SET_TSS_ADDR: ") + std::strerror(errno));
    const int slots = ::ioctl(fd_, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS);
    most_slots_ = slots > 0 ? u32(slots) : 32;
    map_.add_listener(*this);
}

Vm::~Vm() {
    map_.remove_listener(*this);
}

void Vm::add(Kicked &vcpu) {
    std::lock_guard guard(vcpus_mutex_);
    vcpus_.push_back(&vcpu);
}

void Vm::remove(Kicked &vcpu) noexcept {
    std::lock_guard guard(vcpus_mutex_);
    std::erase(vcpus_, &vcpu);
}

void Vm::map_changed(const ViewPtr &, const ViewPtr &) noexcept {
    std::lock_guard guard(vcpus_mutex_);
    for (Kicked *vcpu : vcpus_)
        vcpu->kick_out();
}

void Vm::enter(ViewReader &reader) noexcept {
    std::unique_lock lock(mutex_);
    while (!view_ || view_->generation != reader.active()) {
        if (inside_ == 0) {
            update(map_.view());
            continue;
        }
        reader.idle(); // while it waits it uses nothing
        changed_.wait(lock, [&] { return inside_ == 0; });
    }
    ++inside_;
}

void Vm::leave(ViewReader &reader) noexcept {
    {
        std::lock_guard guard(mutex_);
        if (--inside_ == 0)
            changed_.notify_all();
    }
    reader.idle();
}

bool Vm::set(const Slot &slot, u64 size) noexcept {
    kvm_userspace_memory_region r{};
    r.slot = slot.number;
    r.flags = slot.writable ? 0 : KVM_MEM_READONLY;
    r.guest_phys_addr = slot.base;
    r.memory_size = size;
    r.userspace_addr = reinterpret_cast<u64>(slot.host);
    TRACE(kvm_slot, "%u: %llx, %llx bytes%s", slot.number, (unsigned long long)slot.base,
          (unsigned long long)size, slot.writable ? "" : ", read-only");
    return ::ioctl(fd_, KVM_SET_USER_MEMORY_REGION, &r) == 0;
}

u32 Vm::free_number() const noexcept {
    u32 number = 0;
    while (std::any_of(slots_.begin(), slots_.end(),
                       [&](const Slot &s) { return s.number == number; }))
        ++number;
    return number;
}

// With the lock held and nobody inside.
void Vm::update(const ViewPtr &view) noexcept {
    std::vector<Slot> wanted;
    for (const Range &r : (*view)[Space::memory]) {
        if (!r.ram)
            continue;
        // Whole pages; what shares a page with something else leaves guest code and goes through
        // the dispatcher.
        const u64 skip = (page_size - r.first % page_size) % page_size;
        if (r.last - r.first < skip)
            continue;
        const u64 size = (r.last - (r.first + skip) + 1) & ~(page_size - 1),
                  offset = r.offset + skip;
        if (size == 0 || offset % page_size)
            continue;
        wanted.push_back({0, r.first + skip, size, r.ram->host() + offset, r.writable});
    }
    std::erase_if(slots_, [&](const Slot &s) {
        const bool stays = std::find(wanted.begin(), wanted.end(), s) != wanted.end();
        if (!stays)
            set(s, 0);
        return !stays;
    });
    for (Slot &w : wanted) {
        if (std::find(slots_.begin(), slots_.end(), w) != slots_.end())
            continue;
        w.number = free_number();
        // Without a slot the guest's accesses come to the dispatcher one by one: slow, and right.
        if (slots_.size() < most_slots_ && set(w, w.size))
            slots_.push_back(w);
        else
            RHEA_LOG(error, "KVM takes no memory slot for %llx bytes at %llx: %s",
                     (unsigned long long)w.size, (unsigned long long)w.base,
                     slots_.size() < most_slots_ ? std::strerror(errno) : "too many slots");
    }
    view_ = view;
}

} // namespace rhea::kvm
