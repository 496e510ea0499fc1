#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "tools/netlab/router.h"
#include "tools/netlab/topology.h"

namespace lane::netlab {

struct RunOptions {
  Topology topology;
  std::vector<std::string> command;
  bool on_first = false;     // only in the first host, with our standard input
  bool prefix = false;       // "[h0] " before each line of output
  bool private_tmp = false;  // a /tmp of its own for each host
  std::chrono::nanoseconds timeout = std::chrono::hours(1);
  std::string socket;  // "@name" at which `netlab set` and others find the laboratory; empty: a name nobody can guess
  RouterOptions router;
};

inline constexpr int kExitTimeout = 124;    // as of timeout(1)
inline constexpr int kExitFailed = 125;     // the laboratory itself failed
inline constexpr int kExitNotAllowed = 77;  // what test runners take for "skipped"

// Makes the hosts, runs the command in them and returns the first exit status that is not 0 (128 + n for signal n).
//
// All processes of a laboratory, the router among them, live in one process namespace whose first process dies with the
// caller; the kernel then ends all others, and with them the hosts. So nothing remains however the caller ends.
int run_laboratory(const RunOptions& options);

}  // namespace lane::netlab
