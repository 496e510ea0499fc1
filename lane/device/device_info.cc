#include "lane/device/device_info.h"

#include <algorithm>
#include <charconv>

#include "lane/base/error.h"
#include "lane/device/impl/backend.h"

namespace lane {
namespace {

constexpr int kLeastSm = 80;

// Whether code for `architecture` runs on GPUs of `sm` (CUDA programming guide, "Application compatibility"): machine
// code ("-real") on its own major version from its minor version on, PTX on everything newer. What is for one
// architecture or family alone has a letter (a, f). Names in place of numbers ("native") are taken to fit.
bool runs_on(std::string_view architecture, int sm) {
  int number = 0;
  const auto [end, error] = std::from_chars(architecture.data(), architecture.data() + architecture.size(), number);
  if (error != std::errc{}) return true;
  const std::string_view rest = architecture.substr(static_cast<size_t>(end - architecture.data()));
  if (rest.starts_with('a')) return sm == number;
  if (rest.starts_with('f') || rest == "-real") return sm / 10 == number / 10 && sm >= number;
  return sm >= number;
}

std::string with_point(int sm) { return std::to_string(sm / 10) + "." + std::to_string(sm % 10); }

}  // namespace

std::string why_not_usable(const DeviceInfo& gpu) { return why_not_usable(gpu, impl::cuda_architectures()); }

std::string why_not_usable(const DeviceInfo& gpu, std::string_view architectures) {
  const std::string what = gpu.name + " is of compute capability " + with_point(gpu.sm);
  if (gpu.sm < kLeastSm) return what + "; " + with_point(kLeastSm) + " (A100) or newer is needed";
  for (std::string_view rest = architectures; !rest.empty();) {
    const std::string_view architecture = rest.substr(0, rest.find(' '));
    if (runs_on(architecture, gpu.sm)) return {};
    rest.remove_prefix(std::min(rest.size(), architecture.size() + 1));
  }
  return what + ", and this build has kernels for " + std::string(architectures) +
         " only; configure with -DCMAKE_CUDA_ARCHITECTURES=" + std::to_string(gpu.sm);
}

DeviceInfo device_info(Device gpu) {
  ensure(gpu.kind == DeviceKind::kCuda, "a GPU is asked about");
  return impl::cuda_device_info(gpu.index);
}

int num_gpus(std::string* why_none) {
  std::string reason;
  const int count = impl::cuda_device_count(&reason);
  if (why_none != nullptr) *why_none = reason;
  return count;
}

}  // namespace lane
