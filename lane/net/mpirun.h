#pragma once
#include <string>
#include <vector>

namespace lane::net {

// Starts this program again under Open MPI's mpirun, as `num_ranks` ranks on this host, with the arguments that follow
// the program's name; returns the exit status. Lane's ranks choose their cores themselves. Error{kUnsupported} when
// there is no mpirun.
int run_under_mpirun(int num_ranks, const std::vector<std::string>& arguments);

}  // namespace lane::net
