// What all-reduces took among GPUs: the tables that Lane ships and those that `lane tune --device cuda` made.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lane/comm/tuning.h"

namespace lane::cuda {

// Calls in CUDA graphs, for elements of one width; names of algorithms are those of choice.h.
struct MeasuredRow {
  std::string source;  // "measured on 4x NVIDIA H200"
  TuningRow row;
};

// Where it was measured: `gpu` as its driver calls it.
struct GpuGroup {
  std::string gpu;
  int ranks_per_node = 1, num_nodes = 1;
};

// "NVIDIA H200"; of GPUs that differ, all their names, which no table is for.
std::string name_of_gpus(std::vector<std::string> by_rank);

// Under this a tuning table has what was measured on GPUs. `fabric`: "peer memory (VMM)".
TuningHardware hardware_of_gpus(TuningHardware host, const std::string& gpu, const std::string& fabric);

// At most one row for each width of elements: of `table`, else a shipped one. Null: there is none.
std::shared_ptr<const std::vector<MeasuredRow>> find_measured(const GpuGroup& group, const TuningHardware& hardware,
                                                              const TuningTable& table);

struct ShippedPoint {
  int64_t bytes;
  double us;
};
struct ShippedCurve {
  std::string_view gpu;
  int ranks_per_node, num_nodes;
  int element_bits;
  std::string_view algorithm;
  std::span<const ShippedPoint> points;  // ascending by bytes
};
std::span<const ShippedCurve> shipped_curves();

}  // namespace lane::cuda
