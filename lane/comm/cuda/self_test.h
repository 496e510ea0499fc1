#pragma once
#include <functional>
#include <string>
#include <vector>

#include "lane/comm/device_group.h"

namespace lane::cuda {

// Sums vectors by every algorithm that runs here, NCCL's among them, and compares all of them with the sum that is
// known: whole numbers small enough for any order of additions to be exact, so that all have to agree to the bit.
// Throws Error{kDevice}, on all ranks alike, that names the algorithm, the size and the ranks where it was wrong.
// Collective; takes some ten milliseconds, and a second more where NCCL is not started yet.
using Exchange = std::function<std::vector<std::string>(const std::string&)>;
void self_test(DeviceGroup& group, const Exchange& exchange, int rank, int size, Device device);

}  // namespace lane::cuda
