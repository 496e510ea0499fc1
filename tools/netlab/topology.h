#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lane/base/json.h"

namespace lane::netlab {

// What a full-duplex link does to a packet, in either direction. Delay, jitter and loss are those between two hosts
// whose links are alike: half of the delay and of the jitter is spent, and half of the loss suffered, on each of the
// two.
struct LinkSettings {
  int64_t delay_ns = 0;
  int64_t jitter_ns = 0;       // the delay of a packet is drawn evenly from delay - jitter to delay + jitter
  double rate_bits_per_s = 0;  // of IP packets; 0: unlimited
  double loss = 0;             // share of the packets, 0 to 1
  int64_t queue_bytes = 0;     // what may wait for the link; 0: 50 ms of its rate, at least 128 KiB
  bool reorder = false;        // whether jitter may change the order of packets
  bool cut = false;            // whether nothing passes

  int64_t queue_limit_bytes() const;
};

struct Host {
  std::string name;
  std::string address;  // 10.77.<rack>.<1 + index in the rack>
  int rack = 0;
  LinkSettings link;
};

struct Rack {
  std::string name;     // empty: the only one, of the short form
  LinkSettings uplink;  // from the rack's switch to the spine, which is infinitely fast
};

struct Topology {
  std::vector<Host> hosts;
  std::vector<Rack> racks;
  int mtu = 9000;
  uint64_t seed = 1;  // of loss and jitter
};

// What the path from one host to another promises.
struct PathSettings {
  int64_t delay_ns = 0;
  double rate_bits_per_s = 0;  // of the slowest link; 0: unlimited
  double loss = 0;
};

inline constexpr int kMaxHosts = 128;

// Reads the JSON of README.md. Throws Error{kCorruptData} that names `where`, the field, its value and the remedy; a
// key that is not known is an error.
Topology parse_topology(std::string_view json, const std::string& where);

// Sets one field of a link, as in a topology file ("delay": "0.5ms") or on the command line (delay=0.5ms).
void set_field(LinkSettings& link, const std::string& key, const Json& value, const std::string& where);

PathSettings path(const Topology& topology, int from, int to);

int64_t parse_duration_ns(const std::string& text, const std::string& what);  // "0.5ms", "200us", "1s"
double parse_bit_rate(const std::string& text, const std::string& what);      // "1gbit", "100mbit", "unlimited"
double parse_share(const std::string& text, const std::string& what);         // "1%", "0.01"

}  // namespace lane::netlab
