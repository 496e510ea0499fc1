#include "lane/place/write.h"

#include <gtest/gtest.h>
#include <yaml-cpp/yaml.h>

#include <map>
#include <sstream>

#include "lane/base/json.h"
#include "tests/place/clusters.h"

namespace lane::place {
namespace {

using topology::Topology;

struct Placed {
  Topology topology;
  Job job;
  Result result;
};

Placed placed(const std::vector<HostSpec>& hosts, const Job& job) {
  Placed one{cluster(hosts), job, {}};
  one.result = place(plan::Reach(one.topology), one.job);
  return one;
}

const std::vector<HostSpec> kFour = {{"a1", first(8)}, {"a1", first(8)}, {"a2", first(8)}, {"a2", first(8)}};

// Ranks that share hosts in turns: replicas of two stages, of which the second ones are elsewhere.
Placed interleaved() {
  Placed one{cluster({{"a1", first(4), 4}, {"a1", first(4), 4}}), job_for(2, 2, 2), {}};
  one.result.placement =
      evaluate(plan::Reach(one.topology), one.job, {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}});
  return one;
}

// Lines without comments, as words.
std::vector<std::vector<std::string>> words_of(const std::string& text) {
  std::vector<std::vector<std::string>> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line.substr(0, line.find('#')));
    std::vector<std::string> list;
    for (std::string word; words >> word;) list.push_back(word);
    if (!list.empty()) lines.push_back(list);
  }
  return lines;
}

std::vector<std::string> hosts_of(const Placed& one) {
  std::vector<std::string> hosts;
  for (const RankPlace& rank : rank_places(one.topology, one.result.placement)) hosts.push_back(rank.host);
  return hosts;
}

TEST(Write, RanksAreNumberedAsTheEngineNumbersThem) {
  const Placed one = placed(kFour, job_for(8, 2, 2));
  const std::vector<RankPlace> ranks = rank_places(one.topology, one.result.placement);
  ASSERT_EQ(ranks.size(), 32u);
  for (int replica = 0; replica < 2; ++replica)
    for (int stage = 0; stage < 2; ++stage)
      for (int tensor = 0; tensor < 8; ++tensor) {
        const RankPlace& rank = ranks[(replica * 2 + stage) * 8 + tensor];
        const Group& group = one.result.placement.groups[replica * 2 + stage];
        EXPECT_EQ(rank.host, one.topology.hosts[group.gpus[tensor].host].name);
        EXPECT_EQ(rank.local_rank, tensor);
        EXPECT_EQ(rank.gpu, tensor);
      }
}

TEST(Write, HostfilesParseBack) {
  const Placed one = placed(kFour, job_for(16, 1, 2));
  std::vector<std::string> parsed;
  for (const auto& line : words_of(to_hostfile(one.topology, one.result.placement, Mpi::kOpenMpi5))) {
    ASSERT_EQ(line.size(), 2u);
    ASSERT_EQ(line[1].substr(0, 6), "slots=");
    parsed.insert(parsed.end(), std::stoul(line[1].substr(6)), line[0]);
  }
  EXPECT_EQ(parsed, hosts_of(one));
  parsed.clear();
  for (const auto& line : words_of(to_hostfile(one.topology, one.result.placement, Mpi::kHydra))) {
    ASSERT_EQ(line.size(), 1u);
    const size_t colon = line[0].find(':');
    parsed.insert(parsed.end(), std::stoul(line[0].substr(colon + 1)), line[0].substr(0, colon));
  }
  EXPECT_EQ(parsed, hosts_of(one));
}

TEST(Write, AHostfileThatWouldMixUpRanksIsNotWritten) {
  const Placed one = interleaved();
  std::vector<std::string> parsed;
  const std::string text = to_hostfile(one.topology, one.result.placement, Mpi::kOpenMpi5);
  for (const auto& line : words_of(text)) parsed.push_back(line[0]);
  EXPECT_EQ(parsed, hosts_of(one)) << "a line for each rank";
  EXPECT_NE(text.find("seq"), std::string::npos);
  EXPECT_NE(to_hostfile(one.topology, one.result.placement, Mpi::kOpenMpi4).find("--mca rmaps seq"), std::string::npos);
  EXPECT_NE(message_of([&] { to_hostfile(one.topology, one.result.placement, Mpi::kHydra); }).find("h0"),
            std::string::npos);
}

