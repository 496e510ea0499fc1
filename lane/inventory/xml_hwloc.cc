// hwloc's XML (`lstopo --of xml`), versions 1 to 3: nested <object>s. Bridges hold PCIDevs, which hold OSDevs; they
// hang below the part of the machine that they are near to. Matrices of links follow behind the objects.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "lane/base/error.h"
#include "lane/inventory/matching.h"
#include "lane/inventory/text.h"
#include "lane/inventory/xml.h"

namespace lane::inventory {
namespace {

using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::Path;

constexpr int kMaxDepth = 256;
constexpr int64_t kMaxIndex = 1023;
constexpr size_t kMaxDevices = 1024;
constexpr PciTree kHwlocTree{.bridges_of_switch = 2, .root_is_host_bridge = true};

std::string attribute(const pugi::xml_node& node, const char* name) { return node.attribute(name).value(); }
bool is_object(const pugi::xml_node& node, std::string_view type) { return attribute(node, "type") == type; }

std::string info_of(const pugi::xml_node& object, const char* name) {
  return object.find_child_by_attribute("info", "name", name).attribute("value").value();
}

// pci_type="0302 [10de:2330] [10de:16c1] a1"
struct PciType {
  std::string device_class, vendor, device;
};

PciType pci_type_of(const pugi::xml_node& pci) {
  const std::string text = attribute(pci, "pci_type");
  if (text.size() < 16 || text[5] != '[' || text[10] != ':') return {};
  return {text.substr(0, 4), lower_case(text.substr(6, 4)), lower_case(text.substr(11, 4))};
}

// Megabytes per second of one link in one direction, as hwloc counts them, by generation: P100; V100 to H100; then
// B100. Device numbers are those of pci.ids: GP100 is 15f0, GV100 begins at 1d80, GB100 at 2900.
int64_t mb_per_s_of_link(const std::string& pci_device) {
  if (pci_device < "1d80") return 20'000;
  return pci_device < "2900" ? 25'000 : 50'000;
}

bool is_gpu(const PciType& type) { return type.vendor == "10de" && type.device_class.starts_with("03"); }

// The number of the object "nvml3" in a device; -1 if it has none. (CUDA may number GPUs in another order.)
int nvml_index_of(const pugi::xml_node& pci) {
  for (const pugi::xml_node& device : pci.children("object"))
    if (const std::string name = attribute(device, "name"); name.starts_with("nvml"))
      return static_cast<int>(std::clamp<int64_t>(int_of(name.substr(4)).value_or(-1), -1, kMaxIndex));
  return -1;
}

// "11796032", since version 3 "11796032KiB".
int64_t bytes_of_kib(std::string_view text) {
  if (text.ends_with("KiB")) text.remove_suffix(3);
  const int64_t kib = int_of(text).value_or(0);
  return kib > 0 && kib < int64_t{1} << 40 ? kib << 10 : 0;
}

struct FoundGpu {
  PciPlace place;
  int gpu = -1;
  std::string pci_device;
};
struct FoundNic {
  PciPlace place;
  int nic = -1;
};

class Reader {
 public:
  Reader(const XmlFile& file, const std::string& where, Inventory& inventory)
      : file_(file), where_(where), inventory_(inventory), host_(host_of(inventory)) {}

  void read(const pugi::xml_node& topology) {
    version_ = number_of(attribute(topology, "version")).value_or(1);  // the first ones did not say
    add_gpus(topology);
    for (const pugi::xml_node& object : topology.children("object")) read_object(object, {}, 0);
    for (const pugi::xml_node& parent : {topology, topology.child("object")}) fill_host(parent);
    fill_paths();
    for (const pugi::xml_node& matrix : topology.children())
      if (std::string_view(matrix.name()).starts_with("distances2") && attribute(matrix, "name") == "NVLinkBandwidth")
        read_nvlinks(matrix);
  }

