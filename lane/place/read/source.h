// Private to lane/place: what the readers of cluster descriptions share.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "lane/place/import.h"

namespace lane::place {

inline constexpr int kMaxHosts = 1 << 17;
inline constexpr int kMaxGpusPerHost = 1024;

// A text and how to complain about a line of it. Lines count from 1; 0: the text as a whole.
struct Source {
  const std::string& text;
  const std::string& where;
  std::vector<std::string> notes = {};

  [[noreturn]] void refuse(int line, const std::string& what) const;  // Error{kCorruptData} "file:line: what"
  std::vector<std::string> expand(const std::string& hostlist, int line) const;
  int64_t number(std::string_view text, int line, const char* what, int64_t least, int64_t most) const;
};

std::string_view trimmed(std::string_view text);
std::vector<std::string_view> lines_of(std::string_view text);  // without their ends, "\r\n" too
std::string lower(std::string_view text);
bool is_host_name(std::string_view text);

// A switch as a file describes it: what hangs on it.
struct SwitchEntry {
  std::string name;
  int line = 0;
  std::vector<std::string> nodes, switches;
};

// Adds the switches, with levels from the bottom, and hosts that know no more than name and leaf.
void add_tree(const Source& source, const std::vector<SwitchEntry>& entries, topology::Topology& topology);
// Blocks in their order; `sizes`: of the base block and of those made of 2, 4, ... blocks, in nodes.
void add_blocks(const Source& source, const std::vector<SwitchEntry>& blocks, const std::vector<int64_t>& sizes,
                topology::Topology& topology);

topology::Topology read_slurm_conf(Source& source);
topology::Topology read_slurm_yaml(Source& source, const ImportOptions& options);
topology::Topology read_ibnetdiscover(Source& source);
topology::Topology read_csv(Source& source, const HostDefaults& defaults);
topology::Topology read_hosts(Source& source, const HostDefaults& defaults);

// GPUs of one kind, `count` of them (0: as many as such hosts have).
std::vector<topology::Gpu> default_gpus(const HostDefaults& defaults, int count);
// Gives hosts without GPUs and NICs the default ones, and notes it.
void fill_hosts(Source& source, const HostDefaults& defaults, topology::Topology& topology);

}  // namespace lane::place
