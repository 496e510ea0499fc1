#pragma once
#include <cstdint>
#include <vector>

#include "tools/netlab/topology.h"

namespace lane::netlab {

struct RouterOptions {
  int64_t spin_ns = 0;  // how long before a packet is due to stop sleeping: more exact, more CPU time
};

// Moves packets between the TUN devices until `control` is closed by its other end. Host i of the topology has tuns[i].
// Answers one JSON message with one on `control`:
//     {"do": "set", "link": "h2", "key": "delay", "value": "200ms"}   {} or {"error": "..."}
//     {"do": "stats"}                                                 {"links": [...], "router": {...}}
void run_router(const Topology& topology, const std::vector<int>& tuns, int control, const RouterOptions& options);

}  // namespace lane::netlab