 private:
  // In the order of their numbers; the file has them in that of what they hang on.
  void add_gpus(const pugi::xml_node& topology) {
    std::vector<std::pair<int, std::string>> gpus;
    for (const pugi::xpath_node& found : topology.select_nodes("//object[@type='PCIDev']"))
      if (const int index = nvml_index_of(found.node()); index >= 0 && is_gpu(pci_type_of(found.node())))
        gpus.emplace_back(index, normal_pci_id(attribute(found.node(), "pci_busid")));
    std::sort(gpus.begin(), gpus.end());
    for (const auto& [index, id] : gpus)
      if (!id.empty()) gpu_of(host_, id, index);
  }

  void fill_host(const pugi::xml_node& object) {
    fill(host_.name, {}, info_of(object, "HostName"));
    if (const std::string kernel = info_of(object, "OSRelease"); !kernel.empty())
      fill_fact(inventory_, "os.kernel", {.value = kernel, .source = where_});
  }

  void read_object(const pugi::xml_node& object, PciPlace place, int depth) {
    if (depth > kMaxDepth) file_.fail(object, "nested too deep");
    if (is_object(object, "PCIDev")) return read_pci(object, place);
    if (is_object(object, "Bridge")) {
      if (attribute(object, "bridge_type").starts_with("0-")) {
        place.root = num_roots_++;
      } else {
        place.bridges.push_back(num_bridges_++);
      }
    } else {
      place.numa_node = nearest_node(object, place.numa_node);
    }
    if (is_object(object, "NUMANode")) read_numa_node(object);
    if (is_object(object, "Package")) {
      fill(host_.machine.cpu_model, {}, info_of(object, "CPUModel"));
      if (const std::string vendor = info_of(object, "CPUVendor"); !vendor.empty())
        fill_fact(inventory_, "os.cpu_vendor", {.value = vendor, .source = where_});
    }
    for (const pugi::xml_node& child : object.children("object")) read_object(child, place, depth + 1);
  }

  // The NUMA node of what is below an object, if it is one.
  int nearest_node(const pugi::xml_node& object, int above) {
    if (!object.attribute("nodeset")) return above;
    const auto nodes = mask(object, "nodeset");
    return nodes.size() == 1 ? nodes[0] : -1;
  }

  std::vector<int> mask(const pugi::xml_node& object, const char* name) {
    const std::string text = attribute(object, name);
    if (text.find("0xf...f") != text.npos) return {};  // without end
    try {
      return bits_of_mask(text);
    } catch (const Error& error) {
      file_.fail(object, std::string(name) + ": " + error.what());
    }
  }

  void read_numa_node(const pugi::xml_node& object) {
    const auto id = file_.int_attribute(object, "os_index", 0, kMaxIndex);
    if (!id) file_.fail(object, "os_index of the NUMA node is missing");
    topology::NumaNode& node = numa_node_of(host_, static_cast<int>(*id));
    fill(node.cpus, {}, mask(object, "cpuset"));
    if (const auto bytes = file_.int_attribute(object, "local_memory", 0, int64_t{1} << 60))
      fill(node.memory_bytes, int64_t{0}, *bytes);
  }

  void read_pci(const pugi::xml_node& pci, const PciPlace& place) {
    const std::string id = normal_pci_id(attribute(pci, "pci_busid"));
    if (id.empty()) file_.fail(pci, "pci_busid=\"" + attribute(pci, "pci_busid") + "\": expected a PCI address");
    const PciType type = pci_type_of(pci);
    const bool is_nic = type.device_class.starts_with("02") || type.device_class == "0c06";
    if ((is_nic || is_gpu(type)) && !pci_ids_.insert(id).second) file_.fail(pci, "pci_busid " + id + " is there twice");
    if (is_gpu(type)) return read_gpu(pci, id, type, place);
    if (attribute(pci, "subtype") == "NVSwitch" || (type.vendor == "10de" && type.device_class == "0680"))
      switches_.insert(attribute(pci, "gp_index"));
    if (is_nic) read_nic(pci, id, type, place);
  }

