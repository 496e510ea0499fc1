#pragma once
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/bootstrap.h"
#include "lane/comm/group/board.h"

namespace lane {

// A thread beside the rank: it shows on the board that this process runs, posts the death of a process whose
// connection ends before it left, and, on rank 0, turns late comers away.
class Monitor {
 public:
  Monitor(Board& board, std::vector<Fd> connections, std::unique_ptr<Door> door, std::chrono::milliseconds period);
  ~Monitor();

 private:
  void run();
  void watch(int rank);

  Board& board_;
  std::vector<Fd> connections_;  // by rank
  std::unique_ptr<Door> door_;
  std::chrono::milliseconds period_;
  Fd stop_;  // readable once the thread shall end
  std::thread thread_;
};

}  // namespace lane
