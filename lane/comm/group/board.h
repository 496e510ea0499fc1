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

// What the ranks of a group know of each other beside their data. It lies in memory that all of them map: a failure
// posted by one is seen by all waiters at their next look, without a message. The first failure stands; any thread of
// any rank may post it.
class Board {
 public:
  static int64_t bytes(int num_ranks);

  // `pids` by rank; empty for threads of one process, which are named by rank alone.
  Board(std::shared_ptr<GroupMemory> memory, int rank, std::vector<int> pids);

  int rank() const { return rank_; }
  int num_ranks() const { return static_cast<int>(memory_->num_ranks()); }
  std::string name_of(int rank) const;  // "rank 2 (pid 4711)"

  bool failed() const noexcept { return header_->failure.load(std::memory_order_acquire) != kNone; }
  void post_failure(ErrorCode code, const std::string& reason) noexcept;
  [[noreturn]] void throw_failure() const;
  [[noreturn]] void fail(ErrorCode code, const std::string& reason) {
    post_failure(code, reason);
    throw_failure();
  }

  // What this rank does, for whoever waits for it in vain.
  void set_doing(OperationKind kind, uint64_t number) noexcept;
  void set_waiting_for(int peer) noexcept;  // -1: nobody
  void set_left() noexcept;
  void beat() noexcept;

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
};

}  // namespace lane
