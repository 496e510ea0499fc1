// Private to lane/plan: one maker per schedule; registry.cc gives them names.
#pragma once
#include "lane/plan/schedule.h"

namespace lane::plan {

Schedule one_shot_all_reduce(int num_ranks);
Schedule two_shot_all_reduce(int num_ranks);
Schedule ring_all_reduce(int num_ranks);
Schedule direct_reduce_scatter(int num_ranks);
Schedule direct_all_gather(int num_ranks);
Schedule direct_broadcast(int num_ranks, int root);
Schedule direct_gather(int num_ranks, int root);
Schedule binomial_broadcast(int num_ranks, int root);

}  // namespace lane::plan
