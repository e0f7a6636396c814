#include "dm/loop/task_group.h"

namespace rhea::loop {

/// A task and its place. When it ends, it is still on the stack: the loop destroys it in its next
/// turn.
class TaskGroup::Member final : public Observer, public Work {
public:
    Member(TaskGroup &group, usize index, Task<> task)
        : group_(group), index_(index), task_(std::move(task)) {}

    void start() {
        task_.handle().promise().observer = this;
        if (Promise::start(task_.handle(), &context_))
            ended();
    }
    void ended() noexcept override { group_.loop_.later(*this); }
    void run() noexcept override { group_.ended(*this); }

    std::optional<Error> &error() { return task_.handle().promise().error; }
    void cancel() noexcept {
        context_.cancelled = true;
        if (context_.waiting)
            context_.waiting->cancel();
    }
    usize index() const { return index_; }
    void moved_to(usize index) { index_ = index; }

private:
    TaskGroup &group_;
    usize index_;
    Task<> task_;
    TaskContext context_;
};

/// What drain() waits for. Inline if the group is empty already.
class TaskGroup::Emptied final : public Cancellable {
public:
    explicit Emptied(TaskGroup &group) : group_(group) {}
    bool await_ready() const noexcept { return group_.empty(); }
    template <class P> void await_suspend(std::coroutine_handle<P> h) noexcept {
        VERIFY(!group_.drainer_);
        waiter_ = h;
        context_ = h.promise().context;
        group_.drainer_ = this;
        context_->waiting = this;
        if (context_->cancelled)
            group_.cancel();
    }
    void await_resume() const noexcept {}
    void cancel() noexcept override { group_.cancel(); }
    void resume() noexcept {
        context_->waiting = nullptr;
        waiter_.resume();
    }

private:
    TaskGroup &group_;
    std::coroutine_handle<> waiter_;
    TaskContext *context_ = nullptr;
};

TaskGroup::TaskGroup(Loop &loop) : loop_(loop) {}
TaskGroup::~TaskGroup() {
    VERIFY(members_.empty());
}

void TaskGroup::spawn(Task<> task) {
    members_.push_back(std::make_unique<Member>(*this, members_.size(), std::move(task)));
    members_.back()->start();
}

void TaskGroup::cancel() noexcept {
    for (usize i = 0; i < members_.size(); ++i)
        members_[i]->cancel();
}

void TaskGroup::ended(Member &m) noexcept {
    if (m.error() && !first_error_)
        first_error_ = std::move(m.error());
    const usize at = m.index();
    std::swap(members_[at], members_.back());
    members_[at]->moved_to(at);
    members_.pop_back();
    if (members_.empty() && drainer_)
        std::exchange(drainer_, nullptr)->resume();
}

Task<> TaskGroup::drain() {
    co_await Emptied(*this);
    if (first_error_) {
        const Error e = std::move(*first_error_);
        first_error_.reset();
        co_await raise(e);
    }
}

} // namespace rhea::loop
