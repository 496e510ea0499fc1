#include "lane/place/import.h"

#include <gtest/gtest.h>

#include <set>

#include "lane/base/random.h"
#include "lane/plan/reach.h"
#include "tests/place/clusters.h"

namespace lane::place {
namespace {

using plan::Reach;
using plan::Tier;
using topology::Host;
using topology::Topology;

Imported read(const std::string& name, const ImportOptions& options = {}) {
  return import_topology(sample(name), name, options);
}

ImportOptions named(const std::string& topology, const std::string& nodes = "") {
  ImportOptions options;
  options.topology = topology, options.nodes = nodes;
  return options;
}

const Host& host(const Topology& topology, const std::string& name) {
  for (const Host& one : topology.hosts)
    if (one.name == name) return one;
  throw Error(ErrorCode::kInvalidArgument, "no host " + name);
}

int index_of(const Topology& topology, const std::string& name) {
  return static_cast<int>(&host(topology, name) - topology.hosts.data());
}

Tier tier(const Topology& topology, const std::string& a, const std::string& b) {
  return Reach(topology).tier({index_of(topology, a), 0}, {index_of(topology, b), 0});
}

std::string refusal(const std::string& text, const ImportOptions& options = {}) {
  return message_of([&] { import_topology(text, "file", options); });
}

TEST(Import, TellsTheFormatByTheText) {
  EXPECT_EQ(read("tree.conf").format, Format::kSlurmConf);
  EXPECT_EQ(read("block.conf").format, Format::kSlurmConf);
  EXPECT_EQ(read("topology.yaml").format, Format::kSlurmYaml);
  EXPECT_EQ(read("ibnetdiscover.txt").format, Format::kIbnetdiscover);
  EXPECT_EQ(read("cluster.csv").format, Format::kCsv);
  EXPECT_EQ(read("hostfile").format, Format::kHosts);
  EXPECT_EQ(import_topology("n[1-3]", "text").format, Format::kHosts);
  const Topology topology = read("tree.conf").topology;
  EXPECT_EQ(import_topology(topology::to_json(topology), "json").format, Format::kJson);
  for (const std::string& name : format_names()) EXPECT_EQ(name_of(*format_of(name)), name);
  EXPECT_FALSE(format_of("xml"));
}

TEST(Import, ForcedFormatsAreBelieved) {
  EXPECT_NE(refusal(sample("tree.conf"), {.format = Format::kCsv}).find("file:2"), std::string::npos);
  EXPECT_NE(refusal(sample("hostfile"), {.format = Format::kJson}).find("JSON"), std::string::npos);
}

TEST(Import, SlurmTree) {
  const Imported imported = read("tree.conf");
  const Topology& topology = imported.topology;
  EXPECT_EQ(topology.hosts.size(), 15u);
  EXPECT_EQ(host(topology, "n08").leaf_switch, "leaf2");
  EXPECT_EQ(tier(topology, "n01", "n04"), Tier::kLeaf);
  EXPECT_EQ(tier(topology, "n01", "n08"), Tier::kSpine);
  EXPECT_EQ(tier(topology, "n01", "n16"), Tier::kCore);
  ASSERT_EQ(imported.notes.size(), 2u) << "GPUs and NICs are assumed, and that is said";
  EXPECT_NE(imported.notes[0].find("15 hosts assumed: 8 x NVIDIA H100"), std::string::npos) << imported.notes[0];
}

TEST(Import, SlurmBlocks) {
  const Topology topology = read("block.conf").topology;
  EXPECT_EQ(topology.hosts.size(), 16u);
  EXPECT_EQ(tier(topology, "gb01", "gb04"), Tier::kLeaf);
  EXPECT_EQ(tier(topology, "gb01", "gb08"), Tier::kSpine) << "a block of 8 nodes";
  EXPECT_EQ(tier(topology, "gb01", "gb09"), Tier::kCore);
  const Imported racks = read("block.conf", {.hosts = {.gpu = "gb200", .leaf_is_nvlink_domain = true}});
  EXPECT_EQ(racks.topology.hosts[0].gpus.size(), 4u);
  EXPECT_EQ(tier(racks.topology, "gb01", "gb04"), Tier::kNvlink);
  EXPECT_NE(tier(racks.topology, "gb01", "gb05"), Tier::kNvlink);
  const Imported unknown = read("block.conf", {.hosts = {.gpu = "gb200"}});
  EXPECT_EQ(tier(unknown.topology, "gb01", "gb04"), Tier::kLeaf) << "nobody said that a block is a domain";
  EXPECT_NE(unknown.notes.back().find("NVLink domains"), std::string::npos);
}

TEST(Import, SlurmYaml) {
  const Topology fabric = read("topology.yaml").topology;
  EXPECT_EQ(fabric.name, "fabric") << "the default";
  EXPECT_EQ(fabric.hosts.size(), 8u);
  EXPECT_EQ(tier(fabric, "n01", "n05"), Tier::kSpine);
  const Topology racks = read("topology.yaml", named("racks")).topology;
  EXPECT_EQ(host(racks, "n06").leaf_switch, "b2");
  EXPECT_EQ(tier(racks, "n01", "n05"), Tier::kSpine);
  const Topology flat = read("topology.yaml", named("small", "n[1-3]")).topology;
  EXPECT_EQ(flat.hosts.size(), 3u);
  EXPECT_EQ(tier(flat, "n1", "n3"), Tier::kLeaf);
  EXPECT_NE(message_of([&] { read("topology.yaml", named("small")); }).find("--nodes"), std::string::npos);
  EXPECT_NE(message_of([&] { read("topology.yaml", named("none")); }).find("none"), std::string::npos);
}

TEST(Import, Ibnetdiscover) {
  const Imported imported = read("ibnetdiscover.txt");
  const Topology& topology = imported.topology;
  ASSERT_EQ(topology.hosts.size(), 4u) << "neither aggregation nodes nor the service host on a spine";
  const Host& first = topology.hosts[0];
  EXPECT_EQ(first.name, "r1-n01");
  ASSERT_EQ(first.nics.size(), 2u);
  EXPECT_EQ(first.nics[0].name, "mlx5_0") << "mlx5_10 comes after it";
  EXPECT_EQ(first.nics[0].rail, 0);
  EXPECT_EQ(first.nics[0].leaf_switch, "LEAF-01");
  EXPECT_EQ(first.nics[1].leaf_switch, "LEAF-02");
  EXPECT_EQ(first.nics[0].ports[0].gbit_per_s, 400) << "4xNDR";
  for (const topology::Switch& one : topology.switches) {
    EXPECT_EQ(one.level, one.name.starts_with("LEAF") ? 1 : 2) << one.name;
    EXPECT_EQ(one.uplink_gbit_per_s, one.level == 1 ? 4 * 400 : 0) << one.name;
  }
  EXPECT_EQ(tier(topology, "r1-n01", "r1-n02"), Tier::kLeaf);
  EXPECT_EQ(tier(topology, "r1-n01", "r1-n03"), Tier::kSpine);
  std::string notes;
  for (const std::string& note : imported.notes) notes += note + "\n";
  EXPECT_NE(notes.find("4 SHARP"), std::string::npos) << notes;
  EXPECT_NE(notes.find("1 ports of hosts on spine"), std::string::npos) << notes;
  EXPECT_EQ(notes.find("NICs of"), std::string::npos) << "they were read";
}

TEST(Import, TwoSwitchesSideBySideAreJoined) {
  const std::string text =
      "switchguid=0x1(1)\nSwitch\t41 \"S-01\"\t\t# \"MF0;a:MQM8700/U1\" enhanced port 0 lid 1 lmc 0\n"
      "[1]\t\"H-11\"[1](11) \t\t# \"n1 mlx5_0\" lid 3 4xHDR\n"
      "[2]\t\"H-12\"[1](12) \t\t# \"n2 HCA-1\" lid 4 4xHDR\n"
      "[40]\t\"S-02\"[40]\t\t# \"MF0;b:MQM8700/U1\" lid 2 4xHDR\n\n"
      "switchguid=0x2(2)\nSwitch\t41 \"S-02\"\t\t# \"MF0;b:MQM8700/U1\" enhanced port 0 lid 2 lmc 0\n"
      "[1]\t\"H-21\"[1](21) \t\t# \"n3 mlx5_0\" lid 5 4xHDR\n"
      "[40]\t\"S-01\"[40]\t\t# \"MF0;a:MQM8700/U1\" lid 1 4xHDR\n";
  const Topology topology = import_topology(text, "file").topology;
  EXPECT_EQ(tier(topology, "n1", "n2"), Tier::kLeaf);
  EXPECT_EQ(tier(topology, "n1", "n3"), Tier::kSpine);
  EXPECT_EQ(host(topology, "n2").nics[0].ports[0].gbit_per_s, 200);
}

TEST(Import, Csv) {
  const Topology topology = read("cluster.csv").topology;
  EXPECT_EQ(topology.hosts.size(), 8u);
  EXPECT_EQ(host(topology, "n02").rack, "r1");
  EXPECT_EQ(host(topology, "n02").gpus.size(), 8u);
  EXPECT_TRUE(host(topology, "n03").gpus[3].is_busy);
  EXPECT_FALSE(host(topology, "n03").gpus[4].is_busy);
  EXPECT_TRUE(host(topology, "n04").gpus[2].is_busy);
  EXPECT_FALSE(host(topology, "n04").gpus[1].is_busy);
  EXPECT_EQ(tier(topology, "gb1", "gb4"), Tier::kNvlink);
  EXPECT_EQ(tier(topology, "n01", "n04"), Tier::kSpine);
  EXPECT_EQ(tier(topology, "n01", "gb1"), Tier::kCore) << "spines are joined above";
  const Topology free = import_topology("node,gpus,free\na,8,3\nb,8,\n", "file").topology;
  EXPECT_FALSE(free.hosts[0].gpus[2].is_busy);
  EXPECT_TRUE(free.hosts[0].gpus[3].is_busy);
  EXPECT_FALSE(free.hosts[1].gpus[7].is_busy);
}

TEST(Import, Hostfiles) {
  const Topology topology = read("hostfile", {.hosts = {.num_gpus = 2}}).topology;
  EXPECT_EQ(topology.hosts.size(), 5u);
  EXPECT_EQ(host(topology, "n02").gpus.size(), 4u);
  EXPECT_EQ(host(topology, "n03").gpus.size(), 8u);
  EXPECT_EQ(host(topology, "n05").gpus.size(), 2u) << "the default";
  EXPECT_EQ(tier(topology, "n01", "n05"), Tier::kLeaf);
}

TEST(Import, JsonOfItsOwnAndOfDoctor) {
  const Topology topology = read("cluster.csv").topology;
  const std::string json = topology::to_json(topology);
  EXPECT_EQ(import_topology(json, "file").topology, topology);
  EXPECT_EQ(import_topology("{\"schema\": 1, \"findings\": [], \"topology\": " + json + "}", "file").topology,
            topology);
}

TEST(Import, KindsOfGpus) {
  for (const std::string& kind : gpu_kinds()) {
    const Host made = import_topology("n1", "file", {.hosts = {.gpu = kind}}).topology.hosts[0];
    EXPECT_EQ(made.gpus.size(), kind == "gb200" ? 4u : 8u) << kind;
    EXPECT_EQ(made.nics.size(), made.gpus.size()) << kind;
    EXPECT_EQ(made.gpus[0].num_nvlinks > 0, kind != "l40s") << kind;
  }
  EXPECT_NE(refusal("n1", {.hosts = {.gpu = "tpu"}}).find("gb200"), std::string::npos) << "the list of those there are";
  const Host custom =
      import_topology("n1", "file", {.hosts = {.num_gpus = 4, .num_nics = 2, .nic_gbit_per_s = 100}}).topology.hosts[0];
  EXPECT_EQ(custom.gpus.size(), 4u);
  ASSERT_EQ(custom.nics.size(), 2u);
  EXPECT_EQ(custom.nics[1].ports[0].gbit_per_s, 100);
}

// Each names the file and the line, and what is wrong.
TEST(Import, BadTopologiesAreRefusedWithTheirLine) {
  struct Bad {
    const char* text;
    std::vector<const char*> parts;
  };
  const Bad all[] = {
      {"SwitchName=a Nodes=n[1-2]\nSwitchName=b Nodes=n[2-3]\nSwitchName=c Switches=a,b\n", {"file:2", "n2", "line 1"}},
      {"SwitchName=a Nodes=n1,n1\n", {"file:1", "n1"}},
      {"SwitchName=a Nodes=n1\nSwitchName=a Nodes=n2\n", {"file:2", "twice", "line 1"}},
      {"SwitchName=a Switches=b\nSwitchName=b Switches=a\n", {"file:1", "cycle"}},
      {"SwitchName=a Nodes=n1\nSwitchName=c Switches=a,zz\n", {"file:2", "zz"}},
      {"SwitchName=a Nodes=n1\n\nSwitchName=b Nodes=n2\n", {"file:3", "cannot reach", "line 1"}},
      {"SwitchName=a\n", {"file:1", "neither"}},
      {"SwitchName=a Nodes=n[1-\n", {"file:1", "host list"}},
      {"SwitchName=a Nodes=n1 Color=red\n", {"file:1", "color"}},
      {"SwitchName=a Nodes=n1\nBlockName=b Nodes=n2\n", {"file:2", "blocks"}},
      {"BlockName=b Nodes=n1\nBlockSizes=-4\n", {"file:2", "-4"}},
      {"BlockName=b1 Nodes=n1\nBlockName=b2 Nodes=n2\nBlockSizes=4,6\n", {"6", "multiple"}},
      {"node,gpus\nn1,-8\n", {"file:2", "-8"}},
      {"node,gpus\nn1,8\nn1,8\n", {"file:3", "n1", "line 2"}},
      {"node,gpus,colour\nn1,8,red\n", {"file:1", "colour"}},
      {"node,gpus\nn1,8,9\n", {"file:2", "3 fields"}},
      {"node,leaf\nn1,a\nn2,\n", {"file:3", "n2"}},
      {"node,leaf,spine\nn1,a,s\nn2,b,\n", {"file:3", "could not be reached"}},
      {"node,gpus,free\nn1,8,9\n", {"file:2", "9"}},
      {"node,gpus,busy\nn1,8,8\n", {"file:2", "GPU 8"}},
      {"node,gpus,free,busy\nn1,8,4,0\n", {"file:2", "one of them"}},
      {"n1 slots=8\nn2 slots=-1\n", {"file:2", "-1"}},
      {"n1\nn1\n", {"file:2", "line 1"}},
      {"n1 cores=8\n", {"file:1", "cores=8"}},
      {"", {"file", "no hosts"}},
      {"---\n- topology: a\n  tree:\n    switches:\n      - switch: s\n        nodes: n1\n      - switch: s\n        "
       "nodes: n2\n",
       {"file:7", "twice"}},
      {"---\n- topology: a\n  tree:\n    switches:\n      - switch: s\n        children: t\n", {"file:5", "\"t\""}},
      {"---\n- topology: a\n  ring:\n    x: 1\n", {"file:2", "ring"}},
      {"---\n- topology: a\n  colour: red\n", {"file:3", "colour"}},
      {"---\n- topology: [a\n", {"not valid YAML"}},
      {"---\n- topology: a\n  block:\n    block_sizes: [x]\n    blocks: []\n", {"file:4", "x"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\nSwitch\t41 \"S-01\"\t\t# \"a\"\n", {"file:2", "twice"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\n[1]\t\"S-02\"[1]\t\t# \"b\" lid 1 4xNDR\n", {"file:2", "S-02"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\n[1]\t\"H-01\"[1](1)\t\t# \"n1 mlx5_0\"\n", {"file:2", "rate"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\n[1]\t\"H-01\"[1](1)\t\t# \"n1 mlx", {"file:2", "cut"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\n", {"no host hangs"}},
      {"Switch\t41 \"S-01\"\t\t# \"a\"\n[1]\t\"H-01\"[1](1)\t\t# \"n1 mlx5_0\" lid 1 4xNDR\n[2]\t\"H-02\"[1](1)\t\t# "
       "\"n1 "
       "mlx5_0\" lid 2 4xNDR\n",
       {"file:3", "twice"}},
  };
  for (const Bad& bad : all) {
    const std::string message = refusal(bad.text);
    for (const char* part : bad.parts)
      EXPECT_NE(message.find(part), std::string::npos) << bad.text << "\n -> " << message << "\nlacks " << part;
  }
}

TEST(Free, NamesHostsAndGpus) {
  Topology topology = import_topology("n[1-4]", "file").topology;
  set_free(topology, "n[1-2]; n3:0-1,6\n# n4 is taken", "--free");
  const auto free_of = [&](int i) {
    std::set<int> free;
    for (const topology::Gpu& gpu : topology.hosts[i].gpus)
      if (!gpu.is_busy) free.insert(gpu.index);
    return free;
  };
  EXPECT_EQ(free_of(1).size(), 8u);
  EXPECT_EQ(free_of(2), (std::set{0, 1, 6}));
  EXPECT_TRUE(free_of(3).empty());
  const Topology before = topology;
  for (const char* bad : {"n9", "n1:8", "n1:x", "n1:", "n1:-1", "", ";", "n1; n["})
    EXPECT_THROW(set_free(topology, bad, "--free"), Error) << bad;
  EXPECT_EQ(topology, before) << "a refusal changes nothing";
}

// ---- fuzz

std::string mutated(std::string text, uint64_t seed, std::string_view alphabet) {
  const int count = 1 + static_cast<int>(random_bits(seed, 0) % 3);
  for (int i = 0; i < count && !text.empty(); ++i) {
    const uint64_t draw = random_bits(seed, static_cast<uint64_t>(i) + 1), at = draw % text.size();
    const char other = alphabet[(draw >> 32) % alphabet.size()];
    switch (draw >> 61) {
      case 0:
        text.erase(at, 1 + (draw >> 40) % 20);
        break;
      case 1:
        text.insert(at, 1, other);
        break;
      case 2:
        text[at] = static_cast<char>(draw >> 24);
        break;
      case 3:
        text.resize(at);
        break;
      case 4:
        text.insert(at, text.substr(random_bits(seed, 99) % text.size(), (draw >> 40) % 60));
        break;
      default:
        text[at] = other;
    }
  }
  return text;
}

// Whatever comes is read or refused; nothing else happens. Some of both must.
void fuzz(const std::string& name, const ImportOptions& options, std::string_view alphabet) {
  const std::string good = sample(name);
  int num_read = 0, num_refused = 0;
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    try {
      num_read += import_topology(mutated(good, seed, alphabet), name, options).topology.hosts.empty() ? 0 : 1;
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ErrorCode::kCorruptData || error.code() == ErrorCode::kInvalidArgument)
          << "seed " << seed << ": " << error.what();
      ++num_refused;
    }
  }
  EXPECT_GT(num_read, 100);
  EXPECT_GT(num_refused, 100);
}

TEST(ImportFuzz, SlurmTree) { fuzz("tree.conf", {.format = Format::kSlurmConf}, "=[]-,\n\\#\" 09SwitchNodes"); }
TEST(ImportFuzz, SlurmBlocks) { fuzz("block.conf", {.format = Format::kSlurmConf}, "=[]-,\n 09Block"); }
TEST(ImportFuzz, SlurmYaml) { fuzz("topology.yaml", {.format = Format::kSlurmYaml}, ":-[]{}&*!|>'\"\n ,n0#"); }
TEST(ImportFuzz, Ibnetdiscover) { fuzz("ibnetdiscover.txt", {.format = Format::kIbnetdiscover}, "\"[]()\t\n#SH-0x"); }
TEST(ImportFuzz, Csv) { fuzz("cluster.csv", {.format = Format::kCsv}, ",\"\n-[]09 ;"); }
TEST(ImportFuzz, Hosts) { fuzz("hostfile", {.format = Format::kHosts}, "=:[]-,\n 09"); }
TEST(ImportFuzz, Told) {
  for (const char* name : {"tree.conf", "cluster.csv"}) fuzz(name, {}, "=[]-,\n{S\"");
}

TEST(ImportFuzz, Free) {
  const Topology topology = import_topology("n[1-9]", "file", {.hosts = {.num_gpus = 4}}).topology;
  int num_read = 0;
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    Topology one = topology;
    try {
      set_free(one, mutated("n[1-4]; n5:0-3; n[6-7]:0,2", seed, "[]-,;:09\n"), "--free");
      ++num_read;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(num_read, 500);
}

TEST(ImportFuzz, DeepYamlEndsInAnError) {
  EXPECT_THROW(import_topology(std::string(100'000, '['), "deep", {.format = Format::kSlurmYaml}), Error);
  EXPECT_THROW(import_topology("- " + std::string(100'000, '{'), "deep", {.format = Format::kSlurmYaml}), Error);
  std::string deep;
  for (int i = 0; i < 2000; ++i) deep += std::string(static_cast<size_t>(i), ' ') + "a:\n";
  EXPECT_THROW(import_topology(deep, "deep", {.format = Format::kSlurmYaml}), Error);
}

}  // namespace
}  // namespace lane::place
