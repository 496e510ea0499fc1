#include "lane/plan/simulate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "lane/base/random.h"
#include "lane/plan/cost.h"

namespace lane::plan {
namespace {

constexpr Collective kCollectives[] = {Collective::kAllReduce, Collective::kReduceScatter, Collective::kAllGather,
                                       Collective::kBroadcast, Collective::kGather,        Collective::kAllToAll};
constexpr Link kLocal{.latency_s = 1e-6, .bytes_per_s = 100e9, .message_s = 2e-7};
constexpr Link kRemote{.latency_s = 4e-6, .bytes_per_s = 40e9, .message_s = 3e-7};

Fabric without_charges(Fabric fabric) {
  fabric.local.message_s = fabric.remote.message_s = 0;
  return fabric;
}

struct Both {
  double simulated, priced;
};

TEST(Explore, All) {
  std::vector<Fabric> fabrics;
  for (int n : {2, 3, 4, 5, 7, 8, 13, 16, 24}) fabrics.push_back(Fabric::one_node(n, kLocal));
  for (int g : {1, 2, 3, 4, 8})
    for (int nodes : {2, 3, 4, 5, 8}) fabrics.push_back({Layout::uniform(nodes, g), kLocal, kRemote});
  fabrics.push_back({Layout::of_sizes({3, 1, 2}), kLocal, kRemote});
  fabrics.push_back({Layout::of_sizes({4, 4, 1}), kLocal, kRemote});
  std::map<std::string, std::array<int, 3>> tally;
  std::map<std::string, double> worst;
  for (const Fabric& with : fabrics)
    for (bool charges : {false, true})
      for (const Collective collective : kCollectives)
        for (const std::string& name : schedule_names(collective, with.layout))
          for (double bytes : {0.0, 1e5, 1.6e7}) {
            const Fabric fabric = charges ? with : without_charges(with);
            if (fabric.layout.num_ranks() > 16 && collective == Collective::kAllToAll) continue;
            const Schedule schedule = make_schedule(name, collective, fabric.layout);
            const Network network(fabric);
            Workload w = workload_of(exchange_of(schedule, collective, fabric.layout, bytes), network);
            if (std::getenv("RNDV")) w.exchanges[0].eager_bytes = 0;
            const Simulation s = simulate(w);
            const double priced = cost(schedule, collective, fabric).at(static_cast<int64_t>(bytes));
            const double rel = priced == 0 ? 0 : s.makespan_s / priced - 1;
            const double tol = 1e-12 * 4 * (schedule.num_rounds() + 1) ;
            const int k = std::abs(s.makespan_s - priced) <= tol ? 0 : rel < 0 ? 1 : 2;
            std::string key = std::string(name_of(collective)) + " " + name + (charges ? " charges" : "");
            ++tally[key][k];
            if (k == 2) { worst[key] = std::max(worst[key], rel); if (std::getenv("V")) printf("   %s ranks %d nodes %d bytes %g sim %g cost %g\n", key.c_str(), fabric.layout.num_ranks(), fabric.layout.num_nodes(), bytes, s.makespan_s, priced);}
            if (schedule.num_ranks() <= 16) {
              const Simulation u = simulate(w, {.fold = false});
              EXPECT_EQ(u.makespan_s, s.makespan_s) << key;
            }
          }
  for (auto& [key, t] : tally) printf("%-60s equal %4d less %4d more %4d worst %+.3f\n", key.c_str(), t[0], t[1], t[2], worst[key]);
}

}  // namespace
}  // namespace lane::plan
