#include <pugixml.hpp>
#include <set>

#include "lane/inventory/matching.h"
#include "tests/inventory/text/sample.h"

namespace lane::inventory {
namespace {

using topology::NicKind;
using topology::Path;
using Names = std::vector<std::string>;

Inventory nccl(const std::string& machine) { return read_sample(read_nccl_topo, "nccl_topo_" + machine + ".xml"); }
Inventory hwloc(const std::string& machine) { return read_sample(read_hwloc, "hwloc_" + machine + ".xml"); }

TEST(NcclTopo, TwoLevelsOfSwitches) {
  const Inventory inventory = nccl("dgx_a100");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 4u);
  ASSERT_EQ(found.nics.size(), 4u);
  EXPECT_EQ(found.gpus[0].pci_id, "0000:07:00.0");
  EXPECT_EQ(found.gpus[0].sm, 80);
  EXPECT_EQ(found.gpus[0].numa_node, 3);
  EXPECT_EQ(found.gpus[0].pcie, (topology::PcieLink{0, 16, 0, 16})) << "it tells what the link can, not what it does";
  EXPECT_EQ(found.gpus[0].num_nvlinks, 12);
  EXPECT_TRUE(found.gpus[0].has_nvswitch);
  EXPECT_EQ(found.gpu_to_gpu[0][3], Path::kNvlink);
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0][3], 12);
  EXPECT_EQ(found.gpu_to_nic[0], (std::vector{Path::kPix, Path::kPxb, Path::kSys, Path::kSys}));
  EXPECT_EQ(found.gpu_to_nic[1], (std::vector{Path::kPxb, Path::kPix, Path::kSys, Path::kSys}));
  EXPECT_EQ(found.nics[0].model, "MT4123");
  EXPECT_EQ(found.nics[0].kind, NicKind::kInfiniband);
  EXPECT_EQ(found.nics[0].ports[0].gbit_per_s, 200);
  ASSERT_EQ(found.machine.numa_nodes.size(), 2u);
  EXPECT_EQ(found.machine.numa_nodes[0].id, 1);
  EXPECT_EQ(found.machine.numa_nodes[0].cpus.front(), 16);
  EXPECT_EQ(found.machine.numa_nodes[0].cpus.back(), 159);
  EXPECT_EQ(found.machine.numa_nodes[0].cpus.size(), 32u);
  EXPECT_EQ(fact(inventory, "os.cpu_vendor"), "AuthenticAMD");
}

TEST(NcclTopo, AVirtualMachineHidesMuch) {
  const Inventory inventory = nccl("h200_vm");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 4u);
  EXPECT_EQ(found.gpus[2].numa_node, -1);
  EXPECT_EQ(found.gpus[2].pcie, (topology::PcieLink{0, 32, 0, 0})) << "a width of 0 is an unknown one";
  EXPECT_TRUE(found.gpus[2].has_nvswitch) << "the target's address is hidden, its class is not";
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0][1], 18);
  ASSERT_EQ(found.nics.size(), 1u);
  EXPECT_EQ(found.nics[0].name, "eth0");
  EXPECT_EQ(found.nics[0].kind, NicKind::kEthernet);
  EXPECT_EQ(found.nics[0].ports[0].gbit_per_s, 0) << "10 Gb/s is what NCCL takes if it does not know";
  EXPECT_TRUE(found.gpu_to_nic.empty()) << "it has no place in the tree";
  EXPECT_TRUE(found.machine.numa_nodes.empty());
}

TEST(NcclTopo, DirectLinksRoceAndTwoPorts) {
  const Inventory inventory = nccl("h100_direct");
  const topology::Host& found = host(inventory);
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0], (std::vector{0, 6, 6, 6}));
  EXPECT_FALSE(found.gpus[0].has_nvswitch);
  EXPECT_EQ(found.gpus[0].num_nvlinks, 18);
  ASSERT_EQ(found.nics.size(), 4u);
  EXPECT_EQ(found.nics[0].kind, NicKind::kRoce);
  ASSERT_EQ(found.nics[0].ports.size(), 2u);
  EXPECT_EQ(found.nics[0].ports[1].gbit_per_s, 400);
  EXPECT_EQ(found.gpu_to_nic[0][0], Path::kPhb) << "no switch is shared";
  EXPECT_EQ(found.gpu_to_nic[0][3], Path::kSys);
}