TEST(Write, RankfilesParseBack) {
  for (const Placed& one : {placed(kFour, job_for(16, 1, 2)), interleaved()})
    for (const Mpi mpi : {Mpi::kOpenMpi5, Mpi::kOpenMpi4}) {
      const std::string text = to_rankfile(one.topology, one.result.placement, mpi);
      EXPECT_NE(text.find(mpi == Mpi::kOpenMpi5 ? "--map-by rankfile:FILE=" : "--rankfile "), std::string::npos);
      std::vector<std::string> hosts;
      std::map<std::string, std::set<std::string>> slots;
      for (const auto& line : words_of(text)) {  // rank 0=h0 slot=0
        ASSERT_EQ(line.size(), 3u);
        EXPECT_EQ(line[0], "rank");
        const size_t equals = line[1].find('=');
        EXPECT_EQ(line[1].substr(0, equals), std::to_string(hosts.size()));
        hosts.push_back(line[1].substr(equals + 1));
        EXPECT_TRUE(slots[hosts.back()].insert(line[2]).second) << "two ranks of a host on one slot";
      }
      EXPECT_EQ(hosts, hosts_of(one));
    }
  const Placed one = interleaved();
  EXPECT_THROW(to_rankfile(one.topology, one.result.placement, Mpi::kHydra), Error);
}

