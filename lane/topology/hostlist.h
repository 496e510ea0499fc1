#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace lane::topology {

// Slurm's hostlist expressions: "n[01-04,07],login1" is n01 n02 n03 n04 n07 login1; leading zeros stay; several
// brackets multiply. Error{kInvalidArgument} repeats the text and says what is wrong with it; at most `limit` names.
std::vector<std::string> expand_hostlist(std::string_view text, int limit = 1 << 20);

// The shortest usual form of these names, in their order: "n[01-04,07]".
std::string compress_hostlist(const std::vector<std::string>& names);

}  // namespace lane::topology
