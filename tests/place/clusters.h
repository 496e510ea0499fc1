// Clusters for tests of placement.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/place/place.h"

namespace lane::place {

struct HostSpec {
  std::string leaf;
  std::vector<int> free;  // indices
  int num_gpus = 8;
  std::string domain = "", rack = "";
  bool has_nvlink = true;
};

// Hosts h0, h1, ...; the leaves "a..." are below one spine, "b..." below another, and so on, all below one core.
inline topology::Topology cluster(const std::vector<HostSpec>& specs) {
  topology::Topology topology;
  std::vector<std::string> seen;
  const auto add = [&](const std::string& name, int level, std::vector<std::string> parents) {
    for (const std::string& other : seen)
      if (other == name) return;
    seen.push_back(name);
    topology.switches.push_back({.name = name, .level = level, .parents = std::move(parents)});
  };
  for (size_t i = 0; i < specs.size(); ++i) {
    const HostSpec& spec = specs[i];
    topology::Host host{.name = "h" + std::to_string(i), .rack = spec.rack, .leaf_switch = spec.leaf};
    for (int g = 0; g < spec.num_gpus; ++g) {
      host.gpus.push_back({.index = g,
                           .sm = 90,
                           .pcie = {.max_gt_per_s = 32, .max_width = 16},
                           .num_nvlinks = spec.has_nvlink ? 18 : 0,
                           .nvlink_gb_per_s = 26.562,
                           .nvlink_domain = spec.domain,
                           .is_busy = true});
      host.nics.push_back({.name = "mlx5_" + std::to_string(g),
                           .kind = topology::NicKind::kInfiniband,
                           .role = topology::NicRole::kCompute,
                           .ports = {{.gbit_per_s = 400}},
                           .rail = g});
    }
    for (const int g : spec.free) host.gpus[g].is_busy = false;
    topology.hosts.push_back(std::move(host));
    const std::string spine = std::string("spine-") + spec.leaf[0];
    add(spec.leaf, 1, {spine});
    add(spine, 2, {"core"});
    add("core", 3, {});
  }
  topology::check(topology, "test");
  return topology;
}

inline std::vector<int> first(int count) {
  std::vector<int> list;
  for (int i = 0; i < count; ++i) list.push_back(i);
  return list;
}

// A model that any plan of these tests can cut.
inline Job job_for(int tensor, int pipeline, int replicas) {
  Job job;
  job.shape = {.vocab_size = 32000,
               .hidden_size = 8192,
               .intermediate_size = 28672,
               .num_layers = 24,
               .num_heads = 1440,
               .num_kv_heads = 1440,
               .head_dim = 128};
  job.plan = {tensor, pipeline, replicas};
  return job;
}

inline std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

inline std::string sample(const std::string& name) {
  return read_file(std::string(LANE_SOURCE_DIR) + "/tests/place/samples/" + name);
}

}  // namespace lane::place
