#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "lane/base/file.h"

namespace lane {

// What all ranks of a group on one machine see: the board (who does what, why it ended) and one ring per directed pair
// of ranks. Threads share a mapping, processes map the same nameless file: it has no entry in any directory, so
// nothing is left behind however they end. Pages take memory only once written.
//
//   [ board: header, a slot per rank ][ link states, n x n ][ rings, n x n, the diagonal untouched ]
struct LinkState {
  alignas(64) std::atomic<uint64_t> head;  // bytes ever sent; written by the sender
  alignas(64) std::atomic<uint64_t> tail;  // bytes ever taken out; written by the receiver
};

class GroupMemory {
 public:
  static std::shared_ptr<GroupMemory> for_threads(int num_ranks);
  static std::shared_ptr<GroupMemory> create(int num_ranks);  // for processes: pass fd() to the others
  static std::shared_ptr<GroupMemory> open(Fd fd, int num_ranks);
  ~GroupMemory();
  GroupMemory(const GroupMemory&) = delete;
  GroupMemory& operator=(const GroupMemory&) = delete;

  int fd() const { return fd_.get(); }
  int num_ranks() const { return num_ranks_; }
  void* board() const { return base_; }
  LinkState& link(int from, int to) const;
  std::byte* ring(int from, int to) const;

  // The more ranks, the smaller each ring: 256 KiB up to 11 ranks, then at most 32 MiB in all, but 16 KiB each.
  int64_t ring_bytes() const { return ring_bytes_; }

 private:
  GroupMemory(Fd fd, int num_ranks);
  Fd fd_;  // of none for threads
  int num_ranks_;
  int64_t ring_bytes_, links_at_, rings_at_, bytes_;
  std::byte* base_ = nullptr;
};

}  // namespace lane
