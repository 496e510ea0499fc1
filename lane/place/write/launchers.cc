#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "lane/base/error.h"
#include "lane/place/write.h"
#include "lane/topology/hostlist.h"

namespace lane::place {
namespace {

using topology::Host;
using topology::Nic;
using topology::Path;

// Ranks of a host follow each other.
struct Stretch {
  std::string host;
  int count = 0;
};
std::vector<Stretch> stretches(const std::vector<RankPlace>& ranks) {
  std::vector<Stretch> list;
  for (const RankPlace& rank : ranks) {
    if (list.empty() || list.back().host != rank.host) list.push_back({rank.host, 0});
    ++list.back().count;
  }
  return list;
}

std::vector<std::string> names_of(const std::vector<HostEnvironment>& hosts) {
  std::vector<std::string> names;
  for (const HostEnvironment& host : hosts) names.push_back(host.host);
  return names;
}

// NICs that may carry the job, under their real names.
std::vector<size_t> usable_nics(const Host& host) {
  std::vector<size_t> nics;
  for (size_t i = 0; i < host.nics.size(); ++i) {
    const Nic& nic = host.nics[i];
    const bool is_rdma = nic.kind == topology::NicKind::kInfiniband || nic.kind == topology::NicKind::kRoce;
    const bool may_carry = nic.role == topology::NicRole::kCompute || nic.role == topology::NicRole::kUnknown;
    if (is_rdma && may_carry && !nic.is_virtual_function && nic.model != "assumed") nics.push_back(i);
  }
  return nics;
}

void find_nics(const Host& host, const std::vector<int>& places, HostEnvironment& environment) {
  const std::vector<size_t> usable = usable_nics(host);
  environment.nics_are_nearest = !host.gpu_to_nic.empty() && !usable.empty();
  std::vector<size_t> chosen;
  for (const int gpu : places) {
    Path nearest = Path::kUnknown;
    if (environment.nics_are_nearest)
      for (const size_t nic : usable) nearest = std::min(nearest, host.gpu_to_nic[gpu][nic]);
    environment.nics_are_nearest = environment.nics_are_nearest && nearest != Path::kUnknown;
    if (!environment.nics_are_nearest) break;
    for (const size_t nic : usable)
      if (host.gpu_to_nic[gpu][nic] == nearest && std::find(chosen.begin(), chosen.end(), nic) == chosen.end())
        chosen.push_back(nic);
  }
  if (!environment.nics_are_nearest) chosen = usable;
  for (const size_t nic : chosen) environment.nics.push_back(host.nics[nic].name);
}

std::string visible_devices(const HostEnvironment& host) { return fmt::format("{}", fmt::join(host.gpus, ",")); }

}  // namespace

std::vector<RankPlace> rank_places(const topology::Topology& topology, const Placement& placement) {
  std::vector<RankPlace> ranks;
  std::map<int, int> on_host;
  for (const topology::GpuRef gpu : placement.gpus) {
    const Host& host = topology.hosts[gpu.host];
    ranks.push_back({host.name, on_host[gpu.host]++, host.gpus[gpu.gpu].index});
  }
  return ranks;
}

std::vector<HostEnvironment> host_environments(const topology::Topology& topology, const Placement& placement) {
  std::vector<HostEnvironment> hosts;
  std::map<int, size_t> index_of;
  std::vector<std::vector<int>> places;
  for (const topology::GpuRef gpu : placement.gpus) {
    const Host& host = topology.hosts[gpu.host];
    const auto [found, is_new] = index_of.try_emplace(gpu.host, hosts.size());
    if (is_new) hosts.push_back({.host = host.name}), places.emplace_back();
    hosts[found->second].gpus.push_back(host.gpus[gpu.gpu].index);
    places[found->second].push_back(gpu.gpu);
  }
  for (const auto& [host, i] : index_of) find_nics(topology.hosts[host], places[i], hosts[i]);
  return hosts;
}

std::string to_hostfile(const topology::Topology& topology, const Placement& placement, Mpi mpi) {
  const std::vector<RankPlace> ranks = rank_places(topology, placement);
  const std::vector<Stretch> list = stretches(ranks);
  std::map<std::string, int> times;
  for (const Stretch& one : list) ++times[one.host];
  const auto split = std::find_if(times.begin(), times.end(), [](const auto& one) { return one.second > 1; });
  if (split != times.end() && mpi == Mpi::kHydra)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("a hostfile of Hydra cannot say that host {} has ranks which do not follow each other; use "
                            "--format slurm, env or rankfile",
                            split->first));
  const int num_ranks = static_cast<int>(ranks.size());
  if (mpi == Mpi::kHydra) {
    std::string text = fmt::format("# mpiexec -f THIS_FILE -n {} ...\n", num_ranks);
    for (const Stretch& one : list) text += fmt::format("{}:{}\n", one.host, one.count);
    return text;
  }
  if (split == times.end()) {
    std::string text = fmt::format("# mpirun --hostfile THIS_FILE --map-by slot -np {} ...\n", num_ranks);
    for (const Stretch& one : list) text += fmt::format("{} slots={}\n", one.host, one.count);
    return text;
  }
  std::string text = fmt::format(
      "# Ranks of a host do not follow each other here: a line for each rank, to be taken in order.\n# mpirun {} -np "
      "{} "
      "...\n",
      mpi == Mpi::kOpenMpi5 ? "--map-by seq:FILE=THIS_FILE" : "--hostfile THIS_FILE --mca rmaps seq", num_ranks);
  for (const RankPlace& rank : ranks) text += rank.host + "\n";
  return text;
}

