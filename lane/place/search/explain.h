// Private to lane/place: words about a placement, and about why there is none.
#pragma once
#include <string>
#include <vector>

#include "lane/place/search/bound.h"

namespace lane::place {

// What the slowest replica spans, what a better one would need and what it would gain.
std::vector<std::string> explain(const plan::Reach& reach, const Cluster& cluster, Pricer& pricer,
                                 const Result& result);

// "needs 3 groups of 16 GPUs: ...; there are ...".
std::string what_is_missing(const Cluster& cluster, const Job& job, size_t num_placed, bool is_proved);

}  // namespace lane::place