TEST(NcclTopo, NicsThatAreUsedAsOneAreStillTwo) {
  const Inventory inventory = nccl("h100_direct");
  const auto& nics = host(inventory).nics;
  EXPECT_EQ(nics[1].name, "mlx5_1");
  EXPECT_EQ(nics[2].name, "mlx5_2");
  EXPECT_EQ(nics[1].pci_id, "") << "the file has one address for both";
  EXPECT_TRUE(nics[1].ports.empty()) << "and one speed";
  EXPECT_EQ(host(inventory).gpu_to_nic[1][2], Path::kPhb);
}

TEST(NcclTopo, FilesForVirtualMachinesHoldAddressesOnly) {
  const Inventory inventory = nccl("devices_only");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 4u);
  EXPECT_EQ(found.gpus[2].pci_id, "0003:00:00.0");
  EXPECT_EQ(found.gpus[2].num_nvlinks, -1);
  ASSERT_EQ(found.nics.size(), 4u);
  EXPECT_EQ(found.nics[3].name, "0104:00:00.0") << "until a reader knows a better one";
  EXPECT_EQ(found.gpu_to_nic[2], (std::vector{Path::kSys, Path::kSys, Path::kPix, Path::kPhb}));
}

// Vera Rubin: two dies that programs see as two GPUs, each listed with all links. GB10: a NIC by its persistent name.
TEST(NcclTopo, PartsOfAGpuAreOneGpu) {
  const std::string gpu =
      "<gpu dev=\"0\" sm=\"107\" mlopart=\"0\"><nvlink target=\"fffffff:ff:ff.0\" count=\"36\" "
      "tclass=\"0x068000\"/><c2c bw=\"56376\" count=\"7\"/></gpu>";
  Inventory inventory;
  read_nccl_topo(
      "<system version=\"1\"><cpu numaid=\"0\" arch=\"arm64\"><pci busid=\"0002:81:00.0\" class=\"0x030200\">" + gpu +
          replaced(gpu, "mlopart=\"0\"", "mlopart=\"1\"") +
          "</pci><pci busid=\"0000:01:00.0\" class=\"0x020000\" link_speed=\"\" link_width=\"\"><nic>"
          "<net name=\"rocep1s0f0\" speed=\"200000\" net=\"1\" gin=\"1\"/><net name=\"SHARP\" net=\"0\" coll=\"1\"/>"
          "</nic></pci></cpu></system>",
      "x", inventory);
  ASSERT_EQ(host(inventory).gpus.size(), 1u);
  EXPECT_EQ(host(inventory).gpus[0].num_nvlinks, 36);
  EXPECT_EQ(host(inventory).gpus[0].sm, 107);
  ASSERT_EQ(host(inventory).nics.size(), 1u) << "a tree of SHARP is no NIC";
  EXPECT_EQ(host(inventory).nics[0].kind, NicKind::kRoce);
  EXPECT_EQ(host(inventory).nics[0].pcie, topology::PcieLink{});
  EXPECT_EQ(host(inventory).nics[0].ports[0].gbit_per_s, 200);
}

TEST(NcclTopo, OfSeveralHostsTheFirstIsRead) {
  const Inventory inventory = nccl("two_hosts");
  EXPECT_EQ(host(inventory).gpus.size(), 2u);
  EXPECT_EQ(host(inventory).gpus[1].sm, 100);
  EXPECT_EQ(fact(inventory, "text.nccl_topo"), "NCCL's topology file, the first of its 2 hosts");
}

