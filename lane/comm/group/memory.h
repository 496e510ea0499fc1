#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// What the ranks of a group on one host see: the board (who does what, why it ended), one ring per directed pair of
// them, and one per rank from which all the others read (multicast). Threads share a mapping, processes map the same
// nameless file: it has no entry in any directory, so nothing is left behind however they end. Pages take memory only
// once written.
//
//   [ board: header, a slot per rank of the group ][ ring states ][ rings: m x m of pairs, then m of multicast ]
//
// where m is the number of ranks on this host; a pair's ring of a rank with itself is never touched.
class GroupMemory {
 public:
  // Two cursors of a ring: bytes ever sent and bytes ever taken out. A multicast ring has a `tail` per reader.
  struct alignas(64) Cursor {
    std::atomic<uint64_t> position;
  };

  // `members`: the ranks of a group of `num_ranks` that are on this host, ascending.
  static std::shared_ptr<GroupMemory> for_threads(int num_ranks);
  static std::shared_ptr<GroupMemory> create(int num_ranks, std::vector<int> members);  // pass fd() to the others
  static std::shared_ptr<GroupMemory> open(Fd fd, int num_ranks, std::vector<int> members);
  ~GroupMemory();
  GroupMemory(const GroupMemory&) = delete;
  GroupMemory& operator=(const GroupMemory&) = delete;

  int fd() const { return fd_.get(); }
  int num_ranks() const { return num_ranks_; }
  const std::vector<int>& members() const { return members_; }
  void* board() const { return base_; }

  // By places in members().
  struct Ring {
    Cursor* head;
    Cursor* tails;  // one, or one per member
    std::byte* data;
  };
  Ring pair_ring(int from, int to) const;
  Ring multicast_ring(int from) const;

  // The more ranks, the smaller each ring: 256 KiB up to 11 ranks, then at most 32 MiB in all, but 16 KiB each.
  int64_t ring_bytes() const { return ring_bytes_; }

 private:
  GroupMemory(Fd fd, int num_ranks, std::vector<int> members);
  Fd fd_;  // of none for threads
  int num_ranks_;
  std::vector<int> members_;
  int64_t ring_bytes_, cursors_at_, rings_at_, bytes_;
  std::byte* base_ = nullptr;
};

// Split groups whose ranks are threads find their memory here.
struct ThreadGroups {
  std::mutex mutex;
  std::map<std::string, std::weak_ptr<GroupMemory>> memories;

  std::shared_ptr<GroupMemory> memory(const std::string& job, int num_ranks) {
    const std::lock_guard lock(mutex);
    auto& known = memories[job];
    auto memory = known.lock();
    if (!memory) known = memory = GroupMemory::for_threads(num_ranks);
    return memory;
  }
};

}  // namespace lane
