#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"

namespace lane::net {

// Another library to compare with: "mpi" (as it is set up), "mpi-ob1", "mpi-ucx" or "gloo".
struct PeerOptions {
  std::string name;
  std::string directory;  // of lane_peer_mpi and lane_peer_gloo; empty: where the build or the installation puts them
  std::chrono::milliseconds patience = std::chrono::seconds(30);  // to start, and for an answer on top of its work
};
bool is_mpi(const std::string& peer_name);
void check_peer_name(const std::string& name);  // Error{kInvalidArgument} that lists them

// Microseconds per call of each batch, the slowest rank's; or why there are none.
struct PeerTimes {
  std::vector<double> us;
  int64_t num_wrong = 0;
  std::string why_not;
};

// A library that runs in a process of its own beside each rank of `group`: on the rank's core, where it sleeps until it
// is asked. All ranks call the same functions in the same order, and come to the same result. What fails on any rank or
// takes too long ends the peer on all of them, and says so in a sentence; nothing here waits without a limit.
class Peer {
 public:
  Peer(Communicator& group, const PeerOptions& options);
  ~Peer();
  Peer(Peer&&) noexcept;

  const std::string& library() const;  // "Open MPI v4.1.4 (ucx)"
  const std::string& why_not() const;  // it does not run; empty as long as it does

  // See bench/peers/coprocess.h for the commands. `work`: how long the answer should take at most; patience comes on
  // top.
  PeerTimes run(const std::string& command, std::chrono::milliseconds work);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lane::net
