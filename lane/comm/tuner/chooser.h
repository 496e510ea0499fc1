#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "lane/comm/tuning.h"
#include "lane/plan/cost.h"

namespace lane {

// Which schedule runs for a collective: the one that a person forced, else the cheapest by what was measured, else the
// cheapest by the cost model. A pure function of the fabric and the table, so that all ranks come to the same.
class Chooser {
 public:
  // `forced`: the name of an all-reduce schedule, or "auto".
  Chooser(plan::Fabric fabric, bool has_multicast, std::string forced);

  // From here on, what was measured on this hardware counts: the curves if the table has this shape, else its links for
  // the cost model. The same on all ranks.
  void use(const TuningTable& table, const TuningHardware& hardware);
  // From here on, only all-reduces that add in one and the same order, whatever the size; which order, follows from
  // what is fastest for the vectors of decoding.
  void keep_one_order() {
    one_order_ = true;
    candidates_.clear();
  }
  void force(std::string name) { forced_ = std::move(name); }

  const plan::Fabric& fabric() const { return fabric_; }

  // `bytes` of the vector. `partial_scale`: how much larger its elements are while they are partly summed.
  const std::string& choose(plan::Collective collective, int64_t bytes, int partial_scale = 1, int root = 0);
  // "two_shot (4.1 µs measured); one_shot: 1.2 µs more; bruck: not measured"
  std::string explain(plan::Collective collective, int64_t bytes, int partial_scale = 1);

 private:
  struct Candidate {
    std::string name;
    uint64_t order;  // plan::Replay::order; 0 if it is of no matter
    plan::Cost cost;
    std::optional<TuningCurve> measured;
  };
  struct Candidates {
    std::vector<Candidate> list;
    bool are_measured = false;  // then one that was not cannot be chosen: the model is not to be mixed with the world
  };
  const Candidates& candidates(plan::Collective collective, int partial_scale, int root);
  static double seconds(const Candidates& all, const Candidate& candidate, int64_t bytes);
  static int cheapest(const Candidates& all, int64_t bytes);
  static void drop_other_orders(Candidates& all);

  plan::Fabric fabric_;
  bool has_multicast_;
  std::string forced_;
  bool one_order_ = false;
  std::optional<TuningEntry> measured_;
  std::map<std::tuple<plan::Collective, int, int>, Candidates> candidates_;
};

}  // namespace lane
