#include "lane/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/wait.h"

namespace lane {
namespace {

constexpr int kSpinTurns = 4096;  // a decode step launches a loop every few tens of µs: sleeping would cost more

}  // namespace

struct ThreadPool::Impl {
  int num_threads = 1;
  std::vector<std::thread> workers;

  std::mutex mutex;  // guards sleeping only; the loops themselves go through the atomics
  std::condition_variable wake;
  int num_asleep = 0;     // guarded by mutex
  bool stopping = false;  // published by `generation`

  const std::function<void(int64_t)>* task = nullptr;  // published by `generation`
  int64_t num_tasks = 0;
  std::atomic<uint64_t> generation{0};
  std::atomic<int64_t> next_task{0};
  std::atomic<int> num_done{0};  // workers that finished this generation

  std::mutex error_mutex;
  std::exception_ptr error;  // the first one

  void work() {
    for (;;) {
      const int64_t mine = next_task.fetch_add(1, std::memory_order_relaxed);
      if (mine >= num_tasks) return;
      try {
        (*task)(mine);
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
      }
    }
  }

  void worker_loop() {
    for (uint64_t seen = 0;;) {
      for (int turn = 0; turn < kSpinTurns && generation.load(std::memory_order_acquire) == seen; ++turn)
        spin_turn(turn);
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        ++num_asleep;
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        --num_asleep;
      }
      seen = generation.load(std::memory_order_acquire);
      if (stopping) return;
      work();
      num_done.fetch_add(1, std::memory_order_release);
    }
  }

  void publish() {
    const std::lock_guard lock(mutex);
    generation.fetch_add(1, std::memory_order_release);
    if (num_asleep > 0) wake.notify_all();
  }
};

ThreadPool::ThreadPool(int num_threads) : impl_(new Impl) {
  if (num_threads < 1) throw Error(ErrorCode::kInvalidArgument, "a thread pool needs at least 1 thread");
  impl_->num_threads = num_threads;
  for (int i = 1; i < num_threads; ++i) impl_->workers.emplace_back([this] { impl_->worker_loop(); });
}

ThreadPool::~ThreadPool() {
  impl_->stopping = true;
  impl_->publish();
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::size() const { return impl_->num_threads; }

void ThreadPool::run(int64_t num_tasks, const std::function<void(int64_t)>& task) {
  if (num_tasks <= 0) return;
  Impl& pool = *impl_;
  if (pool.workers.empty() || num_tasks == 1) {
    for (int64_t i = 0; i < num_tasks; ++i) task(i);
    return;
  }
  pool.task = &task;
  pool.num_tasks = num_tasks;
  pool.next_task.store(0, std::memory_order_relaxed);
  pool.num_done.store(0, std::memory_order_relaxed);
  pool.publish();
  pool.work();
  const int num_workers = static_cast<int>(pool.workers.size());
  for (int turn = 0; pool.num_done.load(std::memory_order_acquire) != num_workers; ++turn) {
    spin_turn(turn);
    if (turn == 1 << 20) turn = 1 << 10;
  }
  if (pool.error) std::rethrow_exception(std::exchange(pool.error, nullptr));
}

}  // namespace lane
