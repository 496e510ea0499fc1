#pragma once
#include <vector>

#include "lane/comm/bootstrap/gate.h"
#include "lane/comm/bootstrap/unix.h"

namespace lane {

// What all ranks know of one.
struct TableEntry {
  int32_t node = 0, pid = 0;
  uint32_t data_port = 0, reserved = 0;
  char host[64] = {}, data_host[64] = {};
};

struct LinkOptions {
  int rank = 0;
  const std::vector<TableEntry>& ranks;
  std::string rank_0_host;  // where this rank reached rank 0; empty on rank 0
  Address source;           // to come from; of length 0: any
  Bytes32 key{};
  std::chrono::steady_clock::time_point deadline;
  Fd listener;
  Watch* watch = nullptr;
};

// One connection to each rank on another host, by rank: the higher of the two comes to the lower. All ranks of the job
// call it at about the same time.
std::vector<Fd> link_hosts(LinkOptions options);

}  // namespace lane