TEST(Write, KueueIsYamlAndAsksForWhatWasReached) {
  const Placed one = placed(kFour, job_for(16, 1, 2));
  const plan::Reach reach(one.topology);
  const YAML::Node set = YAML::Load(to_kueue(reach, one.job, one.result.placement));
  EXPECT_EQ(set["kind"].as<std::string>(), "LeaderWorkerSet");
  EXPECT_EQ(set["spec"]["replicas"].as<int>(), 2);
  const YAML::Node group = set["spec"]["leaderWorkerTemplate"];
  EXPECT_EQ(group["size"].as<int>(), 2) << "pods of a replica";
  const YAML::Node pod = group["workerTemplate"];
  EXPECT_EQ(pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"].as<std::string>(), "8");
  const YAML::Node notes = pod["metadata"]["annotations"];
  EXPECT_EQ(notes["kueue.x-k8s.io/podset-required-topology"].as<std::string>(), "cloud.provider.com/topology-rack");
  EXPECT_FALSE(notes["kueue.x-k8s.io/podset-slice-size"]);
}

TEST(Write, KueueSlicesAreTensorGroups) {
  const Placed one = placed(kFour, job_for(16, 2, 1));
  const plan::Reach reach(one.topology);
  const YAML::Node notes = YAML::Load(
      to_kueue(reach, one.job,
               one.result.placement))["spec"]["leaderWorkerTemplate"]["workerTemplate"]["metadata"]["annotations"];
  EXPECT_EQ(notes["kueue.x-k8s.io/podset-required-topology"].as<std::string>(), "cloud.provider.com/topology-block");
  EXPECT_EQ(notes["kueue.x-k8s.io/podset-slice-required-topology"].as<std::string>(),
            "cloud.provider.com/topology-rack");
  EXPECT_EQ(notes["kueue.x-k8s.io/podset-slice-size"].as<std::string>(), "2");
  const Placed host = placed({{"a1", first(8)}}, job_for(8, 1, 1));
  EXPECT_NE(to_kueue(plan::Reach(host.topology), host.job, host.result.placement).find("kubernetes.io/hostname\"\n"),
            std::string::npos);
}

TEST(Write, KueueRefusesUnequalPods) {
  Placed one{cluster({{"a1", first(8)}, {"a1", first(4)}}), job_for(4, 3, 1), {}};
  const plan::Reach reach(one.topology);
  one.result.placement = evaluate(
      reach, one.job, {{0, 0}, {0, 1}, {0, 2}, {0, 3}, {0, 4}, {0, 5}, {0, 6}, {0, 7}, {1, 0}, {1, 1}, {1, 2}, {1, 3}});
  EXPECT_NE(message_of([&] { to_kueue(reach, one.job, one.result.placement); }).find("alike"), std::string::npos);
}

std::vector<std::map<std::string, std::string>> environments(const std::string& text) {
  std::vector<std::map<std::string, std::string>> ranks;
  for (const auto& line : words_of(text)) {
    std::map<std::string, std::string>& values = ranks.emplace_back();
    for (const std::string& word : line) {
      const size_t equals = word.find('=');
      values[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }
  return ranks;
}

TEST(Write, EnvironmentsNameGpusAndTheNearestNicsExactly) {
  // GPU i is near NIC 7 - i, and all are equally far from a storage NIC.
  Placed one{cluster({{"a1", {2, 3, 6, 7}}}), job_for(4, 1, 1), {}};
  topology::Host& host = one.topology.hosts[0];
  host.nics.push_back({.name = "mlx5_9", .kind = topology::NicKind::kInfiniband, .role = topology::NicRole::kStorage});
  host.gpu_to_nic.assign(8, std::vector<topology::Path>(9, topology::Path::kSys));
  for (int gpu = 0; gpu < 8; ++gpu)
    host.gpu_to_nic[gpu][7 - gpu] = topology::Path::kPix, host.gpu_to_nic[gpu][8] = topology::Path::kPix;
  one.result = place(plan::Reach(one.topology), one.job);
  const auto ranks = environments(to_env(one.topology, one.result.placement));
  ASSERT_EQ(ranks.size(), 4u);
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(ranks[rank].at("RANK"), std::to_string(rank));
    EXPECT_EQ(ranks[rank].at("LOCAL_RANK"), std::to_string(rank));
    EXPECT_EQ(ranks[rank].at("WORLD_SIZE"), "4");
    EXPECT_EQ(ranks[rank].at("HOST"), "h0");
    EXPECT_EQ(ranks[rank].at("CUDA_DEVICE_ORDER"), "PCI_BUS_ID");
    EXPECT_EQ(ranks[rank].at("CUDA_VISIBLE_DEVICES"), "2,3,6,7");
    EXPECT_EQ(ranks[rank].at("NCCL_IB_HCA"), "=mlx5_5,mlx5_4,mlx5_1,mlx5_0") << "GPU i is not near mlx5_i";
  }
}

TEST(Write, EnvironmentsInventNoNames) {
  Placed one = placed(kFour, job_for(16, 1, 1));
  EXPECT_EQ(environments(to_env(one.topology, one.result.placement))[0].at("NCCL_IB_HCA").substr(0, 8), "=mlx5_0,")
      << "all of the host's: which is near is not known";
  for (topology::Host& host : one.topology.hosts)
    for (topology::Nic& nic : host.nics) nic.model = "assumed";
  const std::string text = to_env(one.topology, one.result.placement);
  EXPECT_FALSE(environments(text)[0].contains("NCCL_IB_HCA"));
  EXPECT_NE(text.find("lane doctor"), std::string::npos) << "and it says how to get them";
}

TEST(Write, SlurmListsAHostForEachTask) {
  for (const Placed& one : {placed(kFour, job_for(16, 1, 2)), interleaved()}) {
    const std::string text = to_slurm(plan::Reach(one.topology), one.result.placement);
    std::vector<std::string> hosts;
    std::istringstream in(text);
    bool inside = false;
    for (std::string line; std::getline(in, line);) {
      if (line == "HOSTS") break;
      if (inside) hosts.push_back(line);
      inside = inside || line.find("<<'HOSTS'") != std::string::npos;
    }
    EXPECT_EQ(hosts, hosts_of(one));
    EXPECT_NE(text.find("--distribution=arbitrary"), std::string::npos);
  }
  const Placed one_leaf = placed({{"a1", first(8)}, {"a1", first(8)}}, job_for(16, 1, 1));
  const std::string text = to_slurm(plan::Reach(one_leaf.topology), one_leaf.result.placement);
  EXPECT_NE(text.find("--switches=1"), std::string::npos);
  EXPECT_NE(text.find("--nodelist=h[0-1]"), std::string::npos);
  const Placed two = placed(kFour, job_for(16, 1, 2));
  const std::string far = to_slurm(plan::Reach(two.topology), two.result.placement);
  EXPECT_EQ(far.find("--switches"), std::string::npos);
  EXPECT_NE(far.find("--segment=2"), std::string::npos);
}

TEST(Write, JsonHoldsEverything) {
  const Placed one = placed(kFour, job_for(8, 2, 2));
  const Json json = parse_json(to_json(one.topology, one.job, one.result), "json");
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["plan"]["pipeline"], 2);
  EXPECT_EQ(json["is_optimal"], true);
  EXPECT_NEAR(json["step_us"].get<double>(), one.result.placement.step_s * 1e6, 1e-6);
  EXPECT_EQ(json["class"], "extrapolated");
  ASSERT_EQ(json["ranks"].size(), 32u);
  const std::vector<std::string> hosts = hosts_of(one);
  for (size_t rank = 0; rank < 32; ++rank) {
    EXPECT_EQ(json["ranks"][rank]["rank"], rank);
    EXPECT_EQ(json["ranks"][rank]["host"], hosts[rank]);
    EXPECT_EQ((json["ranks"][rank]["replica"].get<size_t>() * 2 + json["ranks"][rank]["stage"].get<size_t>()) * 8 +
                  json["ranks"][rank]["tensor"].get<size_t>(),
              rank);
  }
  EXPECT_EQ(json["groups"][0]["tier"], "nvlink");
  EXPECT_EQ(json["hops"].size(), 2u);
}

}  // namespace
}  // namespace lane::place
