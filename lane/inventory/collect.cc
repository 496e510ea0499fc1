#include <fmt/format.h>

#include <algorithm>

#include "lane/inventory/facts.h"
#include "lane/inventory/ib.h"
#include "lane/inventory/take.h"

namespace lane::inventory {
namespace {

using topology::Gpu;
using topology::Host;
using topology::Path;

template <class Value>
void fill(Value& value, const Value& unknown, const Value& found) {
  if (value == unknown) value = found;
}

// What the driver says of a GPU that /sys has too: PCI is better known to /sys, all else to the driver.
void take_from_driver(const Gpu& driver, Gpu& gpu) {
  if (!driver.name.empty()) gpu.name = driver.name;
  if (driver.sm > 0) gpu.sm = driver.sm;
  if (driver.num_nvlinks >= 0) gpu.num_nvlinks = driver.num_nvlinks;
  if (driver.max_nvlinks >= 0) gpu.max_nvlinks = driver.max_nvlinks;
  gpu.memory_bytes = driver.memory_bytes;
  gpu.nvlink_gb_per_s = driver.nvlink_gb_per_s;
  gpu.has_nvswitch = driver.has_nvswitch;
  gpu.nvlink_domain = driver.nvlink_domain;
  fill(gpu.numa_node, -1, driver.numa_node);
  fill(gpu.pcie.gt_per_s, 0.0, driver.pcie.gt_per_s);
  fill(gpu.pcie.max_gt_per_s, 0.0, driver.pcie.max_gt_per_s);
  fill(gpu.pcie.width, 0, driver.pcie.width);
  fill(gpu.pcie.max_width, 0, driver.pcie.max_width);
}

// The GPUs of a host are those that the driver lists: a container does not get all that /sys shows, and one that has
// failed is gone from the driver alone. Which those are is the fact nvidia.unlisted_gpus.
void take_gpus(const std::map<std::string, PciDevice>& devices, const HostCalls& calls, Inventory& inventory) {
  Host& host = inventory.topology.hosts.front();
  std::string unlisted;
  for (const auto& [id, device] : devices) {
    if (!device.is_gpu() || device.is_virtual_function) continue;
    Gpu gpu = gpu_from_id(device);
    const auto listed =
        std::find_if(calls.gpus.begin(), calls.gpus.end(), [&, id = id](const Gpu& one) { return one.pci_id == id; });
    if (listed != calls.gpus.end()) {
      take_from_driver(*listed, gpu);
    } else if (calls.has_gpus) {
      unlisted += (unlisted.empty() ? "" : " ") + id;
      continue;
    }
    host.gpus.push_back(std::move(gpu));
  }
  for (const Gpu& gpu : calls.gpus)
    if (!devices.count(gpu.pci_id)) host.gpus.push_back(gpu);
  std::sort(host.gpus.begin(), host.gpus.end(), [](const Gpu& a, const Gpu& b) { return a.pci_id < b.pci_id; });
  for (size_t i = 0; i < host.gpus.size(); ++i) host.gpus[i].index = static_cast<int>(i);
  if (calls.has_gpus)
    inventory.facts["nvidia.unlisted_gpus"] = {.value = unlisted.empty() ? "none" : unlisted,
                                               .source = "/sys/bus/pci/devices, NVML"};
}

void take_nvlinks(const HostCalls& calls, Host& host) {
  const size_t n = host.gpus.size();
  host.gpu_to_gpu.assign(n, std::vector<Path>(n, Path::kUnknown));
  for (size_t i = 0; i < n; ++i) host.gpu_to_gpu[i][i] = Path::kSelf;
  if (n == 0 || calls.gpus.size() != n) return;  // indices are the same: both are sorted by address
  host.gpu_to_gpu_nvlinks.assign(n, std::vector<int>(n, 0));
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      const Gpu &a = host.gpus[i], &b = host.gpus[j];
      int links = !calls.gpu_to_gpu_nvlinks.empty()  ? calls.gpu_to_gpu_nvlinks[i][j]
                  : a.has_nvswitch && b.has_nvswitch ? std::min(a.num_nvlinks, b.num_nvlinks)
                                                     : 0;
      links = std::max(links, 0);
      host.gpu_to_gpu_nvlinks[i][j] = links;
      if (links > 0) host.gpu_to_gpu[i][j] = Path::kNvlink;
    }
}

void take_nic_paths(const std::map<std::string, PciDevice>& devices, bool is_virtual, Host& host) {
  host.gpu_to_nic.assign(host.gpus.size(), std::vector<Path>(host.nics.size(), Path::kUnknown));
  for (size_t i = 0; i < host.gpus.size(); ++i)
    for (size_t j = 0; j < host.nics.size(); ++j) {
      const auto gpu = devices.find(host.gpus[i].pci_id), nic = devices.find(host.nics[j].pci_id);
      if (gpu != devices.end() && nic != devices.end())
        host.gpu_to_nic[i][j] = path_between(gpu->second, nic->second, is_virtual, host.machine.numa_nodes.size());
    }
}

// PCIe between GPUs counts where NVLink is known not to be: a pair behind two switches may well have 18 links.
void take_gpu_paths(const std::map<std::string, PciDevice>& devices, const HostCalls& calls, bool is_virtual,
                    Host& host) {
  const size_t n = host.gpus.size();
  if (host.gpu_to_gpu.size() != n) return;
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      Path& path = host.gpu_to_gpu[i][j];
      const bool counted = i < host.gpu_to_gpu_nvlinks.size() && calls.gpus.size() == n &&
                           host.gpus[i].num_nvlinks >= 0 && host.gpus[j].num_nvlinks >= 0;
      const bool has_none = host.gpus[i].num_nvlinks == 0 || host.gpus[j].num_nvlinks == 0 || counted;
      if (path != Path::kUnknown || !has_none) continue;
      const auto a = devices.find(host.gpus[i].pci_id), b = devices.find(host.gpus[j].pci_id);
      if (a != devices.end() && b != devices.end())
        path = path_between(a->second, b->second, is_virtual, host.machine.numa_nodes.size());
      if (path == Path::kUnknown && calls.gpu_to_gpu.size() == n) path = calls.gpu_to_gpu[i][j];
    }
}

