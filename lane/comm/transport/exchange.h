#pragma once
#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// Sends a message on every socket that there is and returns what came on each, both by rank; all at the same time, so
// that no order of ranks can block. Reads not a byte beyond the message. Calls `meanwhile`, if given, every
// millisecond. Throws Error{kTimeout} or {kPeerLost} naming ranks: "... while <doing>".
std::vector<std::string> exchange(const std::vector<Fd>& sockets, const std::vector<std::string>& messages,
                                  std::chrono::steady_clock::time_point deadline, const std::string& doing,
                                  const std::function<void()>& meanwhile = {});

}  // namespace lane
