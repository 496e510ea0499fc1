#include "lane/inventory/pci.h"

#include <fmt/format.h>

#include <algorithm>

namespace lane::inventory {
namespace {

using topology::Path;
using topology::PcieLink;

constexpr int kWidest = 32;  // lanes; the kernel writes 63 and 255 for what it cannot tell

// "0000:18:00.0", also with a domain of more digits (VMD, Hyper-V).
bool is_pci_id(std::string_view name) {
  const size_t colon = name.find(':');
  if (colon == std::string_view::npos || colon < 4 || name.size() != colon + 8) return false;
  if (name[colon + 3] != ':' || name[colon + 6] != '.') return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || c == ':' || c == '.'; });
}

bool is_root_complex(std::string_view name) { return name.starts_with("pci") && name.find(':') != name.npos; }

int number_in(Files& files, const std::string& path, int fallback) {
  const Reading reading = files.read(path);
  const auto value = reading.ok() ? whole_number(reading.text) : std::nullopt;
  return value && *value >= -1 && *value <= 0x7fffffff ? static_cast<int>(*value) : fallback;
}

int lanes_in(Files& files, const std::string& path) {
  const int lanes = number_in(files, path, 0);
  return lanes >= 0 && lanes <= kWidest ? lanes : 0;
}

// Both ends count: a Gen5 card in a Gen4 slot can do Gen4.
PcieLink read_link(Files& files, const std::string& path) {
  const std::string above = path.substr(0, path.rfind('/'));
  PcieLink link{.gt_per_s = leading_number(files.read(path + "/current_link_speed").text),
                .max_gt_per_s = leading_number(files.read(path + "/max_link_speed").text),
                .width = lanes_in(files, path + "/current_link_width"),
                .max_width = lanes_in(files, path + "/max_link_width")};
  if (!is_pci_id(above.substr(above.rfind('/') + 1))) return link;
  const double port_gt_per_s = leading_number(files.read(above + "/max_link_speed").text);
  const int port_width = lanes_in(files, above + "/max_link_width");
  if (port_gt_per_s > 0 && link.max_gt_per_s > 0) link.max_gt_per_s = std::min(link.max_gt_per_s, port_gt_per_s);
  if (port_width > 0 && link.max_width > 0) link.max_width = std::min(link.max_width, port_width);
  return link;
}

uint32_t word_at(std::string_view bytes, size_t offset, size_t num_bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < num_bytes && offset + i < bytes.size(); ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[offset + i])) << (8 * i);
  return value;
}

// PCI Local Bus 3.0, section 6.7: a list of one-byte offsets. PCI Express Base 7.9: the same with 12 bits from 0x100.
constexpr size_t kFreeBytes = 64;  // that everybody may read
constexpr size_t kExtended = 0x100;
constexpr uint32_t kExpressCapability = 0x10, kAcs = 0x0d, kAts = 0x0f;

size_t find_capability(std::string_view config, uint32_t wanted) {
  size_t at = word_at(config, 0x34, 1) & 0xfc;
  for (int i = 0; i < 48 && at >= kFreeBytes && at + 4 <= config.size(); ++i, at = word_at(config, at + 1, 1) & 0xfc)
    if (word_at(config, at, 1) == wanted) return at;
  return 0;
}

size_t find_extended(std::string_view config, uint32_t wanted) {
  size_t at = kExtended;
  for (int i = 0; i < 512 && at >= kExtended && at + 8 <= config.size(); ++i) {
    const uint32_t header = word_at(config, at, 4);
    if ((header & 0xffff) == wanted) return at;
    at = (header >> 20) & 0xffc;
  }
  return 0;
}

void read_endpoint(Files& files, const PciDevice& device, std::map<std::string, Fact>& facts) {
  const std::string source = device.path + "/config";
  const Reading config = files.read(source);
  const std::string read_request = "pci.max_read_request." + device.id, ats = "pci.ats." + device.id;
  if (!config.ok() || config.text.size() <= kFreeBytes) {
    const std::string why = config.ok() ? "only root may read beyond 64 bytes; run as root" : config.why;
    facts[read_request] = facts[ats] = {.source = source, .why_unknown = why};
    return;
  }
  const size_t express = find_capability(config.text, kExpressCapability);
  if (express == 0) return;  // a device of a virtual machine's plain PCI bus
  // Device Control, bits 14:12: 128 bytes times a power of two
  facts[read_request] = {.value = std::to_string(128 << ((word_at(config.text, express + 8, 2) >> 12) & 7)),
                         .source = source};
  if (config.text.size() <= kExtended) {
    facts[ats] = {.source = source, .why_unknown = "the hypervisor hides the extended configuration space"};
    return;
  }
  const size_t at = find_extended(config.text, kAts);
  facts[ats] = {.value = at != 0 && (word_at(config.text, at + 6, 2) & 0x8000) ? "on" : "off", .source = source};
}

