#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace lane {

// Slurm's notation for hosts, "n[01-03,7]-ib,login" for n01-ib, n02-ib, n03-ib, n7-ib and login; several brackets in
// one name count like digits of a number. Throws Error{kInvalidArgument} that shows what cannot be read.
std::vector<std::string> expand_hostlist(std::string_view text);

// Slurm's notation for the number of tasks of each node, "2(x3),1" for 2, 2, 2, 1.
std::vector<int> expand_tasks_per_node(std::string_view text);

}  // namespace lane
