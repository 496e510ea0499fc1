#include "lane/net/tune_device.h"

#include <algorithm>
#include <tuple>

namespace lane::net {
namespace {

// Enough for a median that is known within a percent or so; longer vectors, whose times vary less, in shorter graphs.
constexpr int kSamples = 400, kCallsPerGraph = 20;
constexpr int kSamplesOfLong = 100, kCallsOfLong = 5;
constexpr int64_t kLong = 4 << 20;

TuningRow& row_of(DType dtype, TuneResult& result) {
  const int partial_scale = size_of(dtype) == 2 ? 2 : 1;
  std::vector<TuningRow>& rows = result.entry.rows;
  for (TuningRow& row : rows)
    if (row.partial_scale == partial_scale) return row;
  return rows.emplace_back(TuningRow{plan::Collective::kAllReduce, partial_scale, {}});
}

// Another type of the same width replaces what was measured at this size.
void set_point(TuningRow& row, const std::string& algorithm, const TuningPoint& point) {
  auto curve = std::find_if(row.curves.begin(), row.curves.end(),
                            [&](const TuningCurve& each) { return each.algorithm == algorithm; });
  if (curve == row.curves.end()) curve = row.curves.insert(curve, TuningCurve{algorithm, {}});
  const auto at = std::lower_bound(curve->points.begin(), curve->points.end(), point.bytes,
                                   [](const TuningPoint& each, int64_t bytes) { return each.bytes < bytes; });
  if (at != curve->points.end() && at->bytes == point.bytes)
    *at = point;
  else
    curve->points.insert(at, point);
}

}  // namespace

void add_measured(const std::vector<AllReduceRow>& rows, TuneResult& result) {
  TuneLine line;
  for (const AllReduceRow& row : rows) {
    if (row.is_floor || row.is_peer) continue;
    if (row.algorithm == "auto") {
      line.of_model = row.runs;
      continue;
    }
    if (!row.why_not.empty() || row.time.median_s <= 0) {
      ++line.num_passed_over;
      continue;
    }
    ++line.num_measured;
    set_point(row_of(row.dtype, result), row.algorithm,
              {row.bytes, row.time.median_s, std::max(row.time.low_s, 0.0), row.time.high_s, row.time.p99_s});
    if (line.winner.empty() || row.time.median_s < line.winner_s) {
      line.bytes = row.bytes, line.dtype = row.dtype;
      line.winner = row.algorithm, line.winner_s = row.time.median_s;
      line.uncertainty = row.time.uncertainty();
    }
  }
  for (const AllReduceRow& row : rows)
    if (row.algorithm == line.of_model && row.why_not.empty()) line.of_model_s = row.time.median_s;
  if (line.num_measured > 0) result.lines.push_back(line);
}

TuneResult tune_device_all_reduce(Communicator& group, const DeviceTuneOptions& options,
                                  const std::function<void(const DeviceMachine&)>& on_machine,
                                  const std::function<void(int64_t done, int64_t total)>& on_step) {
  DeviceBenchOptions bench{.dtypes = options.dtypes, .algorithms = {"all"}, .check = false};
  // First some calls outside of graphs: NCCL can only start there, and what is recorded before that goes another way.
  bench.graph = false, bench.eager = true, bench.num_samples = bench.calls_per_graph;
  if (!options.sizes.empty()) bench.sizes = {options.sizes.front()};
  bench_device_all_reduce(
      group, bench, on_machine, [](const std::vector<AllReduceRow>&) {}, [](int64_t, int64_t) {});
  bench.graph = true, bench.eager = false;
  TuneResult result;
  result.entry.hardware = group.device_hardware();
  result.entry.ranks_per_node = shape_of(group.fabric().layout);

  const auto first_long = std::upper_bound(options.sizes.begin(), options.sizes.end(), kLong);
  const auto total = static_cast<int64_t>(options.sizes.size() * options.dtypes.size());
  int64_t done = 0;
  const auto measure = [&](std::vector<int64_t> sizes, int samples, int calls) {
    if (sizes.empty()) return;
    bench.sizes = std::move(sizes), bench.num_samples = samples, bench.calls_per_graph = calls;
    on_step(done, total);
    bench_device_all_reduce(
        group, bench, [](const DeviceMachine&) {},
        [&](const std::vector<AllReduceRow>& rows) {
          add_measured(rows, result);
          on_step(++done, total);
        },
        [](int64_t, int64_t) {});
  };
  measure({options.sizes.begin(), first_long}, kSamples, kCallsPerGraph);
  measure({first_long, options.sizes.end()}, kSamplesOfLong, kCallsOfLong);
  group.set_device_algorithm("auto");
  std::stable_sort(result.lines.begin(), result.lines.end(), [](const TuneLine& a, const TuneLine& b) {
    return std::tuple(a.dtype, a.bytes) < std::tuple(b.dtype, b.bytes);
  });
  return result;
}

}  // namespace lane::net
