#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

// The way out of or into one rank: t = latency_s + bytes / bytes_per_s for all it carries in one round (alpha-beta,
// Hockney 1994). The rank's own work on the bytes (copying, adding) is part of bytes_per_s.
struct Link {
  double latency_s = 0, bytes_per_s = 1;
};

// What a collective costs is linear in the size of its vector.
struct Cost {
  double fixed_s = 0, s_per_byte = 0;
  double at(int64_t bytes) const { return fixed_s + s_per_byte * static_cast<double>(bytes); }
};

// Round by round, the latency and the time of the busiest link. `partial_scale`: how much larger a chunk is while it
// is partly summed (2 for 16-bit types, which travel as float32 then).
Cost cost(const Schedule& schedule, Collective collective, const Link& link, double partial_scale = 1);

struct Candidate {
  std::string name;
  Cost cost;
};

// The index of the cheapest candidate; of equal ones the first. And why, with what the others would cost.
int cheapest(const std::vector<Candidate>& candidates, int64_t bytes);
std::string explain(const std::vector<Candidate>& candidates, int64_t bytes);

}  // namespace lane::plan
