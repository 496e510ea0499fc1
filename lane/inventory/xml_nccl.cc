// NCCL's topology files: what NCCL_TOPO_DUMP_FILE writes and NCCL_TOPO_FILE takes (its src/graph/xml.cc, topo.cc).
//
//   <system version="1"><cpu numaid affinity arch vendor ...>
//     <pci busid class="0x060400" ...>                       a PCIe switch, by its upper port
//       <pci busid class="0x030200" link_speed link_width><gpu dev sm ...><nvlink target count tclass/></gpu></pci>
//       <pci busid class="0x020700" link_speed link_width><nic><net name port speed .../></nic></pci>
#include <fmt/format.h>

#include <algorithm>
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

constexpr int kMaxDepth = 64;
constexpr size_t kMaxDevices = 1024;
constexpr int64_t kMaxIndex = 1023;
constexpr std::string_view kNvswitchClass = "0x068000", kGpuClass = "0x03", kNicClass = "0x02";
constexpr PciTree kNcclTree{.bridges_of_switch = 1, .root_is_host_bridge = false};

struct FoundGpu {
  pugi::xml_node node;
  PciPlace place;
  int gpu = -1;            // in the host's list
  int switched_links = 0;  // NVLinks that end in a switch
};
struct FoundNic {
  PciPlace place;
  int nic = -1;
};

std::string attribute(const pugi::xml_node& node, const char* name) { return node.attribute(name).value(); }

// NCCL gives sockets this speed in Mb/s if the system does not tell one.
constexpr int64_t kSpeedOfUnknown = 10'000;

class Reader {
 public:
  Reader(const XmlFile& file, const std::string& where, Inventory& inventory)
      : file_(file), where_(where), inventory_(inventory), host_(host_of(inventory)) {}

  // A job on several hosts that share NVLink dumps all of them; the first one is read. Returns how many there are.
  int read(const pugi::xml_node& system) {
    std::set<std::string> hosts;
    std::vector<pugi::xml_node> cpus;  // of the first host
    for (const pugi::xml_node& cpu : system.children("cpu")) {
      const std::string hash = attribute(cpu, "host_hash");
      hosts.insert(hash);
      if (cpus.empty() || hash == attribute(cpus[0], "host_hash")) cpus.push_back(cpu);
    }
    add_gpus(cpus);
    for (const pugi::xml_node& cpu : cpus) read_cpu(cpu);
    fill_paths();
    return static_cast<int>(hosts.size());
  }

 private:
  // In the order of their numbers; the file has them in that of CPUs.
  void add_gpus(const std::vector<pugi::xml_node>& cpus) {
    std::vector<std::pair<int64_t, std::string>> gpus;
    for (const pugi::xml_node& cpu : cpus)
      for (const pugi::xpath_node& found : cpu.select_nodes(".//pci[gpu[@dev]]"))
        gpus.emplace_back(file_.int_attribute(found.node().child("gpu"), "dev", -1, kMaxIndex).value_or(-1),
                          normal_pci_id(attribute(found.node(), "busid")));
    std::sort(gpus.begin(), gpus.end());
    for (const auto& [index, id] : gpus)
      if (index >= 0 && !id.empty()) gpu_of(host_, id, static_cast<int>(index));
  }

  void read_cpu(const pugi::xml_node& cpu) {
    const auto node = file_.int_attribute(cpu, "numaid", -1, kMaxIndex);
    if (!node) file_.fail(cpu, "numaid is missing");
    PciPlace place{.root = num_cpus_++, .numa_node = static_cast<int>(*node)};
    if (const std::string affinity = attribute(cpu, "affinity"); *node >= 0 && !affinity.empty()) {
      try {
        fill(numa_node_of(host_, place.numa_node).cpus, {}, bits_of_mask(affinity));
      } catch (const Error& error) {
        file_.fail(cpu, std::string("affinity: ") + error.what());
      }
    }
    if (const std::string vendor = attribute(cpu, "vendor"); !vendor.empty())
      fill_fact(inventory_, "os.cpu_vendor", {.value = vendor, .source = where_});
    for (const pugi::xml_node& nic : cpu.children("nic"))
      for (const pugi::xml_node& net : nic.children("net")) read_net(net, {}, {}, {});
    for (const pugi::xml_node& pci : cpu.children("pci")) read_pci(pci, place, 0);
  }

