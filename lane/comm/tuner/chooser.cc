#include "lane/comm/tuner/chooser.h"

#include <algorithm>
#include <cmath>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/plan/verify.h"

namespace lane {

Chooser::Chooser(plan::Fabric fabric, bool has_multicast, std::string forced)
    : fabric_(std::move(fabric)), has_multicast_(has_multicast), forced_(std::move(forced)) {}

void Chooser::use(const TuningTable& table, const TuningHardware& hardware) {
  candidates_.clear();
  measured_.reset();
  const std::vector<int> shape = shape_of(fabric_.layout);
  std::optional<TuningLinks> links = table.links(hardware, shape.size() > 1);
  if (const TuningEntry* entry = table.find(hardware, shape)) {
    measured_ = *entry;
    if (entry->links) links = entry->links;
  }
  if (!links) return;
  fabric_.local = links->local;
  if (shape.size() > 1) fabric_.remote = links->remote;
}

const Chooser::Candidates& Chooser::candidates(plan::Collective collective, int partial_scale, int root) {
  Candidates& known = candidates_[{collective, partial_scale, root}];
  if (!known.list.empty()) return known;
  const TuningRow* row = measured_ ? measured_->find(collective, partial_scale) : nullptr;
  for (const std::string& name : plan::schedule_names(collective, fabric_.layout)) {
    if (!has_multicast_ && name.find("multicast") != std::string::npos) continue;
    const plan::Schedule schedule = plan::make_schedule(name, collective, fabric_.layout, root);
    const TuningCurve* curve = row != nullptr ? row->find(name) : nullptr;
    const bool orders_count = one_order_ && collective == plan::Collective::kAllReduce;
    known.list.push_back({name, orders_count ? plan::replay(schedule, collective, fabric_.layout).order : 0,
                          plan::cost(schedule, collective, fabric_, partial_scale),
                          curve != nullptr ? std::optional(*curve) : std::nullopt});
    known.are_measured |= curve != nullptr;
  }
  ensure(!known.list.empty(), "there is something to choose from");
  if (one_order_ && collective == plan::Collective::kAllReduce) drop_other_orders(known);
  return known;
}

// Of the orders that there are, the one whose best schedules take the least time (as a geometric mean) from 4 to 256
// KiB.
void Chooser::drop_other_orders(Candidates& all) {
  std::map<uint64_t, double> log_seconds;
  for (const int64_t bytes : {4 << 10, 16 << 10, 64 << 10, 256 << 10}) {
    std::map<uint64_t, double> best;
    for (const Candidate& candidate : all.list) {
      double& known = best.try_emplace(candidate.order, INFINITY).first->second;
      known = std::min(known, seconds(all, candidate, bytes));
    }
    for (const auto& [order, best_s] : best) log_seconds[order] += std::log(std::max(best_s, 1e-12));
  }
  log_seconds.erase(0);  // an order that depends on the place in the vector
  const auto fastest = std::min_element(log_seconds.begin(), log_seconds.end(),
                                        [](const auto& a, const auto& b) { return a.second < b.second; });
  ensure(fastest != log_seconds.end(), "one_shot adds all chunks in one order");
  std::erase_if(all.list, [order = fastest->first](const Candidate& one) { return one.order != order; });
}

double Chooser::seconds(const Candidates& all, const Candidate& candidate, int64_t bytes) {
  if (!all.are_measured) return candidate.cost.at(bytes);
  return candidate.measured ? candidate.measured->at(std::max<int64_t>(bytes, 1), candidate.cost) : INFINITY;
}

int Chooser::cheapest(const Candidates& all, int64_t bytes) {
  int best = 0;
  for (int i = 1; i < static_cast<int>(all.list.size()); ++i)
    if (seconds(all, all.list[i], bytes) < seconds(all, all.list[best], bytes)) best = i;
  return best;
}

const std::string& Chooser::choose(plan::Collective collective, int64_t bytes, int partial_scale, int root) {
  if (collective == plan::Collective::kAllReduce && forced_ != "auto") return forced_;
  const Candidates& all = candidates(collective, partial_scale, root);
  return all.list[cheapest(all, bytes)].name;
}

std::string Chooser::explain(plan::Collective collective, int64_t bytes, int partial_scale) {
  if (collective == plan::Collective::kAllReduce && forced_ != "auto")
    return forced_ + ", because LANE_ALGORITHM or the caller forces it";
  const Candidates& all = candidates(collective, partial_scale, 0);
  const int best = cheapest(all, bytes);
  const double best_s = seconds(all, all.list[best], bytes);
  std::string text =
      all.list[best].name + " (" + format_duration(best_s) + (all.are_measured ? " measured)" : " expected)");
  for (int i = 0; i < static_cast<int>(all.list.size()); ++i) {
    if (i == best) continue;
    const double s = seconds(all, all.list[i], bytes);
    text += "; " + all.list[i].name + ": ";
    if (!std::isfinite(s))
      text += "not measured, " + format_duration(all.list[i].cost.at(bytes)) + " expected";
    else if (s > best_s)
      text += format_duration(s - best_s) + " more";
    else
      text += "the same, but later in the list";
  }
  return text;
}

}  // namespace lane
