#include "lane/place/import.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/place/read/source.h"
#include "lane/topology/hostlist.h"

namespace lane::place {
namespace {

using topology::Topology;

constexpr std::array<std::string_view, 6> kNames = {"json",          "slurm-conf", "slurm-yaml",
                                                    "ibnetdiscover", "csv",        "hosts"};

// By what only one of the formats has; what is left is a list of hosts.
Format sniff(const std::string& text) {
  bool is_first = true;
  for (const std::string_view raw : lines_of(text)) {
    const std::string_view line = trimmed(raw);
    if (line.empty()) continue;
    if (line.starts_with("vendid=") || line.starts_with("switchguid=") || line.starts_with("Switch\t") ||
        line.starts_with("Switch "))
      return Format::kIbnetdiscover;
    if (line[0] == '#') continue;
    const std::string words = lower(line);
    if (words.starts_with("switchname=") || words.starts_with("blockname=") || words.starts_with("blocksizes="))
      return Format::kSlurmConf;
    if (!is_first) continue;
    is_first = false;
    if (line[0] == '{') return Format::kJson;
    if (line.starts_with("---") || line.starts_with("- ") || line == "-") return Format::kSlurmYaml;
    if (words.find(',') != std::string::npos && ("," + words + ",").find(",node,") != std::string::npos &&
        words.find('[') == std::string::npos)
      return Format::kCsv;
  }
  return Format::kHosts;
}

// A topology, or a document that holds one.
Topology read_json(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  const auto inside = json.is_object() ? json.find("topology") : json.end();
  return inside == json.end() ? topology::topology_from_json(text, where)
                              : topology::topology_from_json(inside->dump(), where + ": topology");
}

// "n05:0-3,6" -> host names and the places of the GPUs that CUDA calls so. No ':': all of them.
void free_entry(Topology& topology, const std::map<std::string, size_t>& index_of, std::string_view entry,
                const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}: {}: {}", where, in_quotes(entry), what));
  };
  const size_t colon = entry.rfind(':');
  const std::string_view hosts = trimmed(entry.substr(0, colon));
  std::set<int> wanted;
  if (colon != std::string_view::npos) {
    try {
      const std::string_view gpus = trimmed(entry.substr(colon + 1));
      for (const int gpu : topology::parse_cpu_list(gpus)) wanted.insert(gpu);
    } catch (const Error&) {
      refuse("after ':' stand numbers of GPUs, as in n05:0-3,6");
    }
    if (wanted.empty()) refuse("after ':' stand numbers of GPUs, as in n05:0-3,6");
  }
  for (const std::string& name : topology::expand_hostlist(hosts, kMaxHosts)) {
    const auto found = index_of.find(name);
    if (found == index_of.end()) refuse(fmt::format("host {} is not in the topology", in_quotes(name)));
    std::set<int> missing = wanted;
    for (topology::Gpu& gpu : topology.hosts[found->second].gpus)
      if (wanted.empty() || missing.erase(gpu.index) > 0) gpu.is_busy = false;
    if (!missing.empty()) refuse(fmt::format("host {} has no GPU {}", name, *missing.begin()));
  }
}

}  // namespace

std::string_view name_of(Format format) { return kNames[static_cast<size_t>(format)]; }

std::optional<Format> format_of(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) return std::nullopt;
  return static_cast<Format>(found - kNames.begin());
}

std::vector<std::string> format_names() { return {kNames.begin(), kNames.end()}; }

Imported import_topology(const std::string& text, const std::string& where, const ImportOptions& options) {
  Imported result;
  result.format = options.format ? *options.format : sniff(text);
  Source source{text, where};
  switch (result.format) {
    case Format::kJson:
      result.topology = read_json(text, where);
      return result;
    case Format::kSlurmConf:
      result.topology = read_slurm_conf(source);
      break;
    case Format::kSlurmYaml:
      result.topology = read_slurm_yaml(source, options);
      break;
    case Format::kIbnetdiscover:
      result.topology = read_ibnetdiscover(source);
      break;
    case Format::kCsv:
      result.topology = read_csv(source, options.hosts);
      break;
    case Format::kHosts:
      result.topology = read_hosts(source, options.hosts);
      break;
  }
  if (result.topology.hosts.empty())
    source.refuse(
        0, fmt::format("no hosts in it; it was read as {} (--format-in says otherwise)", name_of(result.format)));
  fill_hosts(source, options.hosts, result.topology);
  topology::check(result.topology, where);
  result.notes = std::move(source.notes);
  return result;
}

void set_free(Topology& topology, const std::string& text, const std::string& where) {
  std::map<std::string, size_t> index_of;
  for (size_t i = 0; i < topology.hosts.size(); ++i) index_of[topology.hosts[i].name] = i;
  Topology changed = topology;
  for (topology::Host& host : changed.hosts)
    for (topology::Gpu& gpu : host.gpus) gpu.is_busy = true;
  bool is_empty = true;
  for (std::string_view line : lines_of(text)) {
    line = line.substr(0, line.find('#'));
    while (!line.empty()) {
      const size_t end = std::min(line.find(';'), line.size());
      const std::string_view entry = trimmed(line.substr(0, end));
      line.remove_prefix(std::min(end + 1, line.size()));
      if (entry.empty()) continue;
      free_entry(changed, index_of, entry, where);
      is_empty = false;
    }
  }
  if (is_empty) throw Error(ErrorCode::kInvalidArgument, where + ": names no host; write n[01-04] or n05:0-3");
  topology = std::move(changed);
}

}  // namespace lane::place
