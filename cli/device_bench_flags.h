#pragma once
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/group_job.h"
#include "lane/net/device_bench.h"

namespace lane::cli {

// Flags of `lane bench allreduce --device cuda` beside those that it shares with the CPU's.
struct DeviceBenchFlags {
  std::string device = "cpu";
  std::vector<std::string> fused;
  int num_nodes = 1, calls_per_graph = 20, num_samples = 1000;
  bool graph = false, eager = false, both = false, cold = false, with_gemm = false;
  double skew_us = 0;

  void add_to(CLI::App& app);
  bool on_gpus() const { return device == "cuda"; }
  // Error{kInvalidArgument} that names a flag which was given and is for the other device.
  void check_device(const CLI::App& app) const;
  // Fills in what these flags say, and throws Error{kInvalidArgument} for what cannot be.
  void add_to(net::DeviceBenchOptions& options) const;
};

struct DeviceBenchJob {
  net::DeviceBenchOptions options;
  GroupFlags group;
  int num_nodes = 1;
  std::string json_file, svg_file;
};
// Starts the ranks, on emulated hosts if the job asks for several, or joins those that were started. Returns the exit
// status for main().
int run_device_bench(const DeviceBenchJob& job, const Program& program);

}  // namespace lane::cli
