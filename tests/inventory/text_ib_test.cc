#include "tests/inventory/text/sample.h"

namespace lane::inventory {
namespace {

using topology::NicKind;

const topology::Nic& nic(const Inventory& inventory, const std::string& name) {
  for (const topology::Nic& nic : host(inventory).nics)
    if (nic.name == name) return nic;
  throw std::runtime_error("no NIC " + name);
}

TEST(Ibstat, AllAdaptersAndTheirNames) {
  const Inventory inventory = read_sample(read_ibstat, "ibstat_dgx_h100.txt");
  ASSERT_EQ(host(inventory).nics.size(), 11u);
  const topology::Nic& compute = nic(inventory, "mlx5_9");
  EXPECT_EQ(compute.model, "MT4129");
  EXPECT_EQ(compute.firmware, "28.39.1002");
  EXPECT_EQ(compute.kind, NicKind::kInfiniband);
  ASSERT_EQ(compute.ports.size(), 1u) << "\"Port GUID:\" begins no port";
  EXPECT_EQ(compute.ports[0].number, 1);
  EXPECT_EQ(compute.ports[0].state, "ACTIVE");
  EXPECT_EQ(compute.ports[0].phys_state, "LinkUp");
  EXPECT_EQ(compute.ports[0].gbit_per_s, 400);
  EXPECT_EQ(nic(inventory, "mlx5_1").ports[0].state, "INIT") << "the kernel's word for Initializing";
  EXPECT_EQ(nic(inventory, "mlx5_2").ports[0].state, "DOWN");
  EXPECT_EQ(nic(inventory, "mlx5_2").ports[0].phys_state, "Disabled");
  EXPECT_EQ(nic(inventory, "mlx5_bond_0").kind, NicKind::kRoce) << "400 or 200, it is the link layer that tells";
  EXPECT_EQ(fact(inventory, "text.ibstat"), "ibstat");
}

TEST(Ibstat, APortForEachPort) {
  const Inventory inventory = read_sample(read_ibstat, "ibstat_dual_port.txt");
  ASSERT_EQ(host(inventory).nics.size(), 1u);
  const auto& ports = host(inventory).nics[0].ports;
  ASSERT_EQ(ports.size(), 2u);
  EXPECT_EQ(ports[0].gbit_per_s, 100);
  EXPECT_EQ(ports[1].number, 2);
  EXPECT_EQ(ports[1].state, "DOWN");
  EXPECT_EQ(ports[1].phys_state, "Polling");
}

TEST(Ibstat, RoceHasLidsOfZeroAndIsWell) {
  const Inventory inventory = read_sample(read_ibstat, "ibstat_roce.txt");
  ASSERT_EQ(host(inventory).nics.size(), 3u);
  for (const auto& nic : host(inventory).nics) EXPECT_EQ(nic.kind, NicKind::kRoce);
  EXPECT_EQ(nic(inventory, "mlx5_1").ports[0].state, "ACTIVE");
}

TEST(Ibstat, WhatComesBeforeAPanicCounts) {
  const Inventory inventory = read_sample(read_ibstat, "ibstat_panic.txt");
  ASSERT_EQ(host(inventory).nics.size(), 1u);
  EXPECT_EQ(nic(inventory, "mlx5_0").ports[0].gbit_per_s, 200);
  EXPECT_EQ(fact(inventory, "text.ibstat"),
            "incomplete: main: stat of IB device 'mlx5_an0' failed: No such file or directory");
  const Inventory nothing = read_sample(read_ibstat, "ibstat_only_panic.txt");
  EXPECT_TRUE(nothing.topology.hosts.empty());
  EXPECT_EQ(fact(nothing, "text.ibstat").substr(0, 11), "incomplete:");
}

TEST(Ibstat, AnEmptyOutputIsNoAdapter) {
  Inventory inventory;
  read_ibstat("\n", "x", inventory);
  EXPECT_TRUE(inventory.topology.hosts.empty());
  EXPECT_EQ(fact(inventory, "text.ibstat"), "?");
}

TEST(Ibstat, ErrorsNameTheLine) {
  const std::string text = sample("ibstat_dual_port.txt");
  EXPECT_EQ(error_of(read_ibstat, replaced(text, "Rate: 100", "Rate: fast")),
            "dump.txt:11: Rate: \"fast\": expected a number from 0 to 100000");
  EXPECT_EQ(error_of(read_ibstat, replaced(text, "Port 2:", "Port two:")),
            "dump.txt:18: port: \"two\": expected a number from 0 to 255");
  EXPECT_EQ(error_of(read_ibstat, text + text), "dump.txt:28: mlx5_0 is there twice");
  EXPECT_EQ(error_of(read_ibstat, "\tPort 1:\n"), "dump.txt:1: a port before the first adapter");
  EXPECT_NE(error_of(read_ibstat, "mlx5_0\nmlx5_1\n").find("without flags"), std::string::npos) << "ibstat -l";
}

TEST(IbvDevinfo, TheShortForm) {
  const Inventory inventory = read_sample(read_ibv_devinfo, "ibv_devinfo.txt");
  ASSERT_EQ(host(inventory).nics.size(), 3u);
  const topology::Nic& compute = nic(inventory, "mlx5_0");
  EXPECT_EQ(compute.model, "MT4129");
  EXPECT_EQ(compute.board_id, "MT_0000000838");
  EXPECT_EQ(compute.firmware, "28.39.1002");
  EXPECT_EQ(compute.kind, NicKind::kInfiniband);
  EXPECT_EQ(compute.ports[0].state, "ACTIVE");
  EXPECT_EQ(compute.ports[0].gbit_per_s, 0) << "only -v tells the rate";
  EXPECT_EQ(nic(inventory, "mlx5_1").kind, NicKind::kRoce);
  EXPECT_EQ(nic(inventory, "mlx5_1").ports[0].state, "DOWN");
  EXPECT_EQ(nic(inventory, "rdmap16s27").kind, NicKind::kEfa);
  EXPECT_EQ(nic(inventory, "rdmap16s27").model, "") << "MT numbers are Mellanox's";
}

TEST(IbvDevinfo, TheLongFormTellsRateAndGids) {
  const Inventory inventory = read_sample(read_ibv_devinfo, "ibv_devinfo_v.txt");
  ASSERT_EQ(host(inventory).nics.size(), 3u);
  EXPECT_EQ(nic(inventory, "mlx5_0").ports[0].gbit_per_s, 400);
  EXPECT_EQ(nic(inventory, "mlx5_0").ports[0].speed_name, "4X NDR");
  EXPECT_EQ(nic(inventory, "mlx5_0").ports[0].phys_state, "LinkUp");
  EXPECT_EQ(fact(inventory, "ib.mlx5_0.1.gid.0"), "IB/RoCE v1 fe80::...");
  const topology::Nic& roce = nic(inventory, "mlx5_1");
  ASSERT_EQ(roce.ports.size(), 2u);
  EXPECT_EQ(roce.ports[0].speed_name, "4X NDR") << "the code counts where the version does not know the word";
  EXPECT_EQ(roce.ports[1].speed_name, "1X EDR");
  EXPECT_EQ(roce.ports[1].gbit_per_s, 25);
  EXPECT_EQ(roce.ports[1].state, "INIT");
  EXPECT_EQ(roce.ports[1].phys_state, "Polling");
  EXPECT_EQ(fact(inventory, "ib.mlx5_1.1.gid.1"), "RoCE v2 fe80::...");
  EXPECT_EQ(fact(inventory, "ib.mlx5_1.1.gid.3"), "RoCE v2 ::ffff:...");
  EXPECT_EQ(fact(inventory, "ib.mlx5_1.1.gid.0"), "IB/RoCE v1 fe80::...") << "the kernel's word";
  EXPECT_EQ(fact(inventory, "ib.mlx5_1.1.gid.2"), "-");
  EXPECT_EQ(nic(inventory, "mlx5_2").ports[0].speed_name, "2X NDR") << "two lanes are lost";
  EXPECT_EQ(nic(inventory, "mlx5_2").ports[0].gbit_per_s, 200);
  EXPECT_EQ(nic(inventory, "mlx5_2").ports[0].phys_state, "LinkErrorRecovery");
}

TEST(IbvDevinfo, DevicesThatCannotBeOpenedAreSaidToBeMissing) {
  const Inventory inventory = read_sample(read_ibv_devinfo, "ibv_devinfo_failed.txt");
  EXPECT_EQ(host(inventory).nics.size(), 1u);
  EXPECT_EQ(fact(inventory, "text.ibv_devinfo"), "incomplete: Failed to open device");
  const Inventory none = read_sample(read_ibv_devinfo, "ibv_devinfo_none.txt");
  EXPECT_TRUE(none.topology.hosts.empty());
  EXPECT_EQ(fact(none, "text.ibv_devinfo"), "ibv_devinfo");
}

TEST(IbvDevinfo, ErrorsNameTheLine) {
  const std::string text = sample("ibv_devinfo.txt");
  EXPECT_EQ(error_of(read_ibv_devinfo, replaced(text, "port:\t1", "port:\t1x")),
            "dump.txt:11: port: \"1x\": expected a number from 0 to 255");
  EXPECT_EQ(error_of(read_ibv_devinfo, replaced(text, "hca_id:\tmlx5_1", "hca_id:\tmlx5_0")),
            "dump.txt:20: mlx5_0 is there twice");
  EXPECT_NE(error_of(read_ibv_devinfo, "what\n").find("hca_id"), std::string::npos);
}

}  // namespace
}  // namespace lane::inventory
