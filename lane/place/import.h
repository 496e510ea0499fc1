#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/topology/topology.h"

namespace lane::place {

// Descriptions of a cluster that can be read (docs/placement.md shows one of each).
enum class Format : uint8_t {
  kJson,           // Lane's own, or what `lane doctor --json` printed
  kSlurmConf,      // topology.conf of topology/tree or topology/block
  kSlurmYaml,      // topology.yaml: tree, block or flat
  kIbnetdiscover,  // what ibnetdiscover printed
  kCsv,            // node,rack,leaf,spine,gpus,nvlink_domain,free,busy
  kHosts,          // a host list n[01-16], or a hostfile of mpirun: all on one switch
};
std::string_view name_of(Format format);  // "json", "slurm-conf", "slurm-yaml", "ibnetdiscover", "csv", "hosts"
std::optional<Format> format_of(std::string_view name);
std::vector<std::string> format_names();

// What most of these formats leave open. It is taken from here, and a note says so.
struct HostDefaults {
  int num_gpus = 0;                    // 0: what such hosts usually have
  std::string gpu = "";                // one of gpu_kinds(); "": h100
  int num_nics = 0;                    // 0: one for each GPU
  double nic_gbit_per_s = 0;           // 0: what such hosts usually have
  bool leaf_is_nvlink_domain = false;  // GPUs under one leaf switch or block are one NVLink domain, as in an NVL72 rack
};
std::vector<std::string> gpu_kinds();

struct ImportOptions {
  std::optional<Format> format;  // else told by the text
  HostDefaults hosts;
  std::string topology;  // which one of a topology.yaml; empty: its cluster_default, else the first
  std::string nodes;     // the hosts, where the file names none (flat): a host list
};

struct Imported {
  topology::Topology topology;
  Format format = Format::kJson;
  std::vector<std::string> notes;  // what was assumed or left out, for people
};

// Error{kCorruptData} names file and line: nodes or switches that come twice, negative counts, unknown switches,
// cycles, parts that cannot reach each other. The result has passed topology::check().
Imported import_topology(const std::string& text, const std::string& where, const ImportOptions& options = {});

// Marks as busy all GPUs but these. `text`: entries HOSTS or HOSTS:GPUS on lines of their own or between ';', as in
// "n[01-04]; n05:0-3,6". Error{kInvalidArgument} names `where` and the entry.
void set_free(topology::Topology& topology, const std::string& text, const std::string& where);

}  // namespace lane::place
