#include <fmt/format.h>

#include <algorithm>

#include "lane/inventory/facts.h"

namespace lane::inventory {
namespace {

using topology::Gpu;

// Names, compute capabilities and counts of NVLinks of GPUs whose PCI device number says it all. Numbers and names: the
// list of supported chips in the README of NVIDIA's open-gpu-kernel-modules; links: NVIDIA's data sheets. Others, such
// as 2342 (GH200 with 120 or 480 GB), are several products.
struct KnownGpu {
  int device;
  const char* name;
  int sm, num_nvlinks;
};
constexpr KnownGpu kKnown[] = {
    {0x20b0, "NVIDIA A100-SXM4-40GB", 80, 12},
    {0x20b2, "NVIDIA A100-SXM4-80GB", 80, 12},
    {0x20f3, "NVIDIA A800-SXM4-80GB", 80, 8},
    {0x2330, "NVIDIA H100 80GB HBM3", 90, 18},
    {0x2324, "NVIDIA H800", 90, 8},
    {0x2329, "NVIDIA H20", 90, 18},
    {0x2335, "NVIDIA H200", 90, 18},
    {0x2901, "NVIDIA B200", 100, 18},
    {0x2941, "NVIDIA GB200", 100, 18},
    {0x26b9, "NVIDIA L40S", 89, 0},
};

// "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (...)"
void read_version(Files& files, std::map<std::string, Fact>& facts) {
  const std::string source = "/proc/driver/nvidia/version";
  const Reading reading = files.read(source);
  if (!reading.ok()) {
    add_fact(facts, "nvidia.driver", {.source = source, .why_unknown = reading.why});
    add_fact(facts, "nvidia.open_modules", {.source = source, .why_unknown = reading.why});
    return;
  }
  const std::string_view line = split(reading.text, '\n').front();
  std::string version;
  for (const std::string_view word : split(line, ' '))
    if (version.empty() && word.find('.') != word.npos && word.find_first_not_of("0123456789.") == word.npos)
      version = word;
  facts["nvidia.driver"] = {
      .value = version, .source = source, .why_unknown = version.empty() ? "the file has no version" : ""};
  facts["nvidia.open_modules"] = {.value = line.find("Open Kernel Module") != line.npos ? "yes" : "no",
                                  .source = source};
}

Fact peermem(Files& files) {
  // The files that NCCL looks for (net_ib/gdr.cc): nv_peer_mem, nvidia-peermem over MLNX_OFED, nvidia-peermem.
  for (const char* file : {"/sys/kernel/mm/memory_peers/nv_mem/version",
                           "/sys/kernel/mm/memory_peers/nv_mem_nc/version", "/sys/module/nvidia_peermem/version"})
    if (files.exists(file)) return {.value = "loaded", .source = file};
  const std::string modules = "/sys/module";
  if (!files.exists(modules)) return {.source = modules, .why_unknown = "there is no such folder here"};
  return {.value = "absent", .source = "/sys/module/nvidia_peermem"};
}

// The driver exports its memory as DMA-BUF from open modules on Linux 5.12 on (GPU Operator, "GPUDirect RDMA").
Fact dmabuf(const std::map<std::string, Fact>& facts) {
  const Fact &open = facts.at("nvidia.open_modules"), &kernel = facts.at("os.kernel");
  const std::string source = open.source + ", " + kernel.source;
  if (!open.known()) return {.source = source, .why_unknown = open.why_unknown};
  if (open.value == "no") return {.value = "no", .source = open.source};
  if (!kernel.known()) return {.source = source, .why_unknown = kernel.why_unknown};
  const auto parts = split(kernel.value, '.');
  const int major = static_cast<int>(leading_number(parts[0]));
  const int minor = parts.size() > 1 ? static_cast<int>(leading_number(parts[1])) : 0;
  if (major > 5 || (major == 5 && minor >= 12)) return {.value = "yes", .source = source};
  if (kernel.value.find(".el") != std::string::npos)
    return {.source = source, .why_unknown = "this distribution's old kernel has parts of newer ones"};
  return {.value = "no", .source = source};
}

// DOCA and MLNX_OFED give their module a version; the kernel's own has none.
Fact ofed(Files& files) {
  const std::string module = "/sys/module/mlx5_core", source = module + "/version";
  if (const Reading version = files.read(source); version.ok()) return {.value = version.line(), .source = source};
  if (files.exists(module)) return {.value = "inbox", .source = module};
  if (files.exists("/sys/module")) return {.value = "absent", .source = module};
  return {.source = module, .why_unknown = "there is no /sys/module here"};
}

// lib.* of a copy: the highest version in the names of files where distributions keep libraries.
void read_libraries(Files& files, std::map<std::string, Fact>& facts) {
  constexpr std::pair<const char*, const char*> kLibraries[] = {{"lib.nccl", "libnccl.so"},
                                                                {"lib.nvshmem", "libnvshmem_host.so"},
                                                                {"lib.ucx", "libucp.so"},
                                                                {"lib.libfabric", "libfabric.so"},
                                                                {"lib.nvml", "libnvidia-ml.so"}};
  constexpr const char* kFolders[] = {
      "/usr/lib",           "/usr/lib64", "/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu",
      "/opt/amazon/efa/lib"};
  for (const char* folder : kFolders)
    for (const std::string& name : files.list(folder))
      for (const auto& [key, library] : kLibraries) {
        std::string version = version_in_name(name, library);
        // The files of UCX and libfabric bear versions of their interface: libucp.so.0.0.0, libfabric.so.1.27.0.
        const bool is_interface = version.starts_with("0.") || std::string_view(library) == "libfabric.so";
        if (version.empty() || is_interface) continue;
        files.exists(std::string(folder) + "/" + name);
        add_fact(facts, key, {.value = std::move(version), .source = std::string(folder) + "/" + name});
      }
  for (const auto& [key, library] : kLibraries)
    add_fact(facts, key, {.source = library, .why_unknown = "no file of the copy tells"});
}

// A service that would run beside this process: if it does not, that is certain only where all processes are in sight.
Fact service(Files& files, const std::string& comm, const std::map<std::string, Fact>& facts) {
  if (const int pid = files.find_process(comm); pid > 0)
    return {.value = "running", .source = fmt::format("/proc/{}/comm", pid)};
  const auto kind = facts.find("os.virtualization");
  if (!files.read("/proc/1/comm").ok()) return {.source = "/proc", .why_unknown = "processes are not in sight"};
  if (kind == facts.end() || !kind->second.known() || kind->second.value != "none")
    return {.source = "/proc", .why_unknown = "it is not in sight from a container or virtual machine"};
  return {.value = "absent", .source = "/proc"};
}

}  // namespace

Gpu gpu_from_id(const PciDevice& device) {
  Gpu gpu{.pci_id = device.id, .numa_node = device.numa_node, .pcie = device.link};
  gpu.name = fmt::format("NVIDIA 10de:{:04x}", device.device);
  for (const KnownGpu& known : kKnown) {
    if (known.device != device.device) continue;
    gpu.name = known.name;
    gpu.sm = known.sm;
    gpu.max_nvlinks = known.num_nvlinks;
    if (known.num_nvlinks == 0) gpu.num_nvlinks = 0;
  }
  return gpu;
}

void read_driver(Files& files, std::map<std::string, Fact>& facts) {
  read_version(files, facts);
  facts["nvidia.peermem"] = peermem(files);
  facts["nvidia.dmabuf"] = dmabuf(facts);
  facts["lib.ofed"] = ofed(files);
  if (!files.root().empty()) read_libraries(files, facts);
}

void read_services(Files& files, const topology::Host& host, std::map<std::string, Fact>& facts) {
  if (host.gpus.empty()) return;
  const auto any = [&](auto holds) { return std::any_of(host.gpus.begin(), host.gpus.end(), holds); };
  const bool has_domain = any([](const Gpu& gpu) { return !gpu.nvlink_domain.empty(); });
  const bool has_switch = any([](const Gpu& gpu) { return gpu.has_nvswitch; });
  const bool is_told = !any([](const Gpu& gpu) { return gpu.num_nvlinks < 0; });

  Fact manager = service(files, "nv-fabricmanager", facts);
  if (manager.value != "running") {
    if (has_domain)  // an NVL72's switches are in trays of their own, and so is their manager
      manager = {.value = "not needed", .source = "the GPUs' NVLink domain spans hosts"};
    else if (!has_switch && is_told)
      manager = {.value = "not needed", .source = "the GPUs' NVLinks: none ends in a switch"};
    else if (!has_switch)
      manager = {.source = manager.source, .why_unknown = "whether there are NVSwitches is not told"};
  }
  add_fact(facts, "nvidia.fabric_manager", manager);

  Fact imex = service(files, "nvidia-imex", facts);
  if (imex.value != "running" && !has_domain && is_told)
    imex = {.value = "not needed", .source = "the GPUs' NVLink domain: it is this host alone"};
  add_fact(facts, "nvidia.imex", imex);

  if (const int pid = files.find_process("nvidia-persistenced"); pid > 0)
    add_fact(facts, "nvidia.persistence", {.value = "on", .source = fmt::format("/proc/{}/comm", pid)});
  add_fact(facts, "nvidia.persistence", {.source = "NVML", .why_unknown = "NVML was not asked"});
}

}  // namespace lane::inventory
