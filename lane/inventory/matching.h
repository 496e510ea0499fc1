#pragma once
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/inventory/inventory.h"

// How the readers of text put what they found into an inventory that others have begun: a device is found again by its
// PCI address, index or name, and only what is unknown is filled in.

namespace lane::inventory {

// Gives the inventory its content back if an exception ends the block: a text that is refused changes nothing.
class Rollback {
 public:
  explicit Rollback(Inventory& inventory)
      : inventory_(inventory), before_(inventory), num_exceptions_(std::uncaught_exceptions()) {}
  ~Rollback() {
    if (std::uncaught_exceptions() > num_exceptions_) inventory_ = std::move(before_);
  }
  Rollback(const Rollback&) = delete;
  Rollback& operator=(const Rollback&) = delete;

 private:
  Inventory& inventory_;
  Inventory before_;
  int num_exceptions_;
};

// "00000000:18:00.0", "0000:18:00.0" and "18:00.0" are "0000:18:00.0"; lower case. Empty: not an address of a device.
std::string normal_pci_id(std::string_view text);

// The host that the inventory is about.
topology::Host& host_of(Inventory& inventory);

// The place of a device in the host's list; it is added if it is new. Matrices that exist get a row for it.
//  - A GPU is found by its PCI address, else, where one of the two has none, by its index (-1: not known). A new GPU
//    without an index, or whose index another one has, gets the next free one. -1: it could be any of those that have
//    no address yet.
//  - A NIC is found by its name, else by its PCI address. Either may be empty; a NIC without a name is called by its
//    address until a reader brings one. -1: it has no name and could be any of those without address. (So files
//    without names, which are NCCL's, are best read after those with names.)
int gpu_of(topology::Host& host, const std::string& pci_id, int index);
int nic_of(topology::Host& host, const std::string& name, const std::string& pci_id);
topology::NumaNode& numa_node_of(topology::Host& host, int id);
topology::NicPort& port_of(topology::Nic& nic, int number);

// Why GPUs that a tool numbers 0 to `num_listed` - 1 cannot be matched with the host's by number: in a container tools
// see fewer GPUs, and number those from 0. Empty: they can.
std::string why_not_by_index(const topology::Host& host, int num_listed);

template <class Value>
void fill(Value& value, const Value& unknown, const Value& found) {
  if (value == unknown) value = found;
}

// Both directions. A PCIe path that is known gives way to NVLink: files that tell of PCIe say nothing of NVLink. It
// does not if one of the two GPUs is known to have no active link.
void fill_gpu_path(topology::Host& host, int gpu, int other, topology::Path path, int num_nvlinks = 0);
void fill_nic_path(topology::Host& host, int gpu, int nic, topology::Path path);

// Marks GPUs as behind NVSwitch whose links to all peers together are more than they can have: shared ones. A host
// without such a sum may have switches as well; has_nvswitch stays as it is.
void infer_nvswitches(topology::Host& host);

void fill_fact(Inventory& inventory, const std::string& key, Fact fact);

// The name of the NVLink domain that `nvidia-smi -q` and NVML give: GPUs of one cluster and clique. Empty for a cluster
// of zeros only, which is how a host without an NVLink network between hosts shows itself.
std::string nvlink_domain_name(std::string_view cluster_uuid, std::string_view clique);

// "32.0 GT/s x16 of 32.0 GT/s x16"; "?" for what is not known; empty if nothing is.
std::string describe(const topology::PcieLink& link);

// What the name of a device of /sys/class/infiniband and its kind of link tell.
topology::NicKind nic_kind_of(std::string_view name, std::string_view link_layer);

// Bits of "00ff0000,0000ffff" (most significant first, as in sysfs and NCCL's files) or "0x00ff0000,,0x0000ffff"
// (hwloc), and the first form of given bits. Error{kInvalidArgument} on anything else.
std::vector<int> bits_of_mask(std::string_view mask);
std::string mask_of_bits(const std::vector<int>& bits);

}  // namespace lane::inventory
