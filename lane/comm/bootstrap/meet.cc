#include "lane/base/error.h"
#include "lane/comm/bootstrap.h"
#include "lane/comm/bootstrap/door.h"
#include "lane/comm/bootstrap/tcp.h"
#include "lane/comm/bootstrap/unix.h"

namespace lane {

Meeting::Meeting() = default;
Meeting::~Meeting() = default;
Meeting::Meeting(Meeting&&) noexcept = default;

Meeting meet(const JoinOptions& options, std::unique_ptr<TcpDoor> door) {
  if (options.job.empty())
    throw Error(ErrorCode::kInvalidArgument, "ranks can only meet under a job name: set LANE_JOB or use a launcher");
  if (door || !options.rendezvous.empty()) return meet_over_tcp(options, std::move(door));

  HostRanks ranks{.job = options.job, .rank = options.rank, .size = options.size, .timeout = options.timeout};
  for (int rank = 0; rank < options.size; ++rank) ranks.members.push_back(rank);
  HostMeeting here = meet_on_host(ranks);
  Meeting meeting;
  meeting.layout.node_of.assign(options.size, 0);
  meeting.hosts.resize(1);
  meeting.pids = std::move(here.pids);
  meeting.memory = std::move(here.memory);
  meeting.connections = std::move(here.connections);
  meeting.door = std::move(here.door);
  return meeting;
}

std::unique_ptr<TcpDoor> open_tcp_door(const JoinOptions& options) {
  Address own = pick_interface(options.nics, options.local_rank);
  if (own.length == 0)
    own = outward_address(options.rendezvous.empty() ? "localhost"
                                                     : parse_host_and_port(options.rendezvous, "LANE_RENDEZVOUS").host);
  own.set_port(0);
  return std::make_unique<TcpDoor>(options, listen_at(own));
}

std::string tcp_door_address(const TcpDoor& door) { return door.address().text(); }

}  // namespace lane
