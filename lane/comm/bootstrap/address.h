#pragma once
#include <sys/socket.h>

#include <string>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// An Internet address with its port, version 4 or 6.
struct Address {
  sockaddr_storage bytes{};
  socklen_t length = 0;

  int family() const { return bytes.ss_family; }
  int port() const;
  void set_port(int port);
  bool is_loopback() const;
  bool is_any() const;       // of no interface in particular
  std::string host() const;  // "10.0.0.1", "fd00::2"
  std::string text() const;  // "10.0.0.1:4711", "[fd00::2]:4711"
};

struct HostAndPort {
  std::string host;
  int port = 0;
};
// "n1:4711", "10.0.0.1:4711" or "[fd00::2]:4711". `name` is what the error calls it: "LANE_RENDEZVOUS".
HostAndPort parse_host_and_port(const std::string& text, const std::string& name);

// All addresses of a host's name; Error{kInvalidArgument} if it is unknown.
std::vector<Address> resolve(const std::string& host, int port);
// One written in numbers; of length 0 if it is no such.
Address numeric_address(const std::string& host, int port);

Address local_address(int socket);
Address peer_address(int socket);

// Listens at `address`; with port 0 at one that is free. Non-blocking.
Fd listen_at(const Address& address);
// ... on all interfaces, for both versions where the system has them.
Fd listen_everywhere(int port);

// The local address that `entry` of LANE_NICS means: an interface's or one written in numbers.
Address interface_address(const std::string& entry);
// The entry of the comma list that this rank of its host takes; of length 0 for an empty list.
Address pick_interface(const std::string& nics, int local_rank);
// Where other hosts probably reach this one: the local end of the way to `host`, else an interface that is up.
Address outward_address(const std::string& host);
bool is_own_address(const Address& address);

}  // namespace lane