void read_texts(Files& files, const TextInputs& texts, Inventory& inventory) {
  using Reader = void (*)(std::string_view, const std::string&, Inventory&);
  const struct {
    const std::string& given;
    const char* name;
    Reader read;
  } kInputs[] = {{texts.nccl_topo_xml, "nccl_topo.xml", read_nccl_topo},
                 {texts.hwloc_xml, "hwloc.xml", read_hwloc},
                 {texts.topo_m, "topo_m.txt", read_topo_m},
                 {texts.nvlink_s, "nvlink_s.txt", read_nvlink_s},
                 {texts.smi_q, "smi_q.txt", read_smi_q},
                 {texts.ibstat, "ibstat.txt", read_ibstat},
                 {texts.ibv_devinfo, "ibv_devinfo.txt", read_ibv_devinfo}};
  const std::map<std::string, Fact> known = inventory.facts;
  for (const auto& input : kInputs) {
    if (!input.given.empty()) input.read(input.given, input.name, inventory);
    if (files.root().empty()) continue;
    const std::string path = std::string("/text/") + input.name;
    if (const Reading reading = files.read(path); reading.ok()) input.read(reading.text, path.substr(1), inventory);
  }
  for (const auto& [key, fact] : known)
    if (fact.known()) inventory.facts[key] = fact;
  for (auto& [key, fact] : inventory.facts)
    if (key.ends_with(".fabric_cluster")) fact.value = pseudonym(fact.value);
  for (Gpu& gpu : inventory.topology.hosts.front().gpus)
    if (const size_t dot = gpu.nvlink_domain.find('.'); dot != std::string::npos)
      gpu.nvlink_domain = pseudonym(gpu.nvlink_domain.substr(0, dot)) + gpu.nvlink_domain.substr(dot);
}

// A host with one NUMA node has all devices on it, whatever the firmware leaves out.
void settle_numa(Host& host) {
  if (host.machine.numa_nodes.size() != 1) return;
  for (Gpu& gpu : host.gpus) fill(gpu.numa_node, -1, host.machine.numa_nodes[0].id);
  for (auto& nic : host.nics) fill(nic.numa_node, -1, host.machine.numa_nodes[0].id);
}

void read_config_facts(Files& files, const std::map<std::string, PciDevice>& devices, Inventory& inventory) {
  const Host& host = inventory.topology.hosts.front();
  std::vector<const PciDevice*> wanted;
  for (const auto& [id, device] : devices) {
    const auto is_it = [&, id = id](const auto& one) { return one.pci_id == id; };
    if (std::any_of(host.gpus.begin(), host.gpus.end(), is_it) ||
        std::any_of(host.nics.begin(), host.nics.end(), is_it))
      wanted.push_back(&device);
  }
  read_config_spaces(files, wanted, inventory.facts);
}

}  // namespace

Inventory take(Files& files, const HostCalls& calls, const TextInputs& texts) {
  Inventory inventory;
  auto& facts = inventory.facts;
  Host& host = inventory.topology.hosts.emplace_back();
  for (const auto& [key, fact] : calls.facts)
    if (!key.starts_with("nvidia.driver") || fact.known()) facts[key] = fact;
  read_os(files, facts);
  host.machine = read_machine(files, facts);
  host.name = host.machine.hostname;
  inventory.topology.name = host.name;
  read_driver(files, facts);

  const std::map<std::string, PciDevice> devices = read_pci(files);
  const Fact seen{.value = std::to_string(devices.size()), .source = "/sys/bus/pci/devices"};
  facts["pci.devices"] =
      files.exists(seen.source) ? seen : Fact{.source = seen.source, .why_unknown = "no such folder"};
  const bool is_virtual = is_virtual_machine(facts);
  take_gpus(devices, calls, inventory);
  host.nics = read_nics(files, devices, facts);
  take_nvlinks(calls, host);
  take_nic_paths(devices, is_virtual, host);
  settle_numa(host);
  const std::set<std::string> default_route = default_route_devices(files);

  read_texts(files, texts, inventory);
  take_gpu_paths(devices, calls, is_virtual, host);
  set_roles(host, default_route);
  read_services(files, host, facts);
  read_config_facts(files, devices, inventory);
  for (const Gpu& gpu : host.gpus)
    if (const std::string words = describe_link(gpu.pcie); !words.empty())
      add_fact(facts, fmt::format("gpu.{}.pcie", gpu.index),
               {.value = words, .source = fmt::format("/sys/bus/pci/devices/{}", gpu.pci_id)});
  return inventory;
}

HostCalls calls_of(const std::string& root) {
  if (root.empty()) return ask_host();
  Files files(root);
  const Reading reading = files.read(kCallsFile);
  return reading.ok() ? calls_from_json(reading.text, root + kCallsFile) : HostCalls{};
}

Inventory take_inventory(const std::string& root, const TextInputs& texts) {
  const HostCalls calls = calls_of(root);
  Files files(root, calls.why_unreadable);
  return take(files, calls, texts);
}

}  // namespace lane::inventory
