#pragma once
// TaskGroup: the owner of tasks that run side by side on one loop. Draining it is joining them.
//
// Used on the loop's thread alone. A group is empty when it is destroyed: its owner has drained it.
// A member that fails does not end the others; the first failure is what drain() reports. A
// cancelled member's present operation and every later one end with ECANCELED, which fails it
// unless it asks for Results.
#include <memory>
#include <optional>
#include <vector>

#include "dm/loop/loop.h"

namespace rhea::loop {

class TaskGroup {
public:
    explicit TaskGroup(Loop &loop);
    ~TaskGroup();
    TaskGroup(const TaskGroup &) = delete;
    TaskGroup &operator=(const TaskGroup &) = delete;

    /// Runs the task up to its first wait, and the rest from the loop.
    void spawn(Task<> task);
    /// Cancels what runs now; tasks spawned later are not touched.
    void cancel() noexcept;
    bool empty() const { return members_.empty(); }
    usize size() const { return members_.size(); }

    /// Ends when no member is left; fails as the first failed member did. Cancelling the waiter
    /// cancels the members.
    Task<> drain();
    /// The same from outside any task: turns the loop meanwhile.
    Result<> join() { return loop_.block_on(drain()); }

private:
    class Member;
    class Emptied;
    void ended(Member &m) noexcept;

    Loop &loop_;
    std::vector<std::unique_ptr<Member>> members_;
    std::optional<Error> first_error_;
    Emptied *drainer_ = nullptr;
};

} // namespace rhea::loop
