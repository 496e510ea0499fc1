#pragma once
#include <poll.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/bootstrap/door.h"
#include "lane/comm/group/memory.h"

namespace lane {

// What a rank keeps an eye on while it waits for something else.
class Watch {
 public:
  virtual ~Watch() = default;
  virtual void add_polls(std::vector<pollfd>& polls) const = 0;
  virtual void look() = 0;  // throws if there is no use in waiting any longer; never blocks
};

// The ranks of a job that are on one host; the first of them leads.
struct HostRanks {
  std::string job;           // the meeting point's name
  int rank = 0, size = 1;    // of all ranks of the job
  std::vector<int> members;  // those on this host, ascending
  std::chrono::milliseconds timeout{};
  Watch* watch = nullptr;
};

// What they have once they met.
struct HostMeeting {
  std::vector<int> pids;  // by rank; 0 on other hosts
  std::shared_ptr<GroupMemory> memory;
  std::vector<Fd> connections;  // by rank, as in Meeting
  std::unique_ptr<Door> door;   // on the leader
};

// Meets without a network. Errors as meet() says.
HostMeeting meet_on_host(const HostRanks& ranks);

}  // namespace lane
