#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "lane/inventory/matching.h"

// Writes what NCCL cannot see by itself in a virtual machine: which devices share a PCIe switch and a NUMA node. It
// fills in the rest: of a device whose <pci> is here, it keeps the attributes that are given and looks up the others.
// Two of its ways decide what is left out (NCCL 2.30, src/graph/xml.cc and topo.cc):
//  - A <net> that is in the file is not looked up, nor is the CPU above it; NCCL then fails on the CPU's vendor and
//    model, which a Host does not hold. So NICs are written without <nic> and <net>, as cloud providers' files do.
//  - A GPU's <gpu> keeps its dev, sm and <nvlink>s, so these are written only where they are known.
// A switch needs an address of its own; like those files, this one takes addresses that no hardware has, from ffff:ff.

namespace lane::inventory {
namespace {

using topology::Host;
using topology::Path;
using topology::PcieLink;

constexpr size_t kMaxAttributeLength = 254;  // NCCL's MAX_STR_LEN

// A GPU or NIC: places in the host's lists, or -1.
struct Device {
  std::string pci_id;
  int gpu = -1, nic = -1;
  int numa_node = -1;
  PcieLink link;
  bool operator<(const Device& other) const { return pci_id < other.pci_id; }
};

std::vector<Device> devices_of(const Host& host) {
  std::vector<Device> devices;
  for (size_t at = 0; at < host.gpus.size(); ++at)
    devices.push_back({.pci_id = host.gpus[at].pci_id,
                       .gpu = static_cast<int>(at),
                       .numa_node = host.gpus[at].numa_node,
                       .link = host.gpus[at].pcie});
  for (size_t at = 0; at < host.nics.size(); ++at)
    devices.push_back({.pci_id = host.nics[at].pci_id,
                       .nic = static_cast<int>(at),
                       .numa_node = host.nics[at].numa_node,
                       .link = host.nics[at].pcie});
  std::erase_if(devices, [](const Device& device) { return device.pci_id.empty(); });
  std::sort(devices.begin(), devices.end());
  return devices;
}

Path path_of(const Host& host, const Device& a, const Device& b) {
  const auto at = [](const auto& matrix, int row, int column) {
    const auto r = static_cast<size_t>(row), c = static_cast<size_t>(column);
    return r < matrix.size() && c < matrix[r].size() ? matrix[r][c] : Path::kUnknown;
  };
  if (a.gpu >= 0 && b.gpu >= 0) return at(host.gpu_to_gpu, a.gpu, b.gpu);
  if (a.gpu >= 0) return at(host.gpu_to_nic, a.gpu, b.nic);
  return b.gpu >= 0 ? at(host.gpu_to_nic, b.gpu, a.nic) : Path::kUnknown;
}

// Groups of devices of which each is no further than `furthest` from another one; in the order of their addresses.
std::vector<std::vector<Device>> groups_of(const Host& host, const std::vector<Device>& devices, Path furthest) {
  std::vector<size_t> leader(devices.size());
  std::iota(leader.begin(), leader.end(), size_t{0});
  const auto find = [&](size_t at) {
    while (leader[at] != at) at = leader[at] = leader[leader[at]];
    return at;
  };
  for (size_t a = 0; a < devices.size(); ++a)
    for (size_t b = 0; b < a; ++b)
      if (const Path path = path_of(host, devices[a], devices[b]); path >= Path::kPix && path <= furthest)
        leader[std::max(find(a), find(b))] = std::min(find(a), find(b));
  std::map<size_t, std::vector<Device>> groups;
  for (size_t at = 0; at < devices.size(); ++at) groups[find(at)].push_back(devices[at]);
  std::vector<std::vector<Device>> result;
  for (auto& [first, group] : groups) result.push_back(std::move(group));
  return result;
}

int numa_node_of(const std::vector<Device>& group) {
  for (const Device& device : group)
    if (device.numa_node >= 0) return device.numa_node;
  return -1;
}

class Writer {
 public:
  explicit Writer(const Host& host) : host_(host) {}

  std::string write() {
    std::map<int, std::vector<std::vector<Device>>> by_node;
    for (auto& group : groups_of(host_, devices_of(host_), Path::kPxb)) by_node[numa_node_of(group)].push_back(group);
    open("<system version=\"1\">");
    for (const auto& [node, groups] : by_node) {
      open(fmt::format("<cpu numaid=\"{}\"{}>", node, affinity_of(node)));
      for (const auto& group : groups) write_group(group);
      close("</cpu>");
    }
    close("</system>");
    return text_;
  }

 private:
  void line(const std::string& content) { text_ += std::string(2 * depth_, ' ') + content + "\n"; }
  void open(const std::string& tag) {
    line(tag);
    ++depth_;
  }
  void close(const std::string& tag) {
    --depth_;
    line(tag);
  }