// Slots are cores; which ones are near a GPU is not known here, so that each rank of a host names another one, and
// binding is left off.
std::string to_rankfile(const topology::Topology& topology, const Placement& placement, Mpi mpi) {
  if (mpi == Mpi::kHydra)
    throw Error(ErrorCode::kInvalidArgument, "Hydra reads no rankfiles; use --format hostfile, slurm or env");
  const std::vector<RankPlace> ranks = rank_places(topology, placement);
  std::vector<std::string> hosts = names_of(host_environments(topology, placement));
  std::string text = fmt::format(
      "# mpirun --host {} {} --bind-to none -np {} ...\n# A rankfile binds no GPUs: give each rank its "
      "CUDA_VISIBLE_DEVICES (lane place --format env).\n",
      fmt::join(hosts, ","), mpi == Mpi::kOpenMpi5 ? "--map-by rankfile:FILE=THIS_FILE" : "--rankfile THIS_FILE",
      ranks.size());
  for (size_t rank = 0; rank < ranks.size(); ++rank)
    text += fmt::format("rank {}={} slot={}\n", rank, ranks[rank].host, ranks[rank].local_rank);
  return text;
}

std::string to_slurm(const plan::Reach& reach, const Placement& placement) {
  const topology::Topology& topology = reach.topology();
  const std::vector<RankPlace> ranks = rank_places(topology, placement);
  const std::vector<HostEnvironment> hosts = host_environments(topology, placement);
  std::vector<std::string> sorted = names_of(hosts);
  std::sort(sorted.begin(), sorted.end());
  std::string text = fmt::format(
      "#!/bin/bash\n# sbatch THIS_FILE PROGRAM ARGUMENTS\n#SBATCH --nodes={}\n#SBATCH --ntasks={}\n#SBATCH "
      "--nodelist={}\n",
      hosts.size(), ranks.size(), topology::compress_hostlist(sorted));
  const bool shares_hosts = std::any_of(placement.gpus.begin(), placement.gpus.end(), [&](const topology::GpuRef gpu) {
    const auto& gpus = topology.hosts[gpu.host].gpus;
    return std::any_of(gpus.begin(), gpus.end(), [](const topology::Gpu& other) { return other.is_busy; });
  });
  text += shares_hosts ? "# Other jobs are on these hosts: the numbers of GPUs hold where Slurm does not hide theirs.\n"
                       : "#SBATCH --exclusive\n";
  // Hints that hold for this placement; without --nodelist they ask Slurm for hosts as near.
  std::map<int, std::vector<int>> hosts_of_leaf;
  for (const topology::GpuRef gpu : placement.gpus) {
    std::vector<int>& list = hosts_of_leaf[reach.leaf_group(gpu.host)];
    if (std::find(list.begin(), list.end(), gpu.host) == list.end()) list.push_back(gpu.host);
  }
  const size_t each = hosts_of_leaf.begin()->second.size();
  if (hosts_of_leaf.size() == 1) text += "# Instead of --nodelist, with topology/tree:  #SBATCH --switches=1\n";
  if (std::all_of(hosts_of_leaf.begin(), hosts_of_leaf.end(),
                  [&](const auto& one) { return one.second.size() == each; }))
    text += fmt::format("# Instead of --nodelist, with topology/block: #SBATCH --segment={}\n", each);
  text += "\nexport SLURM_HOSTFILE=$(mktemp)\ncat >\"$SLURM_HOSTFILE\" <<'HOSTS'\n";
  for (const RankPlace& rank : ranks) text += rank.host + "\n";
  text += fmt::format("HOSTS\nsrun --distribution=arbitrary --ntasks={} bash -c '\ncase $SLURMD_NODENAME in\n",
                      ranks.size());
  std::map<std::pair<std::string, std::string>, std::vector<std::string>> alike;
  for (const HostEnvironment& host : hosts)
    alike[{visible_devices(host), fmt::format("{}", fmt::join(host.nics, ","))}].push_back(host.host);
  for (const auto& [values, names] : alike)
    text += fmt::format("{}) export CUDA_VISIBLE_DEVICES={}{};;\n", fmt::join(names, "|"), values.first,
                        values.second.empty() ? "" : " NCCL_IB_HCA==" + values.second);
  text +=
      "esac\nexport CUDA_DEVICE_ORDER=PCI_BUS_ID RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS "
      "LOCAL_RANK=$SLURM_LOCALID\n"
      "exec \"$@\"' rank \"$@\"\n";
  return text;
}

std::string to_env(const topology::Topology& topology, const Placement& placement) {
  const std::vector<RankPlace> ranks = rank_places(topology, placement);
  std::map<std::string, HostEnvironment> environment;
  bool has_all = true, are_nearest = true;
  for (HostEnvironment& host : host_environments(topology, placement)) {
    has_all = has_all && !host.nics.empty();
    are_nearest = are_nearest && host.nics_are_nearest;
    environment[host.host] = std::move(host);
  }
  std::string text =
      "# A line for each rank. CUDA_VISIBLE_DEVICES lists the job's GPUs of the host; a rank's own is number "
      "LOCAL_RANK "
      "of them.\n";
  if (!has_all)
    text += "# NCCL_IB_HCA is left out where the NICs' names are not known: place on what `lane doctor --json` says.\n";
  else if (!are_nearest)
    text += "# NCCL_IB_HCA names all NICs of the host: which is near which GPU is not known.\n";
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const HostEnvironment& host = environment.at(ranks[rank].host);
    text += fmt::format(
        "HOST={} RANK={} WORLD_SIZE={} LOCAL_RANK={} CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES={}{}\n",
        host.host, rank, ranks.size(), ranks[rank].local_rank, visible_devices(host),
        host.nics.empty() ? "" : fmt::format(" NCCL_IB_HCA=={}", fmt::join(host.nics, ",")));
  }
  return text;
}

}  // namespace lane::place
