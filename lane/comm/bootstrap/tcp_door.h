#pragma once
#include <poll.h>

#include <string>
#include <vector>

#include "lane/comm/bootstrap/gate.h"
#include "lane/comm/communicator.h"

namespace lane {

// The key of a job: known to whoever knows its secret and its name.
Bytes32 job_key(const JoinOptions& options);

// Where rank 0 receives the ranks of all hosts.
class TcpDoor {
 public:
  TcpDoor(const JoinOptions& options, Fd listener);

  // Appends what to wait for. When something happened there, serve() takes it in; it never blocks.
  void add_polls(std::vector<pollfd>& polls) const { gate_.add_polls(polls); }
  void serve();
  Address address() const { return gate_.address(); }

  struct Seat {
    bool taken = false;
    Channel channel;  // whoever takes it away leaves the seat taken
    Introduction introduction;
    std::string name() const;  // "rank 2 (pid 4711 on n1)"
  };
  std::vector<Seat> seats;      // by rank
  std::string missing() const;  // "ranks 1, 3"; empty when all are here
  std::string refusals;         // one sentence each, for who wonders where the missing ones are

 private:
  void hear(Gate::Guest guest);
  void note(const std::string& why);

  std::string job_;
  Gate gate_;
  int num_notes_ = 0;
};

}  // namespace lane