  void read_pci(const pugi::xml_node& pci, PciPlace place, int depth) {
    const std::string id = normal_pci_id(attribute(pci, "busid"));
    if (id.empty()) file_.fail(pci, "busid=\"" + attribute(pci, "busid") + "\": expected a PCI address");
    if (!pci_ids_.insert(id).second) file_.fail(pci, "busid " + id + " is there twice");
    if (depth >= kMaxDepth) file_.fail(pci, "nested too deep");
    const std::string pci_class = attribute(pci, "class");
    if (const pugi::xml_node gpu = pci.child("gpu")) {
      read_gpu(pci, gpu, id, place);
    } else if (const pugi::xml_node nic = pci.child("nic")) {
      for (const pugi::xml_node& net : nic.children("net")) read_net(net, pci, id, place);
    } else if (pci_class.starts_with(kGpuClass)) {
      add_gpu(pci, {}, gpu_of(host_, id, -1), place);
    } else if (pci_class.starts_with(kNicClass)) {
      add_nic(pci, nic_of(host_, {}, id), place);
    }
    place.bridges.push_back(num_bridges_++);
    for (const pugi::xml_node& child : pci.children("pci")) read_pci(child, place, depth + 1);
  }

  // What both ends of the link can. (Of a GPU newer versions of NCCL write what it is trained to; idle GPUs are slow.)
  void fill_link(const pugi::xml_node& pci, topology::PcieLink& link) {
    const std::string speed = attribute(pci, "link_speed");
    if (const auto gt_per_s = number_of(std::string_view(speed).substr(0, speed.find(' ')));
        gt_per_s && *gt_per_s > 0 && *gt_per_s < 1000)
      fill(link.max_gt_per_s, 0.0, *gt_per_s);
    if (attribute(pci, "link_width").empty()) return;
    if (const auto width = file_.int_attribute(pci, "link_width", 0, 64))
      fill(link.max_width, 0, static_cast<int>(*width));
  }

  void read_gpu(const pugi::xml_node& pci, const pugi::xml_node& node, const std::string& id, const PciPlace& place) {
    const auto index = file_.int_attribute(node, "dev", -1, kMaxIndex);
    add_gpu(pci, node, gpu_of(host_, id, static_cast<int>(index.value_or(-1))), place);
  }

  void add_gpu(const pugi::xml_node& pci, const pugi::xml_node& node, int place_in_list, const PciPlace& place) {
    if (place_in_list < 0) return;
    topology::Gpu& gpu = host_.gpus[static_cast<size_t>(place_in_list)];
    fill_link(pci, gpu.pcie);
    fill(gpu.numa_node, -1, place.numa_node);
    if (const auto sm = file_.int_attribute(node, "sm", 0, 999)) fill(gpu.sm, 0, static_cast<int>(*sm));
    FoundGpu found{.node = node, .place = place, .gpu = place_in_list};
    int num_nvlinks = 0;
    for (const pugi::xml_node& link : node.children("nvlink")) {
      const int count = count_of(link);
      num_nvlinks += count;
      if (attribute(link, "tclass").starts_with(kNvswitchClass)) found.switched_links += count;
    }
    if (num_nvlinks > 0) fill(gpu.num_nvlinks, -1, num_nvlinks);  // none may also mean that NCCL could not see them
    if (found.switched_links > 0) gpu.has_nvswitch = true;
    gpus_.push_back(found);
    if (gpus_.size() > kMaxDevices) file_.fail(pci, fmt::format("more than {} GPUs", kMaxDevices));
  }

  int count_of(const pugi::xml_node& link) {
    return static_cast<int>(file_.int_attribute(link, "count", 0, 1000).value_or(0));
  }

  void add_nic(const pugi::xml_node& pci, int place_in_list, const PciPlace& place) {
    if (place_in_list < 0) return;
    Nic& nic = host_.nics[static_cast<size_t>(place_in_list)];
    fill_link(pci, nic.pcie);
    fill(nic.numa_node, -1, place.numa_node);
    fill(nic.model, {}, model_of_pci_device(attribute(pci, "vendor"), attribute(pci, "device")));
    fill(nic.kind, NicKind::kUnknown, kind_of(nic.name, attribute(pci, "class")));
    nics_.push_back({place, place_in_list});
    if (nics_.size() > kMaxDevices) file_.fail(pci, fmt::format("more than {} NICs", kMaxDevices));
  }

