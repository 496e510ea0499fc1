#include "lane/comm/cuda/measured.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

namespace lane::cuda {
namespace {

// Of a tuning table: 16-bit types are twice as wide while they are partly summed.
int partial_scale_of(int element_bits) { return 32 / element_bits; }

MeasuredRow shipped(const GpuGroup& group, int partial_scale) {
  MeasuredRow result;
  result.source = fmt::format("measured on {}x {}", group.ranks_per_node * group.num_nodes, group.gpu);
  result.row.partial_scale = partial_scale;
  for (const ShippedCurve& curve : shipped_curves()) {
    if (curve.gpu != group.gpu || curve.ranks_per_node != group.ranks_per_node || curve.num_nodes != group.num_nodes ||
        partial_scale_of(curve.element_bits) != partial_scale)
      continue;
    TuningCurve& added = result.row.curves.emplace_back(TuningCurve{std::string(curve.algorithm), {}});
    for (const ShippedPoint& point : curve.points) {
      const double seconds = point.us * 1e-6;
      added.points.push_back({point.bytes, seconds, seconds, seconds, seconds});
    }
  }
  return result;
}

}  // namespace

std::string name_of_gpus(std::vector<std::string> by_rank) {
  return fmt::format("{}", fmt::join(std::set<std::string>(by_rank.begin(), by_rank.end()), " + "));
}

TuningHardware hardware_of_gpus(TuningHardware host, const std::string& gpu, const std::string& fabric) {
  host.transport = fmt::format("cuda: {}, {}", gpu, fabric);
  return host;
}

std::shared_ptr<const std::vector<MeasuredRow>> find_measured(const GpuGroup& group, const TuningHardware& hardware,
                                                              const TuningTable& table) {
  std::vector<MeasuredRow> rows;
  const std::vector<int> shape(static_cast<size_t>(group.num_nodes), group.ranks_per_node);
  const TuningEntry* entry = table.find(hardware, shape);
  for (const int partial_scale : {1, 2}) {
    const TuningRow* row = entry != nullptr ? entry->find(plan::Collective::kAllReduce, partial_scale) : nullptr;
    rows.push_back(row != nullptr ? MeasuredRow{"measured here", *row} : shipped(group, partial_scale));
    if (rows.back().row.curves.empty()) rows.pop_back();
  }
  return rows.empty() ? nullptr : std::make_shared<const std::vector<MeasuredRow>>(std::move(rows));
}

}  // namespace lane::cuda
