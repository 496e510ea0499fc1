#include "lane/net/tune_all_reduce.h"

#include <algorithm>
#include <optional>

#include "lane/net/measurement.h"
#include "lane/net/timing.h"
#include "lane/net/vectors.h"
#include "lane/plan/schedule.h"

namespace lane::net {
namespace {

constexpr int kBatchesPerTurn = 8, kMostSamples = 400;
constexpr double kHopelessByModel = 4, kHopelessMeasured = 3;
constexpr double kClearlyLost = 1.3;  // its interval begins so far above the end of the best's: it needs no better one

struct Candidate {
  std::string name;
  plan::Cost cost;
  TuningCurve curve;
  std::optional<double> last_ratio;  // to the best, at the size before at which it was measured
  // At the size in progress:
  int calls = 0;  // 0: passed over
  double spent_s = 0;
  std::vector<double> samples;
  Measurement measured;
  bool is_done = false;
};

class Tuner {
 public:
  Tuner(Communicator& group, const TuneOptions& options, DType dtype)
      : group_(group), options_(options), dtype_(dtype), partial_scale_(size_of(dtype) == 2 ? 2 : 1) {
    const plan::Fabric& fabric = group.fabric();
    for (const std::string& name : plan::schedule_names(plan::Collective::kAllReduce, fabric.layout)) {
      const auto schedule = plan::make_schedule(name, plan::Collective::kAllReduce, fabric.layout);
      candidates_.push_back({.name = name,
                             .cost = plan::cost(schedule, plan::Collective::kAllReduce, fabric, partial_scale_),
                             .curve = {name, {}}});
    }
  }

  TuneLine measure_size(int64_t bytes) {
    const int64_t count = std::max<int64_t>(bytes / size_of(dtype_), 1);
    in_ = Buffer(dtype_, {1, 1, 1, count});
    out_ = Buffer(dtype_, {1, 1, 1, count});
    fill(dtype_, ReduceOp::kSum, group_.rank(), count, in_.data());
    choose_candidates(bytes);
    for (bool all_done = false, forward = true; !all_done; forward = !forward) {
      // There and back, so that nobody always comes after the same one.
      for (size_t i = 0; i < candidates_.size(); ++i) take_turn(candidates_[forward ? i : candidates_.size() - 1 - i]);
      all_done = judge();
    }
    return finish(bytes);
  }

  TuningRow row() const {
    TuningRow row{plan::Collective::kAllReduce, partial_scale_, {}};
    for (const Candidate& candidate : candidates_)
      if (!candidate.curve.points.empty()) row.curves.push_back(candidate.curve);
    return row;
  }

 private:
  void call() { group_.all_reduce(in_.view(), out_.view(), ReduceOp::kSum, stream_); }

  void choose_candidates(int64_t bytes) {
    double best_expected_s = candidates_[0].cost.at(bytes);
    for (const Candidate& candidate : candidates_)
      best_expected_s = std::min(best_expected_s, candidate.cost.at(bytes));
    for (Candidate& candidate : candidates_) {
      candidate.samples.clear();
      candidate.spent_s = 0;
      const bool is_hopeless = candidate.cost.at(bytes) > kHopelessByModel * best_expected_s &&
                               candidate.last_ratio.value_or(0) > kHopelessMeasured;
      candidate.is_done = is_hopeless;
      candidate.calls = 0;
      if (is_hopeless) continue;
      group_.set_algorithm(candidate.name);
      candidate.calls = calls_per_batch(estimate_call(group_, stream_, [this] { call(); }));
    }
  }

  void take_turn(Candidate& candidate) {
    if (candidate.is_done) return;
    group_.set_algorithm(candidate.name);
    call();
    const std::vector<double> seconds =
        time_batches(group_, stream_, candidate.calls, kBatchesPerTurn, [this] { call(); });
    for (const double each : seconds) candidate.spent_s += each * candidate.calls;
    candidate.samples.insert(candidate.samples.end(), seconds.begin(), seconds.end());
    candidate.measured = measure(candidate.samples);
  }

  // Who needs no further turn. The samples are the same bits on all ranks, and so is what follows from them.
  bool judge() {
    const Candidate& leader = best();
    bool all_done = true;
    for (Candidate& candidate : candidates_) {
      if (candidate.is_done) continue;
      const Measurement& measured = candidate.measured;
      candidate.is_done = measured.uncertainty() <= options_.confidence || candidate.spent_s > options_.limit_s ||
                          measured.num_samples >= kMostSamples ||
                          measured.low_s > kClearlyLost * leader.measured.high_s;
      all_done = all_done && candidate.is_done;
    }
    return all_done;
  }

  const Candidate& best() const {
    const Candidate* best = nullptr;
    for (const Candidate& candidate : candidates_)
      if (candidate.calls > 0 && (best == nullptr || candidate.measured.median_s < best->measured.median_s))
        best = &candidate;
    ensure(best != nullptr, "somebody was measured");
    return *best;
  }

  TuneLine finish(int64_t bytes) {
    const Candidate& winner = best();
    TuneLine line{.bytes = bytes,
                  .dtype = dtype_,
                  .winner = winner.name,
                  .winner_s = winner.measured.median_s,
                  .uncertainty = winner.measured.uncertainty()};
    const Candidate* expected = &candidates_[0];
    for (Candidate& candidate : candidates_) {
      if (candidate.cost.at(bytes) < expected->cost.at(bytes)) expected = &candidate;
      if (candidate.calls == 0) {
        ++line.num_passed_over;
        continue;
      }
      ++line.num_measured;
      const Measurement& measured = candidate.measured;
      candidate.last_ratio = measured.median_s / line.winner_s;
      candidate.curve.points.push_back({.bytes = bytes,
                                        .median_s = measured.median_s,
                                        .low_s = measured.low_s,
                                        .high_s = measured.high_s,
                                        .p99_s = measured.p99_s});
    }
    line.of_model = expected->name;
    line.of_model_s = expected->calls > 0 ? expected->measured.median_s : 0;
    return line;
  }

  Communicator& group_;
  const TuneOptions& options_;
  DType dtype_;
  int partial_scale_;
  Stream stream_;
  Buffer in_, out_;
  std::vector<Candidate> candidates_;
};

}  // namespace

TuneResult tune_all_reduce(Communicator& group, const TuneOptions& options,
                           const std::function<void(int64_t done, int64_t total)>& on_step) {
  if (group.size() < 2)
    throw Error(ErrorCode::kInvalidArgument, "there is nothing to choose among fewer than two ranks");
  TuneResult result;
  result.entry.hardware = group.hardware();
  result.entry.ranks_per_node = shape_of(group.fabric().layout);
  const auto total = static_cast<int64_t>(options.dtypes.size() * options.sizes.size());
  std::vector<FitSample> samples;
  for (const DType dtype : options.dtypes) {
    Tuner tuner(group, options, dtype);
    for (const int64_t bytes : options.sizes) {
      on_step(static_cast<int64_t>(result.lines.size()), total);
      result.lines.push_back(tuner.measure_size(bytes));
    }
    result.entry.rows.push_back(tuner.row());
    for (const TuningCurve& curve : result.entry.rows.back().curves)
      for (const TuningPoint& point : curve.points)
        samples.push_back({curve.algorithm, result.entry.rows.back().partial_scale, point.bytes, point.median_s});
  }
  group.set_algorithm("auto");
  result.fit = fit_links(group.fabric(), samples);
  result.entry.links = result.fit.links;
  return result;
}

}  // namespace lane::net
