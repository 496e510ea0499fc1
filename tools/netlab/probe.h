#pragma once
#include <string>
#include <vector>

#include "lane/base/json.h"

namespace lane::netlab {

// What two hosts found out about the path between them.
struct PathMeasurement {
  double one_way_s = 0, one_way_p99_s = 0;  // half a round trip of a 64-byte message by UDP: median and 99th percentile
  int64_t round_trips = 0;
  double loss = 0;  // of `sent` datagrams
  int64_t sent = 0;
  double bits_per_s = 0;  // of one TCP stream's payload, once it is up to speed
};

struct ProbeOptions {
  std::string host;            // a name or an address
  double rate_bits_per_s = 0;  // what to expect, so that the datagrams of the loss measurement find room
  bool delay = true, loss = true, rate = true;  // what to measure
};

// Both run inside hosts and throw Error{kTimeout} rather than wait for a peer that is gone. The server serves one
// client.
void serve_probe();
PathMeasurement probe_path(const ProbeOptions& options);

Json to_json(const PathMeasurement& measured);

}  // namespace lane::netlab
