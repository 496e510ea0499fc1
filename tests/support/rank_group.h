#pragma once
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "lane/comm/local_group.h"

namespace lane {

// Calls body(communicator) on `num_ranks` threads, one per rank, and returns when all have ended. The first exception
// of any of them is rethrown; the other ranks are told, so that they do not wait for the one that failed.
inline void run_ranks(int num_ranks, const std::function<void(Communicator&)>& body,
                      JoinOptions options = {.timeout = std::chrono::seconds(60)}, plan::Layout layout = {}) {
  std::vector<Communicator> group = make_local_group(num_ranks, std::move(options), std::move(layout));
  std::mutex mutex;
  std::exception_ptr first;
  std::vector<std::thread> threads;
  for (Communicator& communicator : group)
    threads.emplace_back([&] {
      try {
        Communicator mine = std::move(communicator);  // it leaves when its rank is done, like a process
        try {
          body(mine);
        } catch (...) {
          {
            const std::lock_guard lock(mutex);
            if (!first) first = std::current_exception();
          }
          throw;  // past `mine`, whose destructor tells the others
        }
      } catch (...) {  // kept in `first`
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace lane
