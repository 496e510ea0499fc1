#pragma once
#include "lane/inventory/pci.h"

namespace lane::inventory {

struct Rate {
  double gbit_per_s = 0;
  std::string speed_name;  // "4X NDR"
};
// "400 Gb/sec (4X NDR)"; zero and empty for anything else.
Rate parse_rate(std::string_view text);

// "4: ACTIVE" without its number.
std::string without_number(std::string_view state);

// What kind of address a GID is, without the address: "fe80::...", "::ffff:..." (an IPv4 address) or "global". Empty:
// none is set, or it is no GID.
std::string kind_of_gid(std::string_view gid);
// The same GID with its address masked; the kind stays.
std::string without_address(std::string_view gid);

// All adapters: /sys/class/infiniband (InfiniBand, RoCE, EFA), /sys/class/cxi (Slingshot), and of /sys/class/net those
// that are on none of the functions of the former, have a PCI device and a cable.
std::vector<topology::Nic> read_nics(Files& files, const std::map<std::string, PciDevice>& devices,
                                     std::map<std::string, Fact>& facts);

// Names of PCI functions whose interface has the default route.
std::set<std::string> default_route_devices(Files& files);

// What adapters are for, from four signals: the path to the nearest GPU, the NUMA node, the kind of link, and the
// default route. Those that are near a GPU (PIX, PXB) compute; where no adapter is, the fastest ones with RDMA on the
// NUMA node of a GPU. With the default route and far from GPUs: management. Other RDMA: storage. Virtual functions and
// all that gives no sign: unknown.
void set_roles(topology::Host& host, const std::set<std::string>& default_route);

}  // namespace lane::inventory
