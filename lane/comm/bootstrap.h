#pragma once
#include <memory>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/communicator.h"
#include "lane/comm/group/memory.h"

namespace lane {

class Door;

// What a rank holds once all ranks of the job have met.
struct Meeting {
  Meeting();
  ~Meeting();
  Meeting(Meeting&&) noexcept;

  std::shared_ptr<GroupMemory> memory;
  std::vector<int> pids;        // by rank
  std::vector<Fd> connections;  // by rank: rank 0 has one to each other rank, and each of these one to rank 0. Nothing
                                // is sent on them any more: one that ends tells that the process at its end did.
  std::unique_ptr<Door> door;   // on rank 0: turns late comers away with a reason
};

// Meets the other ranks of options.job on this machine. Throws Error{kTimeout} naming the ranks that did not come,
// kInvalidArgument when rank 0 refuses this one (another size or version, a place that is taken), kPeerLost when a
// rank dies meanwhile. Processes of other users and whatever else connects are turned away and change nothing.
Meeting meet(const JoinOptions& options);

}  // namespace lane
