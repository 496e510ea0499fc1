#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/place/write.h"

namespace lane::place {
namespace {

using plan::Tier;

constexpr int kSchema = 1;

// Labels as Kueue's own examples have them; a cluster's Topology object may use others.
constexpr const char* kHostLabel = "kubernetes.io/hostname";
constexpr const char* kRackLabel = "cloud.provider.com/topology-rack";
constexpr const char* kBlockLabel = "cloud.provider.com/topology-block";

const char* label_of(bool is_one_host, int switch_level) {
  return is_one_host ? kHostLabel : switch_level <= 1 ? kRackLabel : kBlockLabel;
}

// The hosts of some ranks, and the highest level of switches between them.
struct Span {
  std::map<int, int> gpus_of_host;
  int level = 0;
};

Span span_of(const plan::Reach& reach, const topology::GpuRef* begin, const topology::GpuRef* end) {
  Span span;
  for (const topology::GpuRef* gpu = begin; gpu != end; ++gpu) {
    ++span.gpus_of_host[gpu->host];
    span.level = std::max(span.level, reach.switch_level(begin->host, gpu->host));
  }
  return span;
}

double us(double seconds) { return seconds * 1e6; }

}  // namespace

std::string to_kueue(const plan::Reach& reach, const Job& job, const Placement& placement) {
  const int per_replica = job.plan.tensor * job.plan.pipeline;
  int gpus_per_pod = 0, num_pods = 0, level = 0, group_pods = 0, group_level = 0;
  bool groups_share_pods = false;
  for (int replica = 0; replica < job.plan.replicas; ++replica) {
    const topology::GpuRef* begin = placement.gpus.data() + static_cast<ptrdiff_t>(replica) * per_replica;
    const Span span = span_of(reach, begin, begin + per_replica);
    if (replica == 0) gpus_per_pod = span.gpus_of_host.begin()->second;
    for (const auto& [host, count] : span.gpus_of_host)
      if (count != gpus_per_pod)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("pods of a LeaderWorkerSet are all alike, but the job has {} GPUs on some hosts and {} "
                                "on {}; use another --format",
                                gpus_per_pod, count, reach.topology().hosts[host].name));
    num_pods = static_cast<int>(span.gpus_of_host.size());
    level = std::max(level, span.level);
    for (int stage = 0; stage < job.plan.pipeline; ++stage) {
      const topology::GpuRef* first = begin + static_cast<ptrdiff_t>(stage) * job.plan.tensor;
      const Span group = span_of(reach, first, first + job.plan.tensor);
      group_pods = std::max(group_pods, static_cast<int>(group.gpus_of_host.size()));
      group_level = std::max(group_level, group.level);
      groups_share_pods = groups_share_pods || job.plan.tensor % gpus_per_pod != 0 ||
                          static_cast<int>(group.gpus_of_host.size()) * gpus_per_pod != job.plan.tensor;
    }
  }
  std::string text = fmt::format(
      "# Kueue chooses the nodes itself; the annotations ask for what lane place found to be possible. Assumed: a\n"
      "# Topology object with the levels below, a ResourceFlavor with spec.topologyName, and a LocalQueue user-queue.\n"
      "#   levels: [{{nodeLabel: {}}}, {{nodeLabel: {}}}, {{nodeLabel: {}}}]\n"
      "# A rack stands for the hosts of one leaf switch. Rank = replica * {} + pod * {} + GPU of the pod.\n",
      kBlockLabel, kRackLabel, kHostLabel, per_replica, gpus_per_pod);
  // What lies above all labels cannot be demanded.
  const char* demand = level > 2 ? "preferred" : "required";
  std::string annotations =
      fmt::format("          kueue.x-k8s.io/podset-{}-topology: \"{}\"\n", demand, label_of(num_pods == 1, level));
  if (job.plan.pipeline > 1 && !groups_share_pods && group_pods > 1 && group_level < level)
    annotations += fmt::format(
        "          kueue.x-k8s.io/podset-slice-required-topology: \"{}\"\n"
        "          kueue.x-k8s.io/podset-slice-size: \"{}\"\n",
        label_of(false, group_level), group_pods);
  text += fmt::format(
      "apiVersion: leaderworkerset.x-k8s.io/v1\n"
      "kind: LeaderWorkerSet\n"
      "metadata:\n"
      "  name: lane\n"
      "  labels:\n"
      "    kueue.x-k8s.io/queue-name: user-queue\n"
      "spec:\n"
      "  replicas: {}\n"
      "  leaderWorkerTemplate:\n"
      "    size: {}\n"
      "    workerTemplate:\n"
      "      metadata:\n"
      "        annotations:\n"
      "{}"
      "      spec:\n"
      "        containers:\n"
      "          - name: ranks\n"
      "            image: IMAGE\n"
      "            command: [PROGRAM]\n"
      "            resources:\n"
      "              limits:\n"
      "                nvidia.com/gpu: \"{}\"\n",
      job.plan.replicas, num_pods, annotations, gpus_per_pod);
  return text;
}

std::string to_json(const topology::Topology& topology, const Job& job, const Result& result) {
  const Placement& placement = result.placement;
  const std::vector<RankPlace> places = rank_places(topology, placement);
  const auto tensor = static_cast<size_t>(job.plan.tensor), pipeline = static_cast<size_t>(job.plan.pipeline);
  Json ranks = Json::array(), groups = Json::array(), replicas = Json::array(), hops = Json::array();
  for (size_t rank = 0; rank < places.size(); ++rank)
    ranks.push_back({{"rank", rank},
                     {"replica", rank / tensor / pipeline},
                     {"stage", rank / tensor % pipeline},
                     {"tensor", rank % tensor},
                     {"host", places[rank].host},
                     {"local_rank", places[rank].local_rank},
                     {"gpu", places[rank].gpu}});
  for (size_t i = 0; i < placement.groups.size(); ++i) {
    const Group& group = placement.groups[i];
    groups.push_back({{"replica", i / pipeline},
                      {"stage", i % pipeline},
                      {"tier", name_of(group.tier)},
                      {"hosts", group.num_hosts},
                      {"is_even", group.is_even},
                      {"is_aligned", group.is_aligned},
                      {"algorithm", group.algorithm},
                      {"all_reduce_us", us(group.all_reduce_s)}});
  }
  for (const double seconds : placement.replica_s) replicas.push_back({{"step_us", us(seconds)}});
  for (const Tier tier : placement.hops) hops.push_back(name_of(tier));
  return Json{{"schema", kSchema},
              {"objective", job.objective == Objective::kDecode ? "decode" : "prefill"},
              {"plan", {{"tensor", tensor}, {"pipeline", pipeline}, {"replicas", job.plan.replicas}}},
              {"batch", job.batch},
              {"message_bytes", job.message_bytes()},
              {"class", "extrapolated"},  // from constants of the hardware, not from measurements of this cluster
              {"step_us", us(placement.step_s)},
              {"bound_us", us(result.bound_s)},
              {"is_optimal", result.is_optimal},
              {"naive_us", us(result.naive_s)},
              {"naive_is_even", result.naive_is_even},
              {"random_mean_us", us(result.random_mean_s)},
              {"random_best_us", us(result.random_best_s)},
              {"why", result.why},
              {"replicas", replicas},
              {"groups", groups},
              {"hops", hops},
              {"ranks", ranks}}
      .dump(2);
}

}  // namespace lane::place
