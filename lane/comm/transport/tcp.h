#pragma once
#include <memory>
#include <vector>

#include "lane/base/file.h"
#include "lane/comm/transport.h"

namespace lane {

// Links to ranks of other hosts: a connected TCP socket each. `sockets` by rank; where there is none, there is no link.
std::unique_ptr<Transport> make_tcp_transport(std::vector<Fd> sockets);

}  // namespace lane
