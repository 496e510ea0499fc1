#include "cli/ceilings.h"

#include <fmt/format.h>

#include "lane/base/error.h"
#include "lane/device/device_info.h"
#include "lane/plan/gpu_peaks.h"
#include "lane/profile/roofline.h"
#include "lane/topology/machine.h"

namespace lane::cli {

namespace {

double peak_flops_of(Device gpu) {
  try {
    return plan::gpu_peaks(device_info(gpu).name).flops_per_s;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;
    return 0;  // a GPU that is not in the table
  }
}

}  // namespace

Ceilings find_ceilings(const EngineFlags& flags, const Session& session, Communicator& group) {
  const Device device = flags.session.device;
  if (device.kind == DeviceKind::kCpu) {
    if (group.rank() != 0) return {};
    // On as many threads as all ranks had together.
    const int threads = flags.session.num_threads;
    ThreadPool all_threads(threads > 0 ? threads * group.size() : topology::discover().num_threads());
    return {.read_bytes_per_s = profile::measure_read_bandwidth(all_threads)};
  }
  const double read = profile::measure_read_bandwidth(device);
  const double flops = session.dtype() == DType::kF32 ? 0 : peak_flops_of(device);
  std::vector<Ceilings> ranks;
  for (const std::string& text : group.gather_text(Json{{"read", read}, {"flops", flops}}.dump(), 0)) {
    const Json json = parse_json(text, "a rank's ceilings");
    ranks.push_back({.read_bytes_per_s = json.at("read"), .flops_per_s = json.at("flops")});
  }
  return add_up(ranks);
}

Ceilings add_up(std::span<const Ceilings> ranks) {
  Ceilings all;
  bool knows_read = true, knows_flops = true;
  for (const Ceilings& rank : ranks) {
    all.read_bytes_per_s += rank.read_bytes_per_s, all.flops_per_s += rank.flops_per_s;
    all.read_bytes_per_s_of_ranks.push_back(rank.read_bytes_per_s);
    knows_read &= rank.read_bytes_per_s > 0, knows_flops &= rank.flops_per_s > 0;
  }
  if (!knows_read) all.read_bytes_per_s = 0;
  if (!knows_flops) all.flops_per_s = 0;
  return all;
}

Json share_of(double value, double ceiling) { return value > 0 && ceiling > 0 ? Json(value / ceiling) : Json(); }

std::string percent_of(double value, double ceiling) {
  return value > 0 && ceiling > 0 ? fmt::format("{:.1f} %", 100 * value / ceiling) : "unknown";
}

}  // namespace lane::cli