void read_bridge(Files& files, const std::string& path, const std::string& id, std::map<std::string, Fact>& facts) {
  const std::string source = path + "/config";
  const Reading config = files.read(source);
  Fact& fact = facts["acs." + id];
  fact.source = source;
  if (!config.ok() || config.text.size() <= kExtended) {
    fact.why_unknown = config.ok() ? "only root may read beyond 64 bytes; run as root" : config.why;
    return;
  }
  // ACS Control: source validation, request redirect, completion redirect and upstream forwarding send what one device
  // writes to another through the root complex. Without the capability nothing is redirected.
  constexpr uint32_t kRedirects = 0x1d;
  const size_t at = find_extended(config.text, kAcs);
  fact.value = at != 0 && (word_at(config.text, at + 6, 2) & kRedirects) ? "on" : "off";
}

}  // namespace

std::string pci_id_of(std::string_view path) {
  for (size_t slash; !path.empty(); path = path.substr(0, slash == path.npos ? 0 : slash)) {
    slash = path.rfind('/');
    const std::string_view name = slash == path.npos ? path : path.substr(slash + 1);
    if (is_pci_id(name)) return std::string(name);
  }
  return {};
}

std::map<std::string, PciDevice> read_pci(Files& files) {
  constexpr const char* kFolder = "/sys/bus/pci/devices";
  std::map<std::string, PciDevice> devices;
  for (const std::string& id : files.list(kFolder)) {
    if (!is_pci_id(id)) continue;
    const std::string path = files.resolve(std::string(kFolder) + "/" + id);
    if (path.empty()) continue;
    PciDevice device{.id = id, .path = path, .device_class = number_in(files, path + "/class", 0)};
    device.vendor = number_in(files, path + "/vendor", 0);
    // 0x02: network; 0x0c06: InfiniBand as some bridges have it
    const bool is_network = (device.device_class >> 16) == 0x02 || (device.device_class >> 8) == 0x0c06;
    if (!is_network && !device.is_gpu() && !device.is_nvswitch()) continue;
    for (const std::string_view part : split(std::string_view(path).substr(0, path.rfind('/')), '/'))
      if (is_pci_id(part) || (device.chain.empty() && is_root_complex(part))) device.chain.emplace_back(part);
    device.device = number_in(files, path + "/device", 0);
    device.numa_node = number_in(files, path + "/numa_node", -1);
    device.link = read_link(files, path);
    device.is_virtual_function = !files.resolve(path + "/physfn").empty();
    devices.emplace(id, std::move(device));
  }
  return devices;
}

Path path_between(const PciDevice& a, const PciDevice& b, bool is_virtual, size_t num_numa_nodes) {
  if (a.id == b.id) return Path::kSelf;
  if (a.chain.empty() || b.chain.empty()) return Path::kUnknown;
  if (is_virtual && (a.chain.size() == 1 || b.chain.size() == 1)) return Path::kUnknown;
  const auto [end_a, end_b] = std::mismatch(a.chain.begin(), a.chain.end(), b.chain.begin(), b.chain.end());
  const auto common = end_a - a.chain.begin();
  if (common == 0) {
    if (num_numa_nodes == 1) return Path::kNode;
    if (a.numa_node < 0 || b.numa_node < 0) return Path::kUnknown;
    return a.numa_node == b.numa_node ? Path::kNode : Path::kSys;
  }
  if (common == 1) return Path::kPhb;
  // What they share ends in a port that looks down. Below it each has one port of the same switch (PIX), or none if
  // both are functions of one card; more ports mean a second switch (PXB).
  const auto below = std::max(a.chain.end() - end_a, b.chain.end() - end_b);
  return below <= 1 ? Path::kPix : Path::kPxb;
}

void read_config_spaces(Files& files, const std::vector<const PciDevice*>& devices,
                        std::map<std::string, Fact>& facts) {
  for (const PciDevice* device : devices) {
    if (!device->is_virtual_function) read_endpoint(files, *device, facts);
    std::string path = device->path.substr(0, device->path.rfind('/'));
    for (size_t i = device->chain.size(); i-- > 1; path = path.substr(0, path.rfind('/')))
      if (!facts.count("acs." + device->chain[i])) read_bridge(files, path, device->chain[i], facts);
  }
}

std::string without_serial_number(std::string_view config) {
  std::string kept(config.size(), '\0');
  const auto keep = [&](size_t at, size_t num_bytes) {
    for (size_t i = at; i < std::min(at + num_bytes, config.size()); ++i) kept[i] = config[i];
  };
  keep(0, kFreeBytes);
  if (const size_t express = find_capability(config, kExpressCapability); express != 0) {
    keep(express, 0x3c);
    kept[express + 1] = 0;  // the end of the list: others are gone
    kept[0x34] = static_cast<char>(express);
  }
  size_t at = kExtended;
  for (int i = 0; i < 512 && at >= kExtended && at + 8 <= config.size(); ++i) {
    const uint32_t header = word_at(config, at, 4);
    keep(at, (header & 0xffff) == kAcs || (header & 0xffff) == kAts ? 8 : 4);
    at = (header >> 20) & 0xffc;
  }
  return kept;
}

std::string describe_link(const PcieLink& link) {
  if (link == PcieLink{}) return {};
  const auto side = [](double gt_per_s, int width) {
    return fmt::format("{} GT/s x{}", gt_per_s > 0 ? fmt::format("{:.1f}", gt_per_s) : "?",
                       width > 0 ? fmt::format("{}", width) : "?");
  };
  return side(link.gt_per_s, link.width) + " of " + side(link.max_gt_per_s, link.max_width);
}

}  // namespace lane::inventory
