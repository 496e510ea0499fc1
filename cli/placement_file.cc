#include "cli/placement_file.h"

#include <fmt/format.h>

#include <map>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane::cli {

using topology::GpuRef;

std::vector<GpuRef> parse_placement(const std::string& text, const std::string& where,
                                    const topology::Topology& topology, int num_ranks) {
  const Json all = parse_json(text, where);
  const auto corrupt = [&](const std::string& what) { throw Error(ErrorCode::kCorruptData, where + ": " + what); };
  std::map<std::string, int> host_of;
  for (size_t i = 0; i < topology.hosts.size(); ++i) host_of[topology.hosts[i].name] = static_cast<int>(i);
  if (!all.is_object() || !all.contains("ranks") || !all["ranks"].is_array() || all["ranks"].empty())
    corrupt("no list \"ranks\": expected what lane place --format json writes");
  const Json& ranks = all["ranks"];
  if (num_ranks > 0 && ranks.size() != static_cast<size_t>(num_ranks))
    corrupt(fmt::format("\"ranks\": {} of them, but the plan has {}; give the same --tp, --pp and --replicas",
                        ranks.size(), num_ranks));
  std::vector<GpuRef> gpus(ranks.size(), {-1, -1});
  std::map<GpuRef, int64_t> rank_on;
  for (const Json& one : ranks) {
    if (!one.is_object()) corrupt("\"ranks\": expected a list of objects");
    const int64_t rank = json_int(one, "rank", -1, where), gpu = json_int(one, "gpu", -1, where);
    const std::string host = json_string(one, "host", "", where);
    if (rank < 0 || rank >= static_cast<int64_t>(gpus.size()) || gpus[rank].host >= 0)
      corrupt(fmt::format("rank {}: expected each of 0 to {} once", rank, gpus.size() - 1));
    const auto known = host_of.find(host);
    if (known == host_of.end()) corrupt(fmt::format("rank {}, host {}: not in the topology", rank, in_quotes(host)));
    if (gpu < 0 || gpu >= static_cast<int64_t>(topology.hosts[known->second].gpus.size()))
      corrupt(fmt::format("rank {}, host {}, gpu {}: it has no such GPU", rank, in_quotes(host), gpu));
    gpus[rank] = {known->second, static_cast<int>(gpu)};
    const auto [there, is_free] = rank_on.try_emplace(gpus[rank], rank);
    if (!is_free)
      corrupt(fmt::format("ranks {} and {}: both on gpu {} of host {}", there->second, rank, gpu, in_quotes(host)));
  }
  return gpus;
}

}  // namespace lane::cli
