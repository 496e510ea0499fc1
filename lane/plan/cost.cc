#include "lane/plan/cost.h"

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/units.h"
#include "lane/plan/verify.h"

namespace lane::plan {

Cost cost(const Schedule& schedule, Collective collective, const Link& link, double partial_scale) {
  const Replay replayed = replay(schedule, collective);
  const int n = schedule.num_ranks();
  int num_rounds = 0;
  for (const auto& program : schedule.program)
    if (!program.empty()) num_rounds = std::max(num_rounds, program.back().round + 1);

  // Per round and rank: chunks out and chunks in.
  struct Port {
    double out = 0, in = 0;
  };
  std::vector<std::vector<Port>> rounds(num_rounds, std::vector<Port>(n));
  for (int rank = 0; rank < n; ++rank)
    for (size_t i = 0; i < schedule.program[rank].size(); ++i) {
      const Step& step = schedule.program[rank][i];
      if (step.action != Action::kSend) continue;
      const int count = replayed.num_contributions[rank][i];
      const double size = count > 1 && count < n ? partial_scale : 1;
      rounds[step.round][rank].out += size;
      rounds[step.round][step.peer].in += size;
    }

  Cost total;
  for (const auto& ports : rounds) {
    double busiest = 0;
    for (const Port& port : ports) busiest = std::max({busiest, port.out, port.in});
    if (busiest == 0) continue;
    total.fixed_s += link.latency_s;
    total.s_per_byte += busiest / schedule.num_chunks / link.bytes_per_s;
  }
  return total;
}

int cheapest(const std::vector<Candidate>& candidates, int64_t bytes) {
  ensure(!candidates.empty(), "there is something to choose from");
  int best = 0;
  for (int i = 1; i < static_cast<int>(candidates.size()); ++i)
    if (candidates[i].cost.at(bytes) < candidates[best].cost.at(bytes)) best = i;
  return best;
}

std::string explain(const std::vector<Candidate>& candidates, int64_t bytes) {
  const int best = cheapest(candidates, bytes);
  const double best_s = candidates[best].cost.at(bytes);
  std::string text = candidates[best].name + " (" + format_duration(best_s) + " expected)";
  for (int i = 0; i < static_cast<int>(candidates.size()); ++i) {
    if (i == best) continue;
    const double s = candidates[i].cost.at(bytes);
    text += "; " + candidates[i].name + ": " +
            (s > best_s ? format_duration(s - best_s) + " more" : std::string("the same, but later in the list"));
  }
  return text;
}

}  // namespace lane::plan
