#pragma once
#include <memory>

#include "lane/comm/group/memory.h"
#include "lane/comm/transport.h"

namespace lane {

// Links as rings in memory that all ranks of the group map: between threads or processes of one machine.
std::unique_ptr<Transport> make_ring_transport(std::shared_ptr<GroupMemory> memory, int rank);

}  // namespace lane
