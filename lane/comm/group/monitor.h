#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/bootstrap.h"
#include "lane/comm/group/board.h"
#include "lane/comm/group/relay.h"

namespace lane {

// A thread beside the rank: it shows on the board that this process runs, posts the death of a process whose
// connection ends before it left, and, on rank 0, turns late comers away.
//
// With several hosts the leaders' monitors keep the boards alike: each sends what the ranks of its host do to rank 0,
// which sends it on to all, and a failure that stands on one board is on all within some ten milliseconds. A rank that
// left is never reported dead. Once rank 0 or a leader has left, the hosts concerned hear nothing more of each other
// but what data connections tell.
class Monitor {
 public:
  // Takes the connections, doors and relays out of the meeting.
  Monitor(Board& board, Meeting& meeting, std::chrono::milliseconds period);
  ~Monitor();

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  void watch(int rank);
  void serve_doors();
  void listen_to(int node);
  void merge(const Relay::News& news, int from_node);
  void tell(bool is_last);  // what the ranks do
  int num_left() const;
  void pass_failure();  // once

  Board& board_;
  std::vector<Fd> connections_;  // by rank
  std::unique_ptr<Door> door_;
  std::unique_ptr<TcpDoor> tcp_door_;
  std::chrono::milliseconds period_;
  std::vector<int> node_of_;     // by rank
  std::map<int, Relay> relays_;  // by node
  std::vector<int> leaders_;     // by node
  int node_;                     // of this rank
  Clock::time_point next_tell_{};
  bool failure_passed_ = false;
  int num_left_told_ = 0;
  Fd stop_;  // readable once the thread shall end
  std::thread thread_;
};

}  // namespace lane
