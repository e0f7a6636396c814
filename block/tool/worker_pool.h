// WorkerPool: threads for work that takes the CPU long (compression), called from tasks of a loop.
//
// `run` hands calls to the threads and returns when all of them have ended. The calls touch nothing
// of the loop's.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "dm/loop/event.h"
#include "dm/loop/loop.h"

namespace rhea::tool {

class WorkerPool {
public:
    WorkerPool(loop::Loop &loop, unsigned threads);
    ~WorkerPool();
    WorkerPool(const WorkerPool &) = delete;
    WorkerPool &operator=(const WorkerPool &) = delete;

    /// call(i, thread) for each i below `count`; `thread` is below threads(). The call outlives it.
    using Call = std::function<void(usize i, unsigned thread)>;
    loop::Task<> run(usize count, const Call &call);
    unsigned threads() const noexcept { return static_cast<unsigned>(threads_.size()); }

private:
    struct Batch {
        const Call *call;
        loop::Event *done;
        usize left; // the loop's thread
    };
    struct Job {
        Batch *batch;
        usize index;
    };
    void work(unsigned thread);

    loop::Loop &loop_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Job> jobs_; // under mutex_, for which the condition variable wants a bare one
    bool ending_ = false;  // likewise
    std::vector<std::thread> threads_;
};

} // namespace rhea::tool
