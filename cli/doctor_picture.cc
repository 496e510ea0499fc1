#include "cli/doctor_picture.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "lane/base/units.h"

namespace lane::cli {
namespace {

using topology::Gpu;
using topology::Host;
using topology::Nic;

std::string value(const inventory::Inventory& inventory, const char* key) {
  const inventory::Fact* fact = inventory.find(key);
  return fact != nullptr && fact->known() ? fact->value : std::string();
}

std::string host_line(const inventory::Inventory& inventory, const Host& host) {
  std::vector<std::string> parts;
  if (!host.machine.cpu_model.empty()) parts.push_back(host.machine.cpu_model);
  if (const size_t nodes = host.machine.numa_nodes.size())
    parts.push_back(fmt::format("{} NUMA node{}", nodes, nodes == 1 ? "" : "s"));
  if (host.machine.memory_bytes > 0) parts.push_back(format_bytes(static_cast<double>(host.machine.memory_bytes)));
  const std::string kind = value(inventory, "os.virtualization"), kernel = value(inventory, "os.kernel");
  if (!kind.empty()) parts.push_back(kind == "none" ? "no hypervisor" : kind);
  if (!kernel.empty()) parts.push_back("Linux " + kernel);
  return fmt::format("{}: {}\n", host.name.empty() ? "this host" : host.name, fmt::join(parts, ", "));
}

std::string gpu_lines(const Host& host) {
  if (host.gpus.empty()) return "no GPUs\n";
  std::map<std::string, int> by_name;
  for (const Gpu& gpu : host.gpus) ++by_name[gpu.name.empty() ? "GPU" : gpu.name];
  std::string out;
  for (const auto& [name, count] : by_name) out += fmt::format("{}{} x {}", out.empty() ? "" : ", ", count, name);
  const Gpu& first = host.gpus.front();
  const bool told =
      std::all_of(host.gpus.begin(), host.gpus.end(), [](const Gpu& gpu) { return gpu.num_nvlinks >= 0; });
  const auto [least, most] = std::minmax_element(
      host.gpus.begin(), host.gpus.end(), [](const Gpu& a, const Gpu& b) { return a.num_nvlinks < b.num_nvlinks; });
  if (!told)
    out += "; NVLinks not told";
  else if (most->num_nvlinks == 0)
    out += "; no NVLink";
  else
    out += fmt::format("; {} NVLinks each{}",
                       least->num_nvlinks == most->num_nvlinks
                           ? fmt::format("{}", most->num_nvlinks)
                           : fmt::format("{} to {}", least->num_nvlinks, most->num_nvlinks),
                       first.has_nvswitch ? " through NVSwitch" : "");
  return out + "\n";
}

double rate_of(const Nic& nic) {
  double rate = 0;
  for (const topology::NicPort& port : nic.ports) rate = std::max(rate, port.gbit_per_s);
  return rate;
}

bool for_jobs(const Nic& nic) {
  return nic.role == topology::NicRole::kCompute || nic.role == topology::NicRole::kUnknown;
}

std::string nic_lines(const Host& host) {
  using enum topology::NicKind;
  std::map<std::string, int> fast;
  std::vector<std::string> other;
  int num_functions = 0, num_ethernet = 0;
  for (const Nic& nic : host.nics) {
    if (nic.kind == kEthernet || nic.kind == kUnknown)
      ++num_ethernet;
    else if (nic.is_virtual_function)
      ++num_functions;
    else if (for_jobs(nic))
      ++fast[fmt::format("{} {:g} Gb/s{}", topology::name_of(nic.kind), rate_of(nic),
                         nic.model.empty() ? "" : " (" + nic.model + ")")];
    else
      other.push_back(fmt::format("{} ({})", nic.name, topology::name_of(nic.role)));
  }
  std::vector<std::string> parts;
  for (const auto& [what, count] : fast) parts.push_back(fmt::format("{} x {}", count, what));
  if (fast.empty()) parts.emplace_back("no InfiniBand, RoCE, EFA or Slingshot for jobs");
  if (!other.empty()) parts.push_back(fmt::format("not for jobs: {}", fmt::join(other, ", ")));
  if (num_functions > 0) parts.push_back(fmt::format("{} virtual functions", num_functions));
  if (num_ethernet > 0) parts.push_back(fmt::format("{} Ethernet", num_ethernet));
  return fmt::format("{}\n", fmt::join(parts, "; "));
}

std::string versions_line(const inventory::Inventory& inventory) {
  constexpr std::pair<const char*, const char*> kLibraries[] = {{"nvidia.driver", "driver"},    {"lib.nccl", "NCCL"},
                                                                {"lib.nvshmem", "NVSHMEM"},     {"lib.ucx", "UCX"},
                                                                {"lib.libfabric", "libfabric"}, {"lib.ofed", "OFED"}};
  std::vector<std::string> parts;
  for (const auto& [key, name] : kLibraries)
    if (const std::string version = value(inventory, key); !version.empty() && version != "absent")
      parts.push_back(fmt::format("{} {}", name, version));
  return parts.empty() ? "" : fmt::format("{}\n", fmt::join(parts, ", "));
}

std::string affinity_table(const Host& host) {
  if (host.gpus.empty()) return "";
  std::string out = fmt::format("\n{:<5} {:<13} {:>4} {:>14} {:>7}  {}\n", "GPU", "PCI", "NUMA", "PCIe", "NVLinks",
                                "nearest NICs for jobs");
  for (size_t i = 0; i < host.gpus.size(); ++i) {
    const Gpu& gpu = host.gpus[i];
    topology::Path nearest = topology::Path::kUnknown;
    std::vector<std::string> names;
    for (size_t nic = 0; i < host.gpu_to_nic.size() && nic < host.nics.size() && nic < host.gpu_to_nic[i].size();
         ++nic) {
      using enum topology::NicKind;
      const Nic& one = host.nics[nic];
      const topology::Path path = host.gpu_to_nic[i][nic];
      if (one.kind == kEthernet || one.kind == kUnknown || one.is_virtual_function || !for_jobs(one) || path > nearest)
        continue;
      if (path < nearest) names.clear();
      nearest = path;
      if (path != topology::Path::kUnknown) names.push_back(one.name);
    }
    const std::string pcie =
        gpu.pcie.gt_per_s > 0 ? fmt::format("{:g} GT/s x{}", gpu.pcie.gt_per_s, gpu.pcie.width) : "?";
    const std::string nics =
        names.empty() ? "-" : fmt::format("{} ({})", fmt::join(names, ", "), topology::name_of(nearest));
    out += fmt::format("{:<5} {:<13} {:>4} {:>14} {:>7}  {}\n", gpu.index, gpu.pci_id.empty() ? "?" : gpu.pci_id,
                       gpu.numa_node < 0 ? "?" : fmt::format("{}", gpu.numa_node), pcie,
                       gpu.num_nvlinks < 0 ? "?" : fmt::format("{}", gpu.num_nvlinks), nics);
  }
  return out;
}

}  // namespace

std::string picture_of(const inventory::Inventory& inventory) {
  if (inventory.topology.hosts.empty()) return "nothing is known of this machine\n";
  const Host& host = inventory.topology.hosts.front();
  return host_line(inventory, host) + gpu_lines(host) + nic_lines(host) + versions_line(inventory) +
         affinity_table(host);
}

std::string words_for(const doctor::Workload& workload, int num_gpus) {
  const int tensor = workload.plan.tensor;
  const int num_hosts = (tensor + std::max(1, num_gpus) - 1) / std::max(1, num_gpus);
  if (tensor == 1) return fmt::format("costs are for {}, batch {}, on one GPU", workload.model_name, workload.batch);
  return fmt::format(
      "costs are for {}, batch {}, tensor parallel over {} GPUs in {}: {} all-reduces of {} per decode step",
      workload.model_name, workload.batch, tensor,
      num_hosts == 1 ? "this host" : fmt::format("{} hosts like this", num_hosts), 2 * workload.shape.num_layers,
      format_bytes(static_cast<double>(workload.batch * workload.shape.hidden_size * 2)));
}

}  // namespace lane::cli
