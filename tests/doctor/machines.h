// Machines as values, healthy until a test breaks them.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "lane/doctor/doctor.h"
#include "lane/plan/known_shapes.h"

namespace lane::doctor::test {

using inventory::Fact;
using inventory::Inventory;
using topology::Gpu;
using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::NicRole;
using topology::Path;

inline Host& host_of(Inventory& inventory) { return inventory.topology.hosts.front(); }

inline void set(Inventory& inventory, const std::string& key, const std::string& value) {
  inventory.facts[key] = {value, "test:" + key, ""};
}
inline void forget(Inventory& inventory, const std::string& key, const std::string& why) {
  inventory.facts[key] = {"", "test:" + key, why};
}

inline Nic infiniband(const std::string& name, const std::string& pci_id, int numa_node) {
  Nic nic;
  nic.name = name;
  nic.pci_id = pci_id;
  nic.kind = NicKind::kInfiniband;
  nic.role = NicRole::kCompute;
  nic.model = "MT4129";
  nic.board_id = "MT_0000000838";
  nic.firmware = "28.43.2026";
  nic.numa_node = numa_node;
  nic.pcie = {32, 32, 16, 16};
  nic.ports = {{1, "ACTIVE", "LinkUp", 400, "4X NDR", {{"link_downed", 0}, {"symbol_error", 0}}}};
  return nic;
}

inline Inventory empty_host() {
  Inventory made;
  made.topology.hosts.resize(1);
  host_of(made).name = "node1";
  return made;
}

inline void add_os(Inventory& made) {
  set(made, "os.virtualization", "none");
  set(made, "os.kernel", "6.8.0-45-generic");
  set(made, "os.numa_balancing", "0");
  set(made, "os.cpu_governor", "performance");
  set(made, "os.thp", "madvise");
  set(made, "limits.memlock_bytes", "unlimited");
  set(made, "limits.open_files", "1048576");
  set(made, "limits.stack_bytes", "8388608");
  set(made, "shm.bytes", "540973531136");
  set(made, "shm.free_bytes", "540973031424");
  set(made, "iommu.mode", "passthrough");
}

inline void add_driver(Inventory& made) {
  set(made, "nvidia.driver", "580.95.05");
  set(made, "lib.nvml", "580.95.05");
  set(made, "nvidia.open_modules", "yes");
  set(made, "nvidia.persistence", "on");
  set(made, "nvidia.peermem", "loaded");
  set(made, "nvidia.dmabuf", "yes");
  set(made, "lib.nccl", "2.26.5");
  for (const Gpu& gpu : host_of(made).gpus) {
    set(made, "gpu." + std::to_string(gpu.index) + ".ecc_uncorrected", "0");
    set(made, "gpu." + std::to_string(gpu.index) + ".xid", "none");
  }
}

// Eight GPUs behind NVSwitch, each with its own NIC on its PCIe switch: HGX H100.
inline Inventory hgx_h100() {
  Inventory made = empty_host();
  Host& host = host_of(made);
  host.machine.cpu_model = "Intel(R) Xeon(R) Platinum 8480C";
  host.machine.memory_bytes = int64_t{2} << 40;
  host.machine.numa_nodes = {{0, {0, 1}, int64_t{1} << 40}, {1, {2, 3}, int64_t{1} << 40}};
  for (int i = 0; i < 8; ++i) {
    Gpu gpu;
    gpu.index = i;
    gpu.pci_id = "0000:" + std::to_string(10 + i) + ":00.0";
    gpu.name = "NVIDIA H100 80GB HBM3";
    gpu.sm = 90;
    gpu.memory_bytes = int64_t{80} << 30;
    gpu.numa_node = i / 4;
    gpu.pcie = {32, 32, 16, 16};
    gpu.num_nvlinks = gpu.max_nvlinks = 18;
    gpu.nvlink_gb_per_s = 26.5625;
    gpu.has_nvswitch = true;
    host.gpus.push_back(gpu);
    host.nics.push_back(infiniband("mlx5_" + std::to_string(i), "0000:" + std::to_string(30 + i) + ":00.0", i / 4));
  }
  host.gpu_to_nic.assign(8, std::vector<Path>(8, Path::kSys));
  for (int gpu = 0; gpu < 8; ++gpu)
    for (int nic = 0; nic < 8; ++nic)
      host.gpu_to_nic[gpu][nic] = gpu == nic ? Path::kPix : gpu / 4 == nic / 4 ? Path::kNode : Path::kSys;
  host.gpu_to_gpu.assign(8, std::vector<Path>(8, Path::kNvlink));
  for (int gpu = 0; gpu < 8; ++gpu) host.gpu_to_gpu[gpu][gpu] = Path::kSelf;
  add_os(made);
  add_driver(made);
  set(made, "nvidia.fabric_manager", "running");
  set(made, "acs.0000:01:00.0", "off");
  for (const Gpu& gpu : host.gpus) {
    set(made, "gpu." + std::to_string(gpu.index) + ".fabric_state", "completed");
    set(made, "gpu." + std::to_string(gpu.index) + ".fabric_cluster", "00000000-0000-0000-0000-000000000000");
  }
  return made;
}

// Eight cards without NVLink and without a network.
inline Inventory l40s_box() {
  Inventory made = hgx_h100();
  Host& host = host_of(made);
  host.nics.clear();
  host.gpu_to_nic.assign(8, {});
  for (Gpu& gpu : host.gpus) {
    gpu.name = "NVIDIA L40S";
    gpu.sm = 89;
    gpu.pcie = {16, 16, 16, 16};
    gpu.num_nvlinks = gpu.max_nvlinks = 0;
    gpu.has_nvswitch = false;
    for (const char* fact : {"fabric_state", "fabric_cluster"})
      made.facts.erase("gpu." + std::to_string(gpu.index) + "." + fact);
  }
  for (auto& row : host.gpu_to_gpu)
    for (Path& path : row)
      if (path == Path::kNvlink) path = Path::kPhb;
  made.facts.erase("nvidia.fabric_manager");
  return made;
}

inline Inventory laptop() {
  Inventory made = empty_host();
  host_of(made).machine.numa_nodes = {{0, {0, 1, 2, 3}, int64_t{16} << 30}};
  add_os(made);
  set(made, "limits.memlock_bytes", "8388608");
  set(made, "limits.open_files", "1024");
  set(made, "os.numa_balancing", "0");
  set(made, "os.cpu_governor", "powersave");
  return made;
}

inline Workload llama_70b(int tensor, int batch = 16) {
  Workload workload;
  workload.model_name = "llama-3-70b";
  workload.shape = *plan::known_shape("llama-3-70b");
  workload.plan.tensor = tensor;
  workload.batch = batch;
  return workload;
}

inline std::vector<Finding> with(const std::vector<Finding>& findings, Verdict verdict) {
  std::vector<Finding> found;
  std::copy_if(findings.begin(), findings.end(), std::back_inserter(found),
               [&](const Finding& finding) { return finding.verdict == verdict; });
  return found;
}

inline const Finding* find(const std::vector<Finding>& findings, const std::string& id) {
  for (const Finding& finding : findings)
    if (finding.id == id) return &finding;
  return nullptr;
}

// "warning pcie-downgraded" for all that is not well: what a test expects, in one comparison.
inline std::vector<std::string> troubles(const std::vector<Finding>& findings) {
  std::vector<std::string> list;
  for (const Finding& finding : findings)
    if (finding.verdict != Verdict::kOk) list.push_back(std::string(name_of(finding.verdict)) + " " + finding.id);
  return list;
}

}  // namespace lane::doctor::test
