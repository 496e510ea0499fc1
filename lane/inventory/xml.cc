#include "lane/inventory/xml.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "lane/inventory/text.h"

namespace lane::inventory {

using topology::Path;

XmlFile::XmlFile(std::string_view text, const std::string& where) : text_(text), where_(where) {
  const pugi::xml_parse_result result = document_.load_buffer(text.data(), text.size());
  if (!result) corrupt(where, line_of(result.offset), std::string("not well-formed XML: ") + result.description());
}

int XmlFile::line_of(std::ptrdiff_t offset) const {
  const auto end = text_.begin() + std::clamp<std::ptrdiff_t>(offset, 0, std::ssize(text_));
  return 1 + static_cast<int>(std::count(text_.begin(), end, '\n'));
}

void XmlFile::fail(const pugi::xml_node& node, const std::string& what) const {
  corrupt(where_, line_of(node.offset_debug()), fmt::format("<{}>: {}", node.name(), what));
}

std::optional<int64_t> XmlFile::int_attribute(const pugi::xml_node& node, const char* name, int64_t least,
                                              int64_t most) const {
  const pugi::xml_attribute attribute = node.attribute(name);
  if (!attribute) return std::nullopt;
  const auto number = int_of(attribute.value());
  if (!number || *number < least || *number > most)
    fail(node, fmt::format("{}=\"{}\": expected a number from {} to {}", name, attribute.value(), least, most));
  return number;
}

Path path_between(const PciPlace& a, const PciPlace& b, const PciTree& tree) {
  const bool same_node = a.numa_node >= 0 && a.numa_node == b.numa_node;
  if (a.numa_node >= 0 && b.numa_node >= 0 && !same_node) return Path::kSys;
  if (a.root < 0 || b.root < 0) return Path::kUnknown;
  if (a.root != b.root) return same_node ? Path::kNode : Path::kUnknown;
  const auto [at_a, at_b] = std::mismatch(a.bridges.begin(), a.bridges.end(), b.bridges.begin(), b.bridges.end());
  if (at_a == a.bridges.begin()) return tree.root_is_host_bridge || same_node ? Path::kPhb : Path::kUnknown;
  const auto furthest = std::max(a.bridges.end() - at_a, b.bridges.end() - at_b);
  return furthest < tree.bridges_of_switch ? Path::kPix : Path::kPxb;
}

std::string model_of_pci_device(std::string_view vendor, std::string_view device) {
  if (vendor.starts_with("0x")) vendor.remove_prefix(2);
  if (device.starts_with("0x")) device.remove_prefix(2);
  unsigned number = 0;
  const auto [stop, error] = std::from_chars(device.data(), device.data() + device.size(), number, 16);
  const bool is_number = error == std::errc{} && stop == device.data() + device.size();
  return vendor == "15b3" && is_number ? fmt::format("MT{}", number) : std::string();
}

}  // namespace lane::inventory