  void read_gpu(const pugi::xml_node& pci, const std::string& id, const PciType& type, const PciPlace& place) {
    const int found = gpu_of(host_, id, nvml_index_of(pci));
    if (found < 0) return;
    topology::Gpu& gpu = host_.gpus[static_cast<size_t>(found)];
    fill(gpu.numa_node, -1, place.numa_node);
    for (const pugi::xml_node& device : pci.children("object")) {
      fill(gpu.name, {}, info_of(device, "GPUModel"));
      fill(gpu.memory_bytes, int64_t{0}, bytes_of_kib(info_of(device, "CUDAGlobalMemorySize")));
      endpoints_[attribute(device, "gp_index")] = static_cast<int>(gpus_.size());
    }
    gpus_.push_back({place, found, type.device});
    if (gpus_.size() > kMaxDevices) file_.fail(pci, fmt::format("more than {} GPUs", kMaxDevices));
  }

  // What an OSDev is, by the code of the file's version: verbs (InfiniBand, RoCE, cxi), a network interface, or else.
  enum class OsDevice : uint8_t { kOther, kNetwork, kVerbs };
  OsDevice os_device_of(const pugi::xml_node& device) const {
    const int64_t code = int_of(attribute(device, "osdev_type")).value_or(0);
    if (version_ >= 3) return code & 32 ? OsDevice::kVerbs : code & 16 ? OsDevice::kNetwork : OsDevice::kOther;
    return code == 3 ? OsDevice::kVerbs : code == 2 ? OsDevice::kNetwork : OsDevice::kOther;
  }

  // Named by its verbs, if it has them.
  void read_nic(const pugi::xml_node& pci, const std::string& id, const PciType& type, const PciPlace& place) {
    pugi::xml_node verbs, network;
    for (const pugi::xml_node& device : pci.children("object")) {
      const OsDevice kind = os_device_of(device);
      if (kind == OsDevice::kVerbs && !verbs) verbs = device;
      if (kind == OsDevice::kNetwork && !network) network = device;
    }
    if (!verbs && !network) return;
    const pugi::xml_node device = verbs ? verbs : network;
    const std::string name = attribute(device, "name");
    const int found = nic_of(host_, name, id);
    Nic& nic = host_.nics[static_cast<size_t>(found)];
    const bool is_infiniband = type.device_class == "0207" || type.device_class == "0c06";
    const NicKind kind = nic_kind_of(name, is_infiniband ? "InfiniBand" : verbs ? "Ethernet" : "");
    fill(nic.kind, NicKind::kUnknown, kind == NicKind::kUnknown ? NicKind::kEthernet : kind);
    fill(nic.numa_node, -1, place.numa_node);
    fill(nic.model, {}, model_of_pci_device(type.vendor, type.device));
    read_ports(device, nic);
    nics_.push_back({place, found});
    if (nics_.size() > kMaxDevices) file_.fail(pci, fmt::format("more than {} NICs", kMaxDevices));
  }

  // <info name="Port1State" value="4"/>: the state's code.
  static void read_ports(const pugi::xml_node& device, Nic& nic) {
    constexpr std::array<const char*, 6> kStates = {"NOP", "DOWN", "INIT", "ARMED", "ACTIVE", "ACTIVE_DEFER"};
    for (const pugi::xml_node& info : device.children("info")) {
      const std::string name = attribute(info, "name");
      if (!name.starts_with("Port") || !name.ends_with("State")) continue;
      const auto port = int_of(name.substr(4, name.size() - 9)), state = int_of(attribute(info, "value"));
      if (port && *port > 0 && *port < 256 && state && *state >= 0 && *state < std::ssize(kStates))
        fill(port_of(nic, static_cast<int>(*port)).state, {}, std::string(kStates[static_cast<size_t>(*state)]));
    }
  }

  void fill_paths() {
    for (const FoundGpu& gpu : gpus_) {
      for (const FoundNic& nic : nics_)
        fill_nic_path(host_, gpu.gpu, nic.nic, path_between(gpu.place, nic.place, kHwlocTree));
      for (const FoundGpu& other : gpus_)
        if (gpu.gpu < other.gpu)
          fill_gpu_path(host_, gpu.gpu, other.gpu, path_between(gpu.place, other.place, kHwlocTree));
    }
  }

