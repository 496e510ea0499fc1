// Small formats of sysfs: rates, GIDs, configuration space; and files that hold nonsense.
#include <gtest/gtest.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/inventory/ib.h"
#include "tests/support/fake_root.h"

namespace lane::inventory {
namespace {

using topology::Path;

std::string mutated(std::string text, uint64_t seed) {
  for (uint64_t k = 0; k <= random_bits(seed, 99) % 3; ++k) {
    const uint64_t bits = random_bits(seed, k);
    if (text.empty()) break;
    const size_t at = bits % text.size();
    if (bits >> 60 == 0)
      text.erase(at);
    else if (bits >> 62 == 1)
      text.insert(at, 1, static_cast<char>(bits >> 32));
    else
      text[at] = static_cast<char>(bits >> 32);
  }
  return text;
}

TEST(Rates, AreWhatTheKernelWrites) {
  const std::tuple<const char*, double, const char*> kRates[] = {{"400 Gb/sec (4X NDR)", 400, "4X NDR"},
                                                                 {"200 Gb/sec (2X NDR)\n", 200, "2X NDR"},
                                                                 {"100 Gb/sec (4X EDR)", 100, "4X EDR"},
                                                                 {"800 Gb/sec (4X XDR)", 800, "4X XDR"},
                                                                 {"2.5 Gb/sec (1X SDR)", 2.5, "1X SDR"},
                                                                 {"10 Gb/sec (4X SDR)", 10, "4X SDR"},
                                                                 {"25 Gb/sec", 25, ""},
                                                                 {"400", 0, ""},
                                                                 {"", 0, ""},
                                                                 {"Gb/sec (4X NDR)", 0, ""},
                                                                 {"-5 Gb/sec (4X NDR)", 0, ""},
                                                                 {"nan Gb/sec (4X NDR)", 0, ""},
                                                                 {"1e30 Gb/sec (4X NDR)", 0, ""}};
  for (const auto& [text, gbit_per_s, name] : kRates) {
    EXPECT_EQ(parse_rate(text).gbit_per_s, gbit_per_s) << text;
    EXPECT_EQ(parse_rate(text).speed_name, name) << text;
  }
  for (uint64_t i = 0; i < 10000; ++i) {
    const Rate rate = parse_rate(mutated("400 Gb/sec (4X NDR)", i));
    ASSERT_TRUE(rate.gbit_per_s >= 0 && rate.gbit_per_s <= 1e6);
  }
}

TEST(Gids, HaveAKindAndLoseTheirAddress) {
  const std::pair<const char*, const char*> kGids[] = {{"fe80:0000:0000:0000:a088:c203:00ab:cd12", "fe80::..."},
                                                       {"0000:0000:0000:0000:0000:ffff:c0a8:0101", "::ffff:..."},
                                                       {"2001:0db8:0000:0000:0000:0000:0000:0007", "global"},
                                                       {"fd12:3456:0000:0000:0000:0000:0000:0007\n", "global"},
                                                       {"0000:0000:0000:0000:0000:0000:0000:0000", ""},
                                                       {"fe80:0000:0000:0000:0000:0000:0000:0000", ""},
                                                       {"fe80::1", ""},
                                                       {"", ""}};
  for (const auto& [gid, kind] : kGids) {
    EXPECT_EQ(kind_of_gid(gid), kind) << gid;
    EXPECT_EQ(kind_of_gid(without_address(gid)), kind) << gid;
  }
  EXPECT_EQ(without_address(kGids[0].first).find("cd12"), std::string::npos);
  for (uint64_t i = 0; i < 10000; ++i) {
    const std::string gid = mutated("0000:0000:0000:0000:0000:ffff:c0a8:0101", i);
    ASSERT_EQ(kind_of_gid(without_address(gid)), kind_of_gid(gid));
  }
}

TEST(ConfigurationSpace, LosesItsSerialNumberAndKeepsTheRest) {
  test::FakeRoot root("hgx_h100_reversed");
  const std::string bridge = root.read("sys/bus/pci/devices/0000:15:01.0/config");
  const std::string nic = root.read("sys/bus/pci/devices/0000:18:00.0/config");
  ASSERT_EQ(bridge.size(), 1024u);
  std::string with_serial = bridge;
  with_serial.replace(0x120, 8, "\x5e\xc2\xe7\x5e\xc2\xe7\x5e\xc2");  // in the body of error reporting, at 0x100
  EXPECT_EQ(without_serial_number(with_serial).find("\x5e\xc2\xe7"), std::string::npos);
  EXPECT_EQ(without_serial_number(bridge), bridge);
  EXPECT_EQ(without_serial_number(nic), nic);
  EXPECT_EQ(without_serial_number(std::string(64, '\x7f')).size(), 64u);
  EXPECT_EQ(without_serial_number(""), "");
  for (uint64_t i = 0; i < 10000; ++i) {
    std::string config = mutated(bridge, i);
    if (!config.empty()) config[random_bits(5, i) % config.size()] = static_cast<char>(random_bits(6, i));
    ASSERT_EQ(without_serial_number(config).size(), config.size());
  }
}

TEST(ConfigurationSpace, CapabilitiesThatGoRoundInCirclesEnd) {
  test::FakeRoot root("hgx_h100_reversed");
  const std::string at = "sys/bus/pci/devices/0000:18:00.0/config";
  const char* kSpaces[] = {
      "1024 6:1000 34:60 60:01600000 100:01001010",              // each points to itself
      "1024 6:1000 34:40 40:01600000 60:01400000 100:0100f0ff",  // two to each other; beyond the end
      "1024 34:ff 100:ffffffff",
      "256 34:fc fc:10000200",
      "65 34:40",
      "4096"};
  for (const char* space : kSpaces) {
    root.add(at + " ~ " + space + "\n");
    EXPECT_NO_THROW(take_inventory(root.path())) << space;
  }
}

TEST(PciPaths, ByBridgesAndNumaNodes) {
  const auto device = [](const char* id, std::vector<std::string> chain, int numa) {
    return PciDevice{.id = id, .chain = std::move(chain), .numa_node = numa};
  };
  const PciDevice a = device("0000:03:00.0", {"pci0000:00", "0000:00:01.0", "0000:01:00.0", "0000:02:00.0"}, 0);
  const PciDevice same_switch =
      device("0000:04:00.0", {"pci0000:00", "0000:00:01.0", "0000:01:00.0", "0000:02:01.0"}, 0);
  const PciDevice second_switch =
      device("0000:07:00.0",
             {"pci0000:00", "0000:00:01.0", "0000:01:00.0", "0000:02:02.0", "0000:05:00.0", "0000:06:00.0"}, 0);
  const PciDevice same_complex = device("0000:09:00.0", {"pci0000:00", "0000:00:02.0"}, 0);
  const PciDevice function = device("0000:09:00.1", {"pci0000:00", "0000:00:02.0"}, 0);
  const PciDevice other_complex = device("0000:41:00.0", {"pci0000:40", "0000:40:01.0"}, 0);
  const PciDevice other_node = device("0000:81:00.0", {"pci0000:80", "0000:80:01.0"}, 1);
  const PciDevice no_node = device("0000:c1:00.0", {"pci0000:c0", "0000:c0:01.0"}, -1);
  const PciDevice flat = device("0000:00:06.0", {"pci0000:00"}, -1), flat2 = device("0000:00:07.0", {"pci0000:00"}, -1);
  EXPECT_EQ(path_between(a, a, false, 2), Path::kSelf);
  EXPECT_EQ(path_between(a, same_switch, false, 2), Path::kPix);
  EXPECT_EQ(path_between(a, second_switch, false, 2), Path::kPxb);
  EXPECT_EQ(path_between(second_switch, a, false, 2), Path::kPxb);
  EXPECT_EQ(path_between(same_complex, function, false, 2), Path::kPix) << "two ports of one card";
  EXPECT_EQ(path_between(a, same_complex, false, 2), Path::kPhb);
  EXPECT_EQ(path_between(a, other_complex, false, 2), Path::kNode);
  EXPECT_EQ(path_between(a, other_node, false, 2), Path::kSys);
  EXPECT_EQ(path_between(a, no_node, false, 2), Path::kUnknown);
  EXPECT_EQ(path_between(a, no_node, false, 1), Path::kNode) << "there is only one node";
  EXPECT_EQ(path_between(flat, flat2, true, 1), Path::kUnknown) << "a virtual machine hides its switches";
  EXPECT_EQ(path_between(flat, flat2, false, 1), Path::kPhb) << "on bare metal both hang on the CPU";
  EXPECT_EQ(path_between(a, same_switch, true, 2), Path::kPix) << "this one shows them";
}

TEST(PciPaths, Addresses) {
  EXPECT_EQ(pci_id_of("/sys/devices/pci0000:15/0000:15:01.0/0000:18:00.0/infiniband/mlx5_0"), "0000:18:00.0");
  EXPECT_EQ(pci_id_of("/sys/devices/pci0000:00/0000:00:03.0/virtio2/net/eth0"), "0000:00:03.0");
  EXPECT_EQ(pci_id_of("/sys/devices/pci10000:e0/10000:e0:06.0"), "10000:e0:06.0");
  for (const char* path : {"", "/", "/sys/devices/virtual/net/lo", "0000:18:00", "zzzz:18:00.0", "0000:18:00.0x"})
    EXPECT_EQ(pci_id_of(path), "") << path;
}

TEST(Sysfs, ListsNumbersInTheirOrderAndStaysInside) {
  test::FakeRoot root("laptop", "d/mlx5_10 =\nd/mlx5_2 =\nd/mlx5_1 =\nd/a =\nout -> /etc\nup -> ../../../etc/passwd\n");
  Files files(root.path());
  EXPECT_EQ(files.list("/d"), (std::vector<std::string>{"a", "mlx5_1", "mlx5_2", "mlx5_10"}));
  EXPECT_EQ(files.resolve("/out"), "");
  EXPECT_EQ(files.resolve("/up"), "");
  EXPECT_EQ(files.resolve("/nothing"), "");
  EXPECT_TRUE(files.list("/nothing").empty());
  EXPECT_TRUE(files.read("/nothing").is_absent);
  EXPECT_FALSE(files.read("/d").ok());
  EXPECT_FALSE(files.read("/d").is_absent);
}

// Any file of a machine may hold anything: what is not understood is unknown, or an Error that says where.
TEST(Sysfs, FilesOfNonsense) {
  test::FakeRoot root("h100x4_nv6");
  std::vector<std::string> paths;
  Files files(root.path());
  for (const char* id : {"0000:1b:00.0", "0000:18:00.0"})
    for (const char* name :
         {"class", "vendor", "device", "numa_node", "current_link_speed", "max_link_width", "config"})
      paths.push_back(files.resolve(std::string("/sys/bus/pci/devices/") + id) + "/" + name);
  const std::string ib = files.resolve("/sys/class/infiniband/mlx5_0");
  for (const char* name : {"/hca_type", "/ports/1/rate", "/ports/1/state", "/ports/1/gids/0", "/ports/1/link_layer",
                           "/ports/1/counters/link_downed", "/ports/1/gid_attrs/types/0"})
    paths.push_back(ib + name);
  for (const char* path :
       {"/proc/net/route", "/proc/cpuinfo", "/proc/self/limits", "/proc/cmdline", "/proc/version",
        "/proc/driver/nvidia/version", "/sys/devices/system/node/node0/cpulist", "/sys/devices/system/node/online",
        "/sys/kernel/mm/transparent_hugepage/enabled", "/proc/sys/kernel/osrelease", "/sys/kernel/iommu_groups/0/type"})
    paths.emplace_back(path);
  for (uint64_t i = 0; i < 250; ++i) {
    const std::string path = root.path() + paths[i % paths.size()];
    const std::string good = root.read(paths[i % paths.size()]);
    const auto put = [&](const std::string& content) {
      std::FILE* file = std::fopen(path.c_str(), "wb");
      ASSERT_NE(file, nullptr) << path;
      std::fwrite(content.data(), 1, content.size(), file);
      std::fclose(file);
    };
    put(i % 7 == 0 ? std::string() : mutated(good, i));
    try {
      const Inventory inventory = take_inventory(root.path());
      ASSERT_EQ(inventory.topology.hosts.size(), 1u);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::kCorruptData) << path << ": " << error.what();
    }
    put(good);
  }
}

}  // namespace
}  // namespace lane::inventory
