#pragma once
#include <string>
#include <vector>

#include "lane/base/file.h"
#include "tools/netlab/topology.h"

namespace lane::netlab {

struct HostOptions {
  std::string socket;        // where the host's programs reach the laboratory
  bool private_tmp = false;  // a /tmp of its own, empty
};

// One emulated host: network, hostname, mounts (/dev/shm, /etc/hosts, what /sys says of networks) and System V memory
// of its own. It has no name anywhere: it lives as long as this object or a process in it.
class HostSpace {
 public:
  // Makes the host and comes back out of it. The caller has a mount namespace of its own and one thread. Throws
  // Error{kUnsupported} where the system forbids it.
  HostSpace(const Topology& topology, int index, const HostOptions& options);

  int tun() const { return tun_.get(); }            // packets of this host, one a read or write
  int listener() const { return listener_.get(); }  // of HostOptions::socket
  void close_tun() { tun_ = Fd(); }                 // the device lives as long as somebody has it open

  // Moves the calling process, which has one thread, into the host; its working directory becomes `directory`, or "/"
  // if the host has none of that name. False with errno.
  bool enter(const std::string& directory) const;

 private:
  std::vector<Fd> namespaces_;
  Fd tun_, listener_;
};

// Gives this process root's rights over namespaces of its own if it is not root. Throws Error{kUnsupported} with one
// sentence if it cannot, or if the machine lacks /dev/net/tun.
void become_able();

// Namespaces for this process like those of a host, to which making hosts can come back: a user may not come back to
// the machine's own. /proc shows the process namespace.
void separate();

inline constexpr const char* kDevice = "eth0";

}  // namespace lane::netlab
