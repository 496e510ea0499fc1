#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace lane::topology {

struct NumaNode {
  int id = 0;
  std::vector<int> cpus;
  int64_t memory_bytes = 0;
  bool operator==(const NumaNode&) const = default;
};

// What one host is made of, as far as a run on its CPU needs to know: a value that can be saved, edited and loaded.
struct Machine {
  std::string hostname;
  std::string cpu_model;
  std::vector<int> usable_cpus;   // this process may run on; fewer than the host has in a container or under taskset
  double cpu_quota = 0;           // cgroup limit in CPUs; 0: none
  int64_t memory_bytes = 0;       // of the host, or the cgroup's limit if that is lower
  int64_t free_memory_bytes = 0;  // that a new process could take without swapping, at the time of discovery
  std::vector<NumaNode> numa_nodes;
  bool operator==(const Machine&) const = default;

  // CPUs' worth of threads that this process should run: usable CPUs, cut to the quota.
  int num_threads() const;
};

// Reads /proc, /sys and the process's affinity under `root` ("" for this machine; a folder with copies of those files
// in tests). What cannot be read stays at its default: unknown is not an error.
Machine discover(const std::string& root = "");

std::string to_json(const Machine& machine);
Machine machine_from_json(const std::string& text, const std::string& where);  // Error{kCorruptData} on nonsense

// "0-3,8": the form of Linux's cpulist files. Error{kCorruptData} on nonsense.
std::vector<int> parse_cpu_list(std::string_view text);

}  // namespace lane::topology