  std::string affinity_of(int node) const {
    for (const topology::NumaNode& known : host_.machine.numa_nodes) {
      const std::string mask = mask_of_bits(known.cpus);
      if (known.id == node && !known.cpus.empty() && mask.size() <= kMaxAttributeLength)
        return fmt::format(" affinity=\"{}\"", mask);
    }
    return {};
  }

  // A switch with the devices; several switches below one if some are further apart. A device alone needs none.
  void write_group(const std::vector<Device>& group) {
    const auto switches = groups_of(host_, group, Path::kPix);
    if (group.size() == 1) return write_device(group[0]);
    if (switches.size() > 1) open_switch(group);
    for (const auto& devices : switches) {
      open_switch(devices);
      for (const Device& device : devices) write_device(device);
      close("</pci>");
    }
    if (switches.size() > 1) close("</pci>");
  }

  // Its own link is as fast as the fastest below it that is known.
  void open_switch(const std::vector<Device>& devices) {
    PcieLink fastest;
    for (const Device& device : devices)
      if (device.link.max_gt_per_s * device.link.max_width > fastest.max_gt_per_s * fastest.max_width)
        fastest = device.link;
    const int number = num_switches_++;
    open(fmt::format("<pci busid=\"ffff:{:02x}:{:02x}.0\" class=\"0x060400\"{}>", 0xff - number / 32, number % 32,
                     link_of(fastest)));
  }

  static std::string link_of(const PcieLink& link) {
    std::string attributes;
    if (link.max_gt_per_s > 0) attributes += fmt::format(" link_speed=\"{:.1f} GT/s PCIe\"", link.max_gt_per_s);
    if (link.max_width > 0) attributes += fmt::format(" link_width=\"{}\"", link.max_width);
    return attributes;
  }

  void write_device(const Device& device) {
    const bool is_infiniband =
        device.nic >= 0 && host_.nics[static_cast<size_t>(device.nic)].kind == topology::NicKind::kInfiniband;
    const char* pci_class = device.gpu >= 0 ? "0x030200" : is_infiniband ? "0x020700" : "0x020000";
    const std::string tag =
        fmt::format("<pci busid=\"{}\" class=\"{}\"{}", device.pci_id, pci_class, link_of(device.link));
    if (device.gpu < 0) return line(tag + "/>");
    open(tag + ">");
    const topology::Gpu& gpu = host_.gpus[static_cast<size_t>(device.gpu)];
    const auto nvlinks = nvlinks_of(device.gpu);
    const std::string gpu_tag =
        fmt::format("<gpu dev=\"{}\"{}", gpu.index, gpu.sm > 0 ? fmt::format(" sm=\"{}\"", gpu.sm) : "");
    if (nvlinks.empty()) {
      line(gpu_tag + "/>");
    } else {
      open(gpu_tag + ">");
      for (const std::string& nvlink : nvlinks) line(nvlink);
      close("</gpu>");
    }
    close("</pci>");
  }

  int links_between(int gpu, int other) const {
    const auto a = static_cast<size_t>(gpu), b = static_cast<size_t>(other);
    return a < host_.gpu_to_gpu_nvlinks.size() && b < host_.gpu_to_gpu_nvlinks[a].size()
               ? host_.gpu_to_gpu_nvlinks[a][b]
               : 0;
  }

  std::vector<std::string> nvlinks_of(int place) const {
    constexpr const char* kTag = "<nvlink target=\"{}\" count=\"{}\" tclass=\"{}\"/>";
    std::vector<std::string> nvlinks;
    const topology::Gpu& gpu = host_.gpus[static_cast<size_t>(place)];
    int most = 0;
    for (int other = 0; other < static_cast<int>(host_.gpus.size()); ++other) {
      const topology::Gpu& peer = host_.gpus[static_cast<size_t>(other)];
      const int links = other == place ? 0 : links_between(place, other);
      most = std::max(most, links);
      if (links > 0 && !gpu.has_nvswitch && !peer.pci_id.empty())
        nvlinks.push_back(fmt::format(kTag, peer.pci_id, links, "0x030200"));
    }
    const int switched = gpu.num_nvlinks > 0 ? gpu.num_nvlinks : most;
    if (gpu.has_nvswitch && switched > 0)  // the target is NCCL's own for a switch that the machine hides
      nvlinks.push_back(fmt::format(kTag, "fffffff:ffff:ff", switched, "0x068000"));
    return nvlinks;
  }

  const Host& host_;
  std::string text_;
  size_t depth_ = 0;
  int num_switches_ = 0;
};

}  // namespace

std::string to_nccl_topo(const Host& host) { return Writer(host).write(); }

}  // namespace lane::inventory
