#include "block/tool/worker_pool.h"

namespace rhea::tool {

WorkerPool::WorkerPool(loop::Loop &loop, unsigned threads) : loop_(loop) {
    for (unsigned i = 0; i < threads; ++i)
        threads_.emplace_back([this, i] { work(i); });
}

WorkerPool::~WorkerPool() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    wake_.notify_all();
    for (std::thread &t : threads_)
        t.join();
}

loop::Task<> WorkerPool::run(usize count, const Call &call) {
    loop::Event done(loop_);
    Batch batch{&call, &done, count};
    if (!count)
        co_return;
    {
        const std::lock_guard lock(mutex_);
        for (usize i = 0; i < count; ++i)
            jobs_.push_back({&batch, i});
    }
    wake_.notify_all();
    co_await done.wait();
}

void WorkerPool::work(unsigned thread) {
    for (;;) {
        Job job{};
        {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return ending_ || !jobs_.empty(); });
            if (jobs_.empty())
                return;
            job = jobs_.front();
            jobs_.pop_front();
        }
        (*job.batch->call)(job.index, thread);
        Batch *const batch = job.batch;
        loop_.post([batch] {
            if (--batch->left == 0)
                batch->done->set();
        });
    }
}

} // namespace rhea::tool
