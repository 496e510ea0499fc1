#pragma once
#include <cstdint>
#include <functional>
#include <memory>

namespace lane {

// A fixed team of threads for the loops of one rank. run() hands out `num_tasks` tasks and returns when all are
// done; the caller works too, so a pool of one has no other thread and runs in order. One caller at a time.
// An exception in a task is rethrown by run() after all tasks ended.
class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  // Calls task(i) for every i in [0, num_tasks). Tasks are handed out in order, one at a time.
  void run(int64_t num_tasks, const std::function<void(int64_t)>& task);

  // Cuts [0, count) into about size() even ranges of at least `grain` and calls body(begin, end) for each.
  template <class Body>
  void parallel_for(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    const int64_t most = (count + grain - 1) / grain;
    const int64_t parts = most < size() ? most : size();
    if (parts <= 1) return body(int64_t{0}, count);
    run(parts, [&](int64_t part) { body(count * part / parts, count * (part + 1) / parts); });
  }

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane
