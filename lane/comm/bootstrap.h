#pragma once
#include <memory>
#include <string>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/communicator.h"
#include "lane/comm/group/memory.h"
#include "lane/plan/layout.h"

namespace lane {

class Door;
class TcpDoor;

// What a rank holds once all ranks of the job have met. The first rank of each host leads it.
struct Meeting {
  Meeting();
  ~Meeting();
  Meeting(Meeting&&) noexcept;

  plan::Layout layout;             // which host each rank is on
  std::vector<std::string> hosts;  // their names, by node; empty names if there is only one
  std::vector<int> pids;           // by rank

  std::shared_ptr<GroupMemory> memory;  // of this host
  std::vector<Fd> connections;  // by rank: a host's leader has one to each other rank of the host, and each of these
                                // one to the leader. Nothing is sent on them any more: one that ends tells that the
                                // process at its end did.
  std::unique_ptr<Door> door;   // on a leader: turns late comers of this host away with a reason

  // With several hosts only:
  std::vector<Fd> relays;             // by node: on rank 0 one to each other leader, on a leader one to node 0
  std::unique_ptr<TcpDoor> tcp_door;  // on rank 0: turns late comers away
  std::vector<Fd> sockets;            // by rank: to each rank of another host, for data; TCP, authenticated
};

// Meets the other ranks of options.job. Throws Error{kTimeout} naming the ranks that did not come, kInvalidArgument
// when rank 0 refuses this one (another size, version or secret, a place that is taken), kPeerLost when a rank dies
// meanwhile. Processes of other users, and whatever else connects, are turned away and change nothing.
// Ranks of one host meet without a network when options.rendezvous is empty. `door`: on rank 0, the door that was
// opened for this job already; null: one is opened at options.rendezvous.
Meeting meet(const JoinOptions& options, std::unique_ptr<TcpDoor> door = nullptr);

// A door for a job whose ranks learn its address ("10.0.0.1:43121") some other way: on rank 0's data interface, at a
// port that is free. tcp_door_address() says which.
std::unique_ptr<TcpDoor> open_tcp_door(const JoinOptions& options);
std::string tcp_door_address(const TcpDoor& door);

}  // namespace lane