  // Words of all children of that name.
  std::vector<std::string> words_below(const pugi::xml_node& matrix, const char* name) {
    std::vector<std::string> words;
    for (const pugi::xml_node& child : matrix.children(name))
      for (const auto word : words_of(child.text().get())) words.emplace_back(word);
    return words;
  }

  // Endpoints by their gp_index, alone or as "OSDev:802", then megabytes per second between all of them.
  void read_nvlinks(const pugi::xml_node& matrix) {
    const auto names = words_below(matrix, "indexes"), values = words_below(matrix, "u64values");
    const size_t num = names.size();
    if (num > kMaxDevices || values.size() != num * num)
      file_.fail(matrix, fmt::format("NVLinkBandwidth: {} values between {} endpoints", values.size(), num));
    std::vector<int> gpus(num, -1);  // places in gpus_
    std::vector<bool> is_switch(num);
    for (size_t at = 0; at < num; ++at) {
      const std::string index = names[at].substr(names[at].find(':') + 1);
      if (const auto found = endpoints_.find(index); found != endpoints_.end()) gpus[at] = found->second;
      is_switch[at] = switches_.count(index) > 0;
    }
    std::map<int, int> switched;  // links that end in switches, by place in gpus_
    for (size_t from = 0; from < num; ++from) {
      if (gpus[from] < 0) continue;
      int all = 0;
      for (size_t to = 0; to < num; ++to) {
        if (to == from) continue;
        const int links = links_of(matrix, values[from * num + to], gpus[from]);
        all += links;
        if (is_switch[to]) switched[gpus[from]] += links;
        if (gpus[to] >= 0 && links > 0)
          fill_gpu_path(host_, found_at(from, gpus), found_at(to, gpus), Path::kNvlink, links);
      }
      if (all > 0) fill(host_.gpus[static_cast<size_t>(found_at(from, gpus))].num_nvlinks, -1, all);
    }
    fill_switched(switched);
  }

  int found_at(size_t endpoint, const std::vector<int>& gpus) const {
    return gpus_[static_cast<size_t>(gpus[endpoint])].gpu;
  }

  int links_of(const pugi::xml_node& matrix, const std::string& value, int gpu) {
    const auto mb_per_s = int_of(value);
    if (!mb_per_s || *mb_per_s < 0 || *mb_per_s > 100'000'000)
      file_.fail(matrix, "NVLinkBandwidth: \"" + value + "\": expected megabytes per second");
    return static_cast<int>(*mb_per_s / mb_per_s_of_link(gpus_[static_cast<size_t>(gpu)].pci_device));
  }

  // All switches of a host are taken as one, as NCCL takes them: links from switch to switch are not in the file.
  void fill_switched(const std::map<int, int>& switched) {
    for (const auto& [gpu, links] : switched) {
      if (links == 0) continue;
      const int place = gpus_[static_cast<size_t>(gpu)].gpu;
      host_.gpus[static_cast<size_t>(place)].has_nvswitch = true;
      for (const auto& [other, other_links] : switched)
        if (other_links > 0)
          fill_gpu_path(host_, place, gpus_[static_cast<size_t>(other)].gpu, Path::kNvlink,
                        std::min(links, other_links));
    }
  }

  const XmlFile& file_;
  const std::string& where_;
  Inventory& inventory_;
  Host& host_;
  std::set<std::string> pci_ids_, switches_;  // switches by gp_index
  std::map<std::string, int> endpoints_;      // gp_index of what a GPU holds: place in gpus_
  std::vector<FoundGpu> gpus_;
  std::vector<FoundNic> nics_;
  int num_roots_ = 0, num_bridges_ = 0;
  double version_ = 1;
};

}  // namespace

void read_hwloc(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "hwloc", "lstopo --of xml", where, text)) return;
  const XmlFile file(text, where);
  const pugi::xml_node topology = file.child("topology");
  if (!topology || !topology.child("object"))
    corrupt(where, 1, "expected the XML of hwloc: no <topology> with an <object>");
  Reader(file, where, inventory).read(topology);
}

}  // namespace lane::inventory
