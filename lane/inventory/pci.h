#pragma once
#include "lane/inventory/sysfs.h"

namespace lane::inventory {

struct PciDevice {
  std::string id;                  // "0000:18:00.0"
  std::string path;                // "/sys/devices/pci0000:15/.../0000:18:00.0"
  std::vector<std::string> chain;  // the root complex "pci0000:15", then bridges from the CPU to the device
  int device_class = 0, vendor = 0, device = 0;
  int numa_node = -1;
  topology::PcieLink link;
  bool is_virtual_function = false;

  bool is_gpu() const { return vendor == 0x10de && (device_class >> 16) == 0x03; }
  bool is_nvswitch() const { return vendor == 0x10de && (device_class >> 8) == 0x0680; }
};

// The address of the PCI device that `path` leads through last; empty if there is none.
std::string pci_id_of(std::string_view path);

// The devices that matter here: NVIDIA's GPUs and switches, and network adapters; by address.
std::map<std::string, PciDevice> read_pci(Files& files);

// What lies between two devices, from their bridges and NUMA nodes (the words of `nvidia-smi topo -m`). In a virtual
// machine a device that sits on the root bus has lost its switch, and what lies between it and others is unknown.
topology::Path path_between(const PciDevice& a, const PciDevice& b, bool is_virtual, size_t num_numa_nodes);

// Configuration space, of which the kernel shows 64 bytes to all and the rest to root. Facts pci.ats.*,
// pci.max_read_request.* of `devices`, and acs.* of the bridges above them.
void read_config_spaces(Files& files, const std::vector<const PciDevice*>& devices, std::map<std::string, Fact>& facts);

// The same space without what identifies the device: serial numbers and vital product data are zeroed.
std::string without_serial_number(std::string_view config);

// "32.0 GT/s x16 of 32.0 GT/s x16"; empty if nothing is known.
std::string describe_link(const topology::PcieLink& link);

}  // namespace lane::inventory
