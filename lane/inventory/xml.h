#pragma once
#include <optional>
#include <pugixml.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "lane/topology/topology.h"

namespace lane::inventory {

// An XML file whose errors name its lines. Error{kCorruptData} if it is not well-formed.
class XmlFile {
 public:
  XmlFile(std::string_view text, const std::string& where);

  pugi::xml_node child(const char* name) const { return document_.child(name); }
  [[noreturn]] void fail(const pugi::xml_node& node, const std::string& what) const;

  // Nothing if the attribute is not there; Error{kCorruptData} if it is something else than a number up to `most`.
  std::optional<int64_t> int_attribute(const pugi::xml_node& node, const char* name, int64_t least, int64_t most) const;

 private:
  int line_of(std::ptrdiff_t offset) const;

  std::string_view text_;
  const std::string& where_;
  pugi::xml_document document_;
};

// Where a device hangs in a tree of PCIe bridges.
struct PciPlace {
  int root = -1;             // its host bridge, or what stands for it; -1: could not be told
  std::vector<int> bridges;  // from the root to the device
  int numa_node = -1;
};

// What a file's tree can tell.
struct PciTree {
  int bridges_of_switch = 1;        // that one switch shows: its upper port, or both ports on the way
  bool root_is_host_bridge = true;  // else it is all that is near a CPU
};

topology::Path path_between(const PciPlace& a, const PciPlace& b, const PciTree& tree);

// "MT4129" for a Mellanox adapter with these hexadecimal PCI numbers, as the kernel's hca_type has it; else empty.
std::string model_of_pci_device(std::string_view vendor, std::string_view device);

}  // namespace lane::inventory
