#pragma once
#include <string>
#include <vector>

#include "lane/place/place.h"

namespace lane::place {

// Whose mpirun reads a file.
enum class Mpi : uint8_t {
  kOpenMpi5,  // and PRRTE
  kOpenMpi4,
  kHydra,  // MPICH, Intel MPI
};

// A placement with names, for launchers. rank = (replica * pipeline + stage) * tensor + tensor index.
struct RankPlace {
  std::string host;
  int local_rank = 0;  // among the job's ranks on this host
  int gpu = 0;         // as CUDA numbers it in PCI bus order
};
std::vector<RankPlace> rank_places(const topology::Topology& topology, const Placement& placement);

// What the ranks of one host need beside their numbers; the same for all of them.
struct HostEnvironment {
  std::string host;
  std::vector<int> gpus;          // by local rank: CUDA_VISIBLE_DEVICES
  std::vector<std::string> nics;  // NCCL_IB_HCA: nearest to these GPUs, else all of the host; empty: not known
  bool nics_are_nearest = false;  // false: which NIC is near which GPU is not known
};
std::vector<HostEnvironment> host_environments(const topology::Topology& topology, const Placement& placement);

// Each is a text with comments on how to launch with it.

// "n01 slots=8" or "n01:8". Error{kInvalidArgument} if the ranks of a host do not follow each other, for then no
// hostfile can say so; for Open MPI it becomes a line for each rank, which --map-by seq takes in order.
std::string to_hostfile(const topology::Topology& topology, const Placement& placement, Mpi mpi);
std::string to_rankfile(const topology::Topology& topology, const Placement& placement, Mpi mpi);
// A batch script: SLURM_HOSTFILE with a host for each task, and srun --distribution=arbitrary.
std::string to_slurm(const plan::Reach& reach, const Placement& placement);
// A LeaderWorkerSet whose groups are replicas, with Kueue's annotations for what this placement reached.
// Error{kInvalidArgument} if replicas are not made of equal pods.
std::string to_kueue(const plan::Reach& reach, const Job& job, const Placement& placement);
// A line of NAME=VALUE words for each rank.
std::string to_env(const topology::Topology& topology, const Placement& placement);
// Everything, with a "schema" number.
std::string to_json(const topology::Topology& topology, const Job& job, const Result& result);

}  // namespace lane::place
