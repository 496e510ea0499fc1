#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/parallel.h"
#include "lane/plan/reach.h"
#include "lane/topology/topology.h"

namespace lane::place {

enum class Objective : uint8_t { kDecode, kPrefill };
enum class Spread : uint8_t {
  kSpread,  // replicas on different leaf switches, so that one's failure leaves the others
  kPack,    // on as few as possible, so that room stays for other jobs
};

struct Job {
  plan::ModelShape shape;
  plan::ParallelPlan plan;
  Objective objective = Objective::kDecode;
  int batch = 16;               // sequences of a replica
  int64_t input_tokens = 2048;  // of each, for kPrefill
  int element_bytes = 2;        // of what ranks exchange
  Spread spread = Spread::kSpread;
  bool same_rack = false;            // all ranks of a replica in one rack
  std::vector<std::string> include;  // hosts to use; empty: all
  std::vector<std::string> exclude;

  // What an all-reduce sums, and a stage passes on.
  int64_t message_bytes() const {
    return (objective == Objective::kDecode ? 1 : input_tokens) * batch * shape.hidden_size * element_bytes;
  }
};

// The ranks of a stage of a replica: they all-reduce together.
struct Group {
  std::vector<topology::GpuRef> gpus;   // by tensor index
  plan::Tier tier = plan::Tier::kSelf;  // the farthest two of them
  int num_hosts = 1;
  bool is_even = true;     // the same number of GPUs on each host
  bool is_aligned = true;  // GPUs with the same indices on each host: rank i of every host is on the same rail
  std::string algorithm;   // the cheapest all-reduce
  double all_reduce_s = 0;
};

// Where the ranks are, and what that costs by the cost model: communication alone, of a decode step or a prefill.
struct Placement {
  std::vector<topology::GpuRef> gpus;  // by rank = (replica * pipeline + stage) * tensor + tensor index
  std::vector<Group> groups;           // by replica * pipeline + stage
  std::vector<plan::Tier> hops;        // by replica * (pipeline - 1) + stage: to the next stage
  std::vector<double> replica_s;
  double step_s = 0;  // of the slowest replica
};

// step = max over replicas of
//   sum over stages of 2 layers x all-reduce(message) + sum over neighbouring stages of send(message)
// with the cheapest schedule for each group's fabric; a send passes the whole message from each rank of a stage to
// its counterpart. Each GPU has its share of its host's NICs. Schedules with multicast are left out: they need more
// than a topology says. Throws Error{kInvalidArgument} if `gpus` does not fit the plan. Any GPUs may be given, busy
// ones too.
Placement evaluate(const plan::Reach& reach, const Job& job, const std::vector<topology::GpuRef>& gpus);

struct SearchOptions {
  int max_exact_hosts = 64;       // up to so many hosts with free GPUs branch and bound proves or improves
  int64_t max_nodes = 1'000'000;  // of its tree; then it reports the gap that is left
  int num_random = 20;            // placements for comparison
  uint64_t seed = 1;
};

struct Result {
  Placement placement;
  double bound_s = 0;       // no placement that keeps the rules costs less
  bool is_optimal = false;  // nothing that keeps the rules costs less: proved
  int64_t num_nodes = 0;    // that branch and bound visited
  // The same job on hosts in the order of the topology, and in random order: mean and best. 0: the GPUs do not suffice
  // for the plan without its rules, which cannot be where `placement` exists.
  double naive_s = 0, random_mean_s = 0, random_best_s = 0;
  bool naive_is_even = true;     // false: it breaks the rule that hosts share a group evenly
  std::vector<std::string> why;  // for people: what the slowest replica spans, and what a better one would need
};

// Finds the placement with the least step time that keeps the rules:
//   - only GPUs that are free, each once, on hosts that the job may use;
//   - a group has the same number of GPUs on each of its hosts, and as many of them in each NVLink domain.
// Of equal ones it prefers rails that are aligned, then replicas spread or packed as the job says. Deterministic.
// Throws Error{kInvalidArgument} that says what is missing if the job does not fit; the topology is never changed.
Result place(const plan::Reach& reach, const Job& job, const SearchOptions& options = {});

}  // namespace lane::place