TEST(NcclTopo, ErrorsNameTheLine) {
  const std::string text = sample("nccl_topo_dgx_a100.xml");
  const auto error = [&](const char* from, const char* to) {
    return error_of(read_nccl_topo, replaced(text, from, to));
  };
  EXPECT_EQ(error("version=\"1\"", "version=\"2\""), "dump.txt:1: <system>: expected version=\"1\"");
  EXPECT_EQ(error("numaid=\"3\"", "numaid=\"three\""),
            "dump.txt:2: <cpu>: numaid=\"three\": expected a number from -1 to 1023");
  EXPECT_EQ(error("0000:02:00.0", "0000:01:00.0"), "dump.txt:4: <pci>: busid 0000:01:00.0 is there twice");
  EXPECT_EQ(error("0000:02:00.0", "2"), "dump.txt:4: <pci>: busid=\"2\": expected a PCI address");
  EXPECT_EQ(error("sm=\"80\"", "sm=\"\""), "dump.txt:6: <gpu>: sm=\"\": expected a number from 0 to 999");
  EXPECT_NE(error("0000ffff,00000000", "0000ffff,0000000g").find("dump.txt:2: <cpu>: affinity: mask"),
            std::string::npos);
  EXPECT_EQ(error("</gpu>", "</cpu>").find("dump.txt:13: not well-formed XML: "), 0u);
  EXPECT_NE(error_of(read_nccl_topo, "<graphs version=\"1\"/>").find("no <system>"), std::string::npos);
  EXPECT_NE(error_of(read_nccl_topo, text.substr(0, 400)).find("not well-formed"), std::string::npos);
}