  static NicKind kind_of(const std::string& name, const std::string& pci_class) {
    const bool is_infiniband = pci_class.starts_with("0x0207");
    const auto has_name = [&](auto beginning) { return name.starts_with(beginning); };
    const auto any = [&](std::initializer_list<const char*> all) {
      return std::any_of(all.begin(), all.end(), has_name);
    };
    if (is_infiniband) return NicKind::kInfiniband;
    const bool has_verbs = any({"mlx", "bnxt_re", "irdma"});
    const NicKind kind = nic_kind_of(name, has_verbs && !pci_class.empty() ? "Ethernet" : "");
    return kind == NicKind::kUnknown && any({"eth", "en", "bond"}) ? NicKind::kEthernet : kind;
  }

  // Several NICs that NCCL uses as one are called "mlx5_0+mlx5_1". They share a card, so they are in the same place;
  // the speed is that of all of them, and the address that of one.
  void read_net(const pugi::xml_node& net, const pugi::xml_node& pci, const std::string& id, const PciPlace& place) {
    const std::string name = attribute(net, "name");
    if (name.empty()) file_.fail(net, "name is missing");
    if (attribute(net, "net") == "0") return;  // a tree of SHARP, not a NIC
    if (name.find('+') == name.npos) {
      const int read = nic_of(host_, name, id);
      if (pci) add_nic(pci, read, place);
      fill_port(net, host_.nics[static_cast<size_t>(read)]);
      return;
    }
    for (size_t begin = 0; begin < name.size();) {
      const size_t end = std::min(name.find('+', begin), name.size());
      if (end > begin) add_nic(pci, nic_of(host_, name.substr(begin, end - begin), {}), place);
      begin = end + 1;
    }
  }

  void fill_port(const pugi::xml_node& net, Nic& nic) {
    fill(nic.kind, NicKind::kUnknown, kind_of(nic.name, {}));
    const auto port = file_.int_attribute(net, "port", 0, 255),
               speed = file_.int_attribute(net, "speed", -1, 100'000'000);
    if (!port && !speed) return;
    topology::NicPort& known = port_of(nic, std::max(static_cast<int>(port.value_or(1)), 1));
    const bool is_guess = nic.kind == NicKind::kEthernet && speed == kSpeedOfUnknown;
    if (speed && *speed > 0 && !is_guess) fill(known.gbit_per_s, 0.0, static_cast<double>(*speed) / 1000);
  }

  void fill_paths() {
    for (const FoundGpu& gpu : gpus_) {
      for (const FoundNic& nic : nics_)
        fill_nic_path(host_, gpu.gpu, nic.nic, path_between(gpu.place, nic.place, kNcclTree));
      for (const FoundGpu& other : gpus_) {
        if (gpu.gpu >= other.gpu) continue;
        const int links = links_between(gpu, other);
        fill_gpu_path(host_, gpu.gpu, other.gpu,
                      links > 0 ? Path::kNvlink : path_between(gpu.place, other.place, kNcclTree), links);
      }
    }
  }

  int links_between(const FoundGpu& gpu, const FoundGpu& other) {
    const std::string& target = host_.gpus[static_cast<size_t>(other.gpu)].pci_id;
    int direct = 0;
    for (const pugi::xml_node& link : gpu.node.children("nvlink"))
      if (normal_pci_id(attribute(link, "target")) == target) direct += count_of(link);
    return direct > 0 ? direct : std::min(gpu.switched_links, other.switched_links);
  }

  const XmlFile& file_;
  const std::string& where_;
  Inventory& inventory_;
  Host& host_;
  std::set<std::string> pci_ids_;
  std::vector<FoundGpu> gpus_;
  std::vector<FoundNic> nics_;
  int num_cpus_ = 0, num_bridges_ = 0;
};

}  // namespace

void read_nccl_topo(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  const std::string tool = "NCCL's topology file";
  if (!note_text(inventory, "nccl_topo", tool, where, text)) return;
  const XmlFile file(text, where);
  const pugi::xml_node system = file.child("system");
  if (!system) corrupt(where, 1, "expected a topology file of NCCL: no <system>");
  if (file.int_attribute(system, "version", 0, 1'000'000) != 1) file.fail(system, "expected version=\"1\"");
  if (const int num_hosts = Reader(file, where, inventory).read(system); num_hosts > 1)
    inventory.facts["text.nccl_topo"].value = fmt::format("{}, the first of its {} hosts", tool, num_hosts);
}

}  // namespace lane::inventory
