#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "lane/topology/topology.h"

namespace lane::topology {

// Clusters that can be bought or visited, from their datasheets: what to plan with before there is a machine to look
// at. presets.cc names the sources. `num_hosts` 0: the preset's usual size. An unknown name is Error{kInvalidArgument}
// that lists those there are.
Topology preset(std::string_view name, int num_hosts = 0);

struct PresetInfo {
  std::string_view name;  // "h100-dgx-ndr"
  std::string_view what;
  int num_hosts;
};
const std::vector<PresetInfo>& presets();

}  // namespace lane::topology