TEST(NcclTopo, NeitherDepthNorNumbersTakeForEver) {
  std::string deep, many;
  for (int at = 0; at < 200'000; ++at) deep += "<pci busid=\"" + std::to_string(at % 10'000) + ":00:00.0\">";
  EXPECT_NE(error_of(read_nccl_topo, "<system version=\"1\"><cpu numaid=\"0\">" + deep), "");
  deep.clear();
  for (int at = 0; at < 5'000; ++at) {
    deep += "<pci busid=\"" + std::to_string(at) + ":00:00.0\">";
    many += "<pci busid=\"" + std::to_string(at) + ":00:00.0\" class=\"0x030200\"/>";
  }
  for (int at = 0; at < 5'000; ++at) deep += "</pci>";
  const auto error = [](const std::string& pcis) {
    return error_of(read_nccl_topo, "<system version=\"1\"><cpu numaid=\"0\">" + pcis + "</cpu></system>");
  };
  EXPECT_NE(error(deep).find("nested too deep"), std::string::npos);
  EXPECT_NE(error(many).find("more than 1024 GPUs"), std::string::npos);
}

// The writer.

topology::Gpu gpu_at(int index, const std::string& pci_id, int numa_node) {
  return {.index = index, .pci_id = pci_id, .sm = 90, .numa_node = numa_node, .pcie = {0, 32, 0, 16}};
}
topology::Nic nic_at(const std::string& pci_id, int numa_node) {
  return {
      .name = pci_id, .pci_id = pci_id, .kind = NicKind::kInfiniband, .numa_node = numa_node, .pcie = {0, 32, 0, 16}};
}

bool is_one_of(const pugi::xml_attribute& attribute, const std::set<std::string>& words) {
  return words.count(attribute.value()) > 0;
}

// What NCCL asks of an element.
bool is_sound(const pugi::xml_node& node) {
  const std::string tag = node.name(), above = node.parent().name();
  for (const auto& attribute : node.attributes())
    if (std::string(attribute.value()).size() > 254) return false;
  if (tag == "cpu") return above == "system" && node.attribute("numaid");
  if (tag == "gpu") return above == "pci" && node.attribute("dev");
  if (tag == "nvlink")
    return above == "gpu" && node.attribute("target") && node.attribute("count").as_int() > 0 &&
           node.attribute("tclass");
  // A <nic> with its <net> would not be looked up any more; a speed in other words would be 8 GT/s.
  const auto speed = node.attribute("link_speed");
  return tag == "pci" && (above == "cpu" || above == "pci") &&
         is_one_of(node.attribute("class"), {"0x060400", "0x030200", "0x020700", "0x020000"}) &&
         normal_pci_id(node.attribute("busid").value()) == node.attribute("busid").value() &&
         (!speed || is_one_of(speed, {"2.5 GT/s PCIe", "5.0 GT/s PCIe", "8.0 GT/s PCIe", "16.0 GT/s PCIe",
                                      "32.0 GT/s PCIe", "64.0 GT/s PCIe"}));
}

void expect_sound_below(const pugi::xml_node& node, std::set<std::string>& ids) {
  for (const auto& child : node.children()) {
    EXPECT_TRUE(is_sound(child)) << child.name() << " " << child.attribute("busid").value();
    const std::string id = child.attribute("busid").value();
    EXPECT_TRUE(id.empty() || ids.insert(id).second) << id;
    expect_sound_below(child, ids);
  }
}

void expect_nccl_takes(const std::string& text) {
  pugi::xml_document document;
  ASSERT_TRUE(document.load_string(text.c_str())) << text;
  EXPECT_STREQ(document.child("system").attribute("version").value(), "1");
  EXPECT_TRUE(text.starts_with("<system ")) << "its parser knows no prolog";
  std::set<std::string> ids;
  expect_sound_below(document.child("system"), ids);
}

topology::Host two_sockets() {
  topology::Host host;
  host.machine.numa_nodes = {{.id = 0, .cpus = {0, 1, 2, 3, 64}}, {.id = 1, .cpus = {32, 33}}};
  for (int at = 0; at < 4; ++at) {
    host.gpus.push_back(gpu_at(at, "0000:" + std::to_string(at + 1) + "8:00.0", at / 2));
    host.gpus.back().num_nvlinks = 18;
    host.gpus.back().has_nvswitch = true;
    host.nics.push_back(nic_at("0000:" + std::to_string(at + 1) + "9:00.0", at / 2));
  }
  host.gpu_to_gpu.assign(4, std::vector(4, Path::kNvlink));
  host.gpu_to_gpu_nvlinks.assign(4, std::vector(4, 18));
  host.gpu_to_nic.assign(4, std::vector(4, Path::kSys));
  for (size_t at = 0; at < 4; ++at) {
    host.gpu_to_gpu[at][at] = Path::kSelf;
    host.gpu_to_gpu_nvlinks[at][at] = 0;
    host.gpu_to_nic[at][at] = Path::kPix;  // each socket otherwise: two switches below one, and two apart
    host.gpu_to_nic[at][at ^ 1] = at < 2 ? Path::kPxb : Path::kPhb;
  }
  return host;
}

topology::Host reread(const topology::Host& host) {
  Inventory inventory;
  read_nccl_topo(to_nccl_topo(host), "written", inventory);
  return inventory.topology.hosts.at(0);
}

TEST(ToNcclTopo, ReadingGivesBackWhatWasWritten) {
  const topology::Host host = two_sockets();
  expect_nccl_takes(to_nccl_topo(host));
  EXPECT_EQ(reread(host), host);
}

TEST(ToNcclTopo, DirectLinksComeBack) {
  topology::Host host = two_sockets();
  for (size_t at = 0; at < 4; ++at) {
    host.gpus[at].has_nvswitch = false;
    for (size_t other = 0; other < 4; ++other) host.gpu_to_gpu_nvlinks[at][other] = at == other ? 0 : 6;
  }
  expect_nccl_takes(to_nccl_topo(host));
  EXPECT_EQ(reread(host), host);
}

TEST(ToNcclTopo, WithoutNvlinkThePciePathsComeBack) {
  topology::Host host = two_sockets();
  for (size_t at = 0; at < 4; ++at) {
    host.gpus[at].has_nvswitch = false;
    host.gpus[at].num_nvlinks = -1;
    for (size_t other = 0; other < 4; ++other) {
      if (at == other) continue;
      host.gpu_to_gpu_nvlinks[at][other] = 0;
      host.gpu_to_gpu[at][other] = at / 2 != other / 2 ? Path::kSys : at < 2 ? Path::kPxb : Path::kPhb;
    }
  }
  EXPECT_EQ(reread(host), host);
}

TEST(ToNcclTopo, SamplesComeBackFromWhatIsWrittenOfThem) {
  for (const char* machine : {"dgx_a100", "devices_only", "two_hosts"}) {
    Inventory inventory = nccl(machine), again;
    const std::string written = to_nccl_topo(host(inventory));
    expect_nccl_takes(written);
    again.topology.hosts.resize(1);
    for (const topology::Nic& nic : host(inventory).nics)  // NCCL looks names, models and ports up by itself
      again.topology.hosts[0].nics.push_back(
          {.name = nic.name, .pci_id = nic.pci_id, .model = nic.model, .ports = nic.ports});
    read_nccl_topo(written, "written", again);
    EXPECT_EQ(host(again), host(inventory)) << machine << "\n" << written;
  }
}

TEST(ToNcclTopo, NamesKnownElsewhereMeetByAddress) {
  topology::Host named = two_sockets();
  for (size_t at = 0; at < 4; ++at) named.nics[at].name = "mlx5_" + std::to_string(at);
  Inventory inventory;
  inventory.topology.hosts.push_back({.nics = named.nics});
  read_nccl_topo(to_nccl_topo(named), "written", inventory);
  EXPECT_EQ(host(inventory), named);
}

TEST(ToNcclTopo, WhatIsNotKnownIsLeftToNccl) {
  topology::Host host;
  host.gpus.push_back({.index = 0, .pci_id = "0000:18:00.0"});
  host.gpus.push_back({.index = 1});  // no address: nothing to say
  host.nics.push_back({.name = "mlx5_0", .pci_id = "0000:19:00.0"});
  EXPECT_EQ(to_nccl_topo(host),
            "<system version=\"1\">\n"
            "  <cpu numaid=\"-1\">\n"
            "    <pci busid=\"0000:18:00.0\" class=\"0x030200\">\n"
            "      <gpu dev=\"0\"/>\n"
            "    </pci>\n"
            "    <pci busid=\"0000:19:00.0\" class=\"0x020000\"/>\n"
            "  </cpu>\n"
            "</system>\n");
}

// hwloc. The same machine in three versions of the format.

void expect_dgx2(const Inventory& inventory) {
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 8u);
  EXPECT_EQ(found.gpus[5].index, 5);
  EXPECT_EQ(found.gpus[5].pci_id, "0000:a9:00.0");
  EXPECT_EQ(found.gpus[5].name, "Tesla V100-SXM3-32GB");
  EXPECT_EQ(found.gpus[5].memory_bytes, int64_t{33538048} << 10);
  EXPECT_EQ(found.gpus[5].numa_node, 1);
  ASSERT_EQ(found.nics.size(), 6u);
  const auto column = [&](const std::string& name) {
    size_t at = 0;
    while (found.nics.at(at).name != name) ++at;
    return at;
  };
  const auto path = [&](size_t gpu, const std::string& name) { return found.gpu_to_nic[gpu][column(name)]; };
  EXPECT_EQ(path(0, "mlx5_0"), Path::kPix) << "two ports of one switch lie between";
  EXPECT_EQ(path(1, "mlx5_0"), Path::kPix);
  EXPECT_EQ(path(2, "mlx5_0"), Path::kPxb);
  EXPECT_EQ(path(4, "mlx5_0"), Path::kSys);
  EXPECT_EQ(path(4, "mlx5_2"), Path::kPix);
  EXPECT_EQ(path(0, "eth0"), Path::kPhb) << "below the same host bridge, in another slot";
  EXPECT_EQ(path(0, "eth1"), Path::kSys);
  const topology::Nic& nic = found.nics[column("mlx5_3")];
  EXPECT_EQ(nic.kind, NicKind::kInfiniband);
  EXPECT_EQ(nic.model, "MT4119");
  EXPECT_EQ(nic.numa_node, 1);
  EXPECT_EQ(nic.ports.at(0).state, "ACTIVE");
  EXPECT_EQ(found.nics[column("eth0")].kind, NicKind::kEthernet);
  ASSERT_EQ(found.machine.numa_nodes.size(), 2u);
  EXPECT_EQ(found.machine.numa_nodes[0].cpus.size(), 24u);
  EXPECT_EQ(found.machine.numa_nodes[0].memory_bytes, 810234351616);
  EXPECT_EQ(found.machine.numa_nodes[1].cpus.size(), 24u);
  EXPECT_EQ(found.machine.cpu_model, "Intel(R) Xeon(R) Platinum 8168 CPU @ 2.70GHz");
  EXPECT_EQ(found.name, "dgx2");
  EXPECT_EQ(fact(inventory, "os.kernel"), "5.15.0-91-generic");
  EXPECT_EQ(fact(inventory, "os.cpu_vendor"), "GenuineIntel");
}

