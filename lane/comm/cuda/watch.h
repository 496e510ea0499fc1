#pragma once
#include <atomic>
#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "lane/comm/communicator.h"
#include "lane/comm/cuda/report.h"
#include "lane/comm/group/board.h"

namespace lane::cuda {

// The link between failures on the GPU and on the host: what a kernel reports is posted on the board, for all ranks;
// what is posted on the board ends the kernels' waits. A thread looks every few milliseconds.
class Watch {
 public:
  // `rank_of`: the rank that a report's peer is.
  Watch(Board& board, Report& report, std::chrono::milliseconds timeout, std::function<int(const Report&)> rank_of);
  ~Watch();

  void look();  // now; any thread

 private:
  void run();
  Board& board_;
  Report& report_;
  std::chrono::milliseconds timeout_;
  std::function<int(const Report&)> rank_of_;
  std::atomic<bool> is_over_{false};
  std::thread thread_;
};

// What a call is, in a word that travels to the peers (Call::what), and back in words for people.
enum class DeviceCall : uint8_t { kAllReduce = 1, kAllReduceNorm, kReduceScatter, kAllGather, kBroadcast };
uint32_t call_word(DeviceCall call, uint32_t algorithm, DType type, ReduceOp op, int64_t bytes);
std::string describe_call(uint32_t word);

}  // namespace lane::cuda
