// Callback: a function and the object that it is for, two words, no allocation.
//
// Callback::to<&Pit::tick>(this). The object must outlive the callback; calling an empty one does
// nothing.
#pragma once
#include <type_traits>

namespace rhea {

class Callback {
public:
    constexpr Callback() = default;
    constexpr Callback(void (*function)(void *), void *object) noexcept
        : function_(function), object_(object) {}

    template <auto Method, class T> static constexpr Callback to(T *object) noexcept {
        static_assert(std::is_member_function_pointer_v<decltype(Method)>);
        return {[](void *o) { (static_cast<T *>(o)->*Method)(); }, object};
    }

    explicit operator bool() const noexcept { return function_; }
    void operator()() const noexcept {
        if (function_)
            function_(object_);
    }

private:
    void (*function_)(void *) = nullptr;
    void *object_ = nullptr;
};

} // namespace rhea