TEST(Hwloc, Version2) {
  const Inventory inventory = hwloc("v2");
  expect_dgx2(inventory);
  const topology::Host& found = host(inventory);
  EXPECT_EQ(found.gpus[7].num_nvlinks, 6);
  EXPECT_TRUE(found.gpus[7].has_nvswitch);
  EXPECT_EQ(found.gpu_to_gpu[0][7], Path::kNvlink);
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0][7], 6);
  EXPECT_EQ(found.gpus[7].nvlink_gb_per_s, 0) << "hwloc's 25 GB/s are nominal, not what the link signals";
}

TEST(Hwloc, Version3) {
  expect_dgx2(hwloc("v3"));
  EXPECT_EQ(hwloc("v3").topology, hwloc("v2").topology);
}

TEST(Hwloc, Version1) {
  const Inventory inventory = hwloc("v1");
  expect_dgx2(inventory);
  EXPECT_EQ(host(inventory).gpu_to_gpu[0][1], Path::kPix);
  EXPECT_EQ(host(inventory).gpu_to_gpu[0][2], Path::kPxb);
  EXPECT_EQ(host(inventory).gpu_to_gpu[0][4], Path::kSys);
  EXPECT_EQ(host(inventory).gpus[0].num_nvlinks, -1) << "it has no matrix of them";
}

