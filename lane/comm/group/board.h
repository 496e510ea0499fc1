#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/comm/group/memory.h"
#include "lane/comm/group/operation.h"

namespace lane {

// What the ranks of a group know of each other beside their data. It lies in memory that all ranks of a host map: a
// failure posted by one is seen by all waiters at their next look, without a message. Each host has a board of its own,
// with a slot for every rank of the group; the monitors of the hosts' leaders keep them alike. The first failure
// stands; any thread of any rank may post it.
class Board {
 public:
  static int64_t bytes(int num_ranks);

  // `pids` and `hosts` (names) by rank; both empty for threads of one process, which are named by rank alone, and
  // `hosts` empty where there is only one.
  Board(std::shared_ptr<GroupMemory> memory, int rank, std::vector<int> pids, std::vector<std::string> hosts = {});

  int rank() const { return rank_; }
  int num_ranks() const { return static_cast<int>(memory_->num_ranks()); }
  std::string name_of(int rank) const;  // "rank 2 (pid 4711)", "rank 2 (pid 4711 on n1)"

  bool failed() const noexcept { return header_->failure.load(std::memory_order_acquire) != kNone; }
  Error failure() const;  // of a board that failed
  void post_failure(ErrorCode code, const std::string& reason) noexcept;
  [[noreturn]] void throw_failure() const { throw failure(); }
  [[noreturn]] void fail(ErrorCode code, const std::string& reason) {
    post_failure(code, reason);
    throw_failure();
  }

  // What this rank does, for whoever waits for it in vain.
  void set_doing(OperationKind kind, uint64_t number) noexcept;
  void set_waiting_for(int peer) noexcept;  // -1: nobody
  void set_left() noexcept;
  void beat() noexcept;

  // A rank's slot, as it goes from host to host: the leaders' monitors pass on what the ranks of their host wrote.
  struct Status {
    int64_t beat_age_ns = -1;  // since its monitor last ran; -1: it has not yet
    uint64_t doing = 0;
    int32_t waiting_for = 0;
    uint32_t left = 0;
  };
  Status status(int rank) const noexcept;
  void set_status(int rank, const Status& status) noexcept;

  bool has_left(int rank) const noexcept { return slot(rank).left.load(std::memory_order_acquire) != 0; }
  // Its monitor has run within `limit`. Threads of one process have no monitor and give no such sign.
  bool is_running(int rank, std::chrono::nanoseconds limit) const noexcept;
  std::string activity_of(int rank) const;  // "in all_gather #16", "after #16"
  // "rank 2 (pid 4711, stopped?)", "rank 2 (pid 4711), which is in all_gather #16,": a peer and why it may keep others
  // waiting. Stopped is one whose monitor has not run for `limit`.
  std::string suspect(int peer, std::chrono::nanoseconds limit) const;

 private:
  enum Failure : uint32_t { kNone, kWriting, kPosted };
  struct alignas(64) Header {
    std::atomic<uint32_t> failure;
    ErrorCode code;
    char reason[1016];
  };
  struct alignas(64) Slot {
    std::atomic<int64_t> beat_ns;      // when the monitor last ran; 0: there is none
    std::atomic<uint64_t> doing;       // kind << 56 | number
    std::atomic<int32_t> waiting_for;  // peer + 1
    std::atomic<uint32_t> left;
  };
  Slot& slot(int rank) const { return slots_[rank]; }

  std::shared_ptr<GroupMemory> memory_;
  Header* header_;
  Slot* slots_;
  int rank_;
  std::vector<int> pids_;
  std::vector<std::string> hosts_;
};

}  // namespace lane
