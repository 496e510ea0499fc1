#pragma once
#include <memory>

#include "lane/comm/bootstrap.h"
#include "lane/comm/communicator.h"
#include "lane/comm/transport.h"

namespace lane {

// What carries data between hosts, as LANE_TRANSPORT says; null if all ranks are on one host. Takes the sockets out of
// the meeting.
std::unique_ptr<Transport> make_network_transport(const JoinOptions& options, Meeting& meeting);

}  // namespace lane
