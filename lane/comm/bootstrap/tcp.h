#pragma once
#include <memory>

#include "lane/comm/bootstrap.h"
#include "lane/comm/bootstrap/tcp_door.h"

namespace lane {

// Meets at options.rendezvous, or at `door` on rank 0 if there is one already.
Meeting meet_over_tcp(const JoinOptions& options, std::unique_ptr<TcpDoor> door);

// Opens the door of rank 0 at options.rendezvous.
std::unique_ptr<TcpDoor> open_rendezvous(const JoinOptions& options);

}  // namespace lane
