#pragma once
#include <vector>

#include "lane/comm/communicator.h"
#include "lane/plan/layout.h"

namespace lane {

// A group whose ranks are threads of this process, for tests: give each thread one of them. rank, size and job of
// `options` are ignored. `layout`: the nodes to pretend, all joined by shared memory; empty: one.
std::vector<Communicator> make_local_group(int num_ranks, JoinOptions options = {}, plan::Layout layout = {});

}  // namespace lane
