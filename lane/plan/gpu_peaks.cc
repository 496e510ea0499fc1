#include "lane/plan/gpu_peaks.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <vector>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

struct Known {
  std::string_view part, name;  // `part` of the driver's name; longer ones first
  double tera_flops, tera_bytes_per_s;
  int64_t memory_mib;
};

// NVIDIA's datasheets, dense bfloat16 with float32 accumulation, without sparsity. GB200: half a superchip. GH200 96
// GB: HBM3. RTX 4090 Laptop: 686 AI TOPS are eight times that. The memory is what nvidia-smi shows.
constexpr Known kKnown[] = {
    {"A100-SXM4-40GB", "A100 40 GB", 312, 1.555, 40960},
    {"A100-SXM4-80GB", "A100 80 GB", 312, 2.039, 81920},
    {"A100-PCIE-40GB", "A100 40 GB PCIe", 312, 1.555, 40960},
    {"A100 80GB PCIe", "A100 80 GB PCIe", 312, 1.935, 81920},
    {"H100 PCIe", "H100 PCIe", 756, 2.0, 81559},
    {"H100 NVL", "H100 NVL", 835, 3.9, 95830},
    {"GH200 144G", "GH200 144 GB", 989, 4.9, 146899},
    {"GH200", "GH200 96 GB", 989, 4.0, 97871},
    {"GB200", "GB200", 2500, 8.0, 189471},
    {"B200", "B200", 2250, 7.7, 183359},
    {"H200", "H200", 989, 4.8, 143771},
    {"H100", "H100", 989, 3.35, 81559},
    {"H20", "H20", 148, 4.0, 97871},
    {"L40S", "L40S", 362, 0.864, 46068},
    {"L4", "L4", 121, 0.3, 23034},
    {"RTX 4090 Laptop", "RTX 4090 Laptop", 85.75, 0.576, 16376},
    {"RTX 4090", "RTX 4090", 165.2, 1.008, 24564},
};

}  // namespace

GpuPeaks gpu_peaks(std::string_view name) {
  for (const Known& known : kKnown)
    if (name.find(known.part) != std::string_view::npos)
      return {std::string(known.name), known.tera_flops * 1e12, known.tera_bytes_per_s * 1e12, known.memory_mib << 20};
  std::vector<std::string_view> names;
  for (const Known& known : kKnown) names.push_back(known.name);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("GPU \"{}\": its peaks are not known (known: {}); give --peak-tflops and --read-gb-per-s",
                          name.substr(0, 60), fmt::join(names, ", ")));
}

}  // namespace lane::plan
