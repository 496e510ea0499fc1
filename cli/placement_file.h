#pragma once
#include <string>
#include <vector>

#include "lane/topology/topology.h"

namespace lane::cli {

// Which GPU each rank is on, from what `lane place --format json` writes. `num_ranks` 0: as many as there are. Throws
// Error{kCorruptData} that names `where` if it is not such a file, or is for another topology or number of ranks.
std::vector<topology::GpuRef> parse_placement(const std::string& text, const std::string& where,
                                              const topology::Topology& topology, int num_ranks);

}  // namespace lane::cli
