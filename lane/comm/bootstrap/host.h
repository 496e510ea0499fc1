#pragma once
#include <string>

#include "lane/comm/bootstrap/gate.h"

namespace lane {

struct HostIdentity {
  std::string name;      // for messages
  std::string identity;  // ranks share memory if theirs are equal
  void describe(Introduction& introduction) const;
};

// `alias`: what LANE_HOST says, or empty. Ranks in two network namespaces of one machine count as on two hosts: they
// could share memory, but could not meet.
HostIdentity this_host(const std::string& alias);

}  // namespace lane
