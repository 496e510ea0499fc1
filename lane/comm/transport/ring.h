#pragma once
#include <memory>

#include "lane/comm/group/memory.h"
#include "lane/comm/transport.h"
#include "lane/plan/layout.h"

namespace lane {

// Links as rings in memory that the ranks of a host map: between threads or processes of one machine. Multicast reaches
// the ranks of the same node of `layout`, all of which have to be members of `memory`.
std::unique_ptr<Transport> make_ring_transport(std::shared_ptr<GroupMemory> memory, int rank,
                                               const plan::Layout& layout);

}  // namespace lane
