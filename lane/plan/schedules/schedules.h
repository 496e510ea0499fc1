// Private to lane/plan: one maker per algorithm; registry.cc gives them names. n is the number of ranks.
#pragma once
#include <vector>

#include "lane/plan/schedules/transfers.h"

namespace lane::plan {

// All-gathers: rank r starts with chunk r of n.
Transfers direct_all_gather(int n);
Transfers multicast_all_gather(int n);
Transfers ring_all_gather(int n);
Transfers bruck_all_gather(int n);

// The halves of an all-reduce. Those of direct are two_shot; those of multicast scatter directly.
Halves direct_halves(int n);
Halves multicast_halves(int n);
Halves ring_halves(int n);
Halves bruck_halves(int n);
Halves halving_doubling_halves(int n);

// All-reduces that are not made of halves.
Transfers one_shot_all_reduce(int n);
Transfers one_shot_multicast_all_reduce(int n);
Transfers recursive_doubling_all_reduce(int n);
Transfers double_tree_all_reduce(int n, int num_pieces);

Transfers direct_broadcast(int n, int root);
Transfers multicast_broadcast(int n, int root);
Transfers binomial_broadcast(int n, int root);

Transfers direct_gather(int n, int root);
Transfers binomial_gather(int n, int root);

Transfers direct_all_to_all(int n);
Transfers bruck_all_to_all(int n);

// First inside the nodes, then between them, then inside again. `inside` and `between` make the parts for a number of
// ranks.
Transfers hierarchical_all_reduce(const Layout& layout, Halves (*inside)(int n), const Transfers& between);
Transfers hierarchical_all_gather(const Layout& layout, Transfers (*inside)(int n), const Transfers& between);
Transfers hierarchical_broadcast(const Layout& layout, Transfers (*inside)(int n, int root),
                                 Transfers (*between)(int n, int root), int root);

}  // namespace lane::plan
