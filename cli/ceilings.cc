#include "cli/ceilings.h"

#include <fmt/format.h>

#include "lane/base/error.h"
#include "lane/device/device_info.h"
#include "lane/plan/gpu_peaks.h"
#include "lane/profile/roofline.h"
#include "lane/topology/machine.h"

namespace lane::cli {

Ceilings find_ceilings(const EngineFlags& flags, const Session& session, int num_ranks) {
  Ceilings ceilings;
  if (flags.session.device.kind == DeviceKind::kCpu) {
    // On as many threads as all ranks had together.
    const int threads = flags.session.num_threads;
    ThreadPool all_threads(threads > 0 ? threads * num_ranks : topology::discover().num_threads());
    ceilings.read_bytes_per_s = profile::measure_read_bandwidth(all_threads);
    return ceilings;
  }
  // All ranks' GPUs are taken to be like this one.
  ceilings.read_bytes_per_s = num_ranks * profile::measure_read_bandwidth(flags.session.device);
  if (session.dtype() == DType::kF32) return ceilings;
  try {
    ceilings.flops_per_s = num_ranks * plan::gpu_peaks(device_info(flags.session.device).name).flops_per_s;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) throw;  // else: a GPU that is not in the table
  }
  return ceilings;
}

Json share_of(double value, double ceiling) { return value > 0 && ceiling > 0 ? Json(value / ceiling) : Json(); }

std::string percent_of(double value, double ceiling) {
  return value > 0 && ceiling > 0 ? fmt::format("{:.1f} %", 100 * value / ceiling) : "unknown";
}

}  // namespace lane::cli
