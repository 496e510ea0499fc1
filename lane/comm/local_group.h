#pragma once
#include <vector>

#include "lane/comm/communicator.h"

namespace lane {

// A group whose ranks are threads of this process, for tests: give each thread one of them. rank, size and job of
// `options` are ignored.
std::vector<Communicator> make_local_group(int num_ranks, JoinOptions options = {});

}  // namespace lane