TEST(Hwloc, DirectLinksAndHostBridgesOfTheirOwn) {
  const Inventory inventory = hwloc("direct");
  const topology::Host& found = host(inventory);
  ASSERT_EQ(found.gpus.size(), 4u);
  EXPECT_EQ(found.gpus[2].pci_id, "000a:01:00.0");
  EXPECT_EQ(found.gpu_to_gpu_nvlinks[0], (std::vector{0, 2, 0, 0})) << "40000 MB/s are two links of 20 GB/s";
  EXPECT_EQ(found.gpu_to_gpu[0][1], Path::kNvlink);
  EXPECT_EQ(found.gpu_to_gpu[0][2], Path::kSys);
  EXPECT_FALSE(found.gpus[0].has_nvswitch);
  std::string text = sample("hwloc_direct.xml");
  text.erase(text.find("  <distances2"), text.find("</topology>") - text.find("  <distances2"));
  Inventory without;
  read_hwloc(text, "x", without);
  EXPECT_EQ(host(without).gpu_to_gpu[0][1], Path::kNode) << "two host bridges of one NUMA node";
}

TEST(Hwloc, ErrorsNameTheLine) {
  const std::string text = sample("hwloc_direct.xml");
  const auto error = [&](const char* from, const char* to) { return error_of(read_hwloc, replaced(text, from, to)); };
  EXPECT_EQ(error("\"0002:01:00.0\"", "\"0002-01\""),
            "dump.txt:8: <object>: pci_busid=\"0002-01\": expected a PCI address");
  EXPECT_EQ(error("\"0003:01:00.0\"", "\"0002:01:00.0\""),
            "dump.txt:17: <object>: pci_busid 0002:01:00.0 is there twice");
  EXPECT_EQ(error("40000 ", ""), "dump.txt:47: <distances2>: NVLinkBandwidth: 15 values between 4 endpoints");
  EXPECT_NE(error("40000 ", "fast ").find("\"fast\": expected megabytes per second"), std::string::npos);
  EXPECT_NE(error("cpuset=\"0x000000ff\"", "cpuset=\"all\"").find("dump.txt:5: <object>: cpuset: mask \"all\""),
            std::string::npos);
  EXPECT_NE(error_of(read_hwloc, "<topology/>").find("expected the XML of hwloc"), std::string::npos);
  std::string deep;
  for (int at = 0; at < 5'000; ++at) deep = "<object type=\"Group\">" + deep + "</object>";
  EXPECT_NE(error_of(read_hwloc, "<topology>" + deep + "</topology>").find("nested too deep"), std::string::npos);
  EXPECT_NE(error_of(read_hwloc, "not XML").find("dump.txt:1: "), std::string::npos);
}

}  // namespace
}  // namespace lane::inventory
