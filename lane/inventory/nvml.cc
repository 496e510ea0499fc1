// NVIDIA's management library, loaded at run time. Prototypes and numbers: nvml.h of driver 580; the functions keep
// their ABI, new versions get new names.
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>

#include "lane/inventory/calls.h"
#include "lane/inventory/sysfs.h"

namespace lane::inventory {
namespace {

using topology::Gpu;
using topology::Path;

using Device = struct NvmlDevice*;
constexpr int kSuccess = 0, kMaxLinks = 18;  // NVML_NVLINK_MAX_LINKS

struct PciInfo {
  char legacy_id[16];
  unsigned domain, bus, device, device_id, subsystem_id;
  char id[32];
};
struct Memory {
  unsigned long long total, free, used;
};
struct FabricInfo {  // nvmlGpuFabricInfo_v2_t
  unsigned version;
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
  unsigned health;
};
struct FieldValue {
  unsigned field, scope;
  long long timestamp, latency_us;
  int type, status;
  union {
    double number;
    unsigned count;
    unsigned long long big;
  } value;
};

struct Library {
  void* handle = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*driver_version)(char*, unsigned) = nullptr;
  int (*count)(unsigned*) = nullptr;
  int (*by_index)(unsigned, Device*) = nullptr;
  int (*name)(Device, char*, unsigned) = nullptr;
  int (*pci)(Device, PciInfo*) = nullptr;
  int (*memory)(Device, Memory*) = nullptr;
  int (*compute_capability)(Device, int*, int*) = nullptr;
  int (*link_state)(Device, unsigned, int*) = nullptr;
  int (*link_type)(Device, unsigned, int*) = nullptr;
  int (*link_peer)(Device, unsigned, PciInfo*) = nullptr;
  int (*pcie_generation)(Device, unsigned*) = nullptr;
  int (*pcie_width)(Device, unsigned*) = nullptr;
  int (*max_pcie_generation)(Device, unsigned*) = nullptr;
  int (*max_pcie_width)(Device, unsigned*) = nullptr;
  int (*persistence)(Device, int*) = nullptr;
  int (*ecc_mode)(Device, int*, int*) = nullptr;
  int (*performance_state)(Device, int*) = nullptr;
  int (*ecc_errors)(Device, int, int, unsigned long long*) = nullptr;
  int (*ancestor)(Device, Device, int*) = nullptr;
  int (*fabric)(Device, FabricInfo*) = nullptr;
  int (*fields)(Device, int, FieldValue*) = nullptr;

  explicit Library(const char* file) : handle(::dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    find(init, "nvmlInit_v2");
    find(shutdown, "nvmlShutdown");
    find(error_string, "nvmlErrorString");
    find(driver_version, "nvmlSystemGetDriverVersion");
    find(count, "nvmlDeviceGetCount_v2");
    find(by_index, "nvmlDeviceGetHandleByIndex_v2");
    find(name, "nvmlDeviceGetName");
    find(pci, "nvmlDeviceGetPciInfo_v3");
    find(memory, "nvmlDeviceGetMemoryInfo");
    find(compute_capability, "nvmlDeviceGetCudaComputeCapability");
    find(link_state, "nvmlDeviceGetNvLinkState");
    find(link_type, "nvmlDeviceGetNvLinkRemoteDeviceType");
    find(link_peer, "nvmlDeviceGetNvLinkRemotePciInfo_v2");
    find(pcie_generation, "nvmlDeviceGetCurrPcieLinkGeneration");
    find(pcie_width, "nvmlDeviceGetCurrPcieLinkWidth");
    find(max_pcie_generation, "nvmlDeviceGetMaxPcieLinkGeneration");
    find(max_pcie_width, "nvmlDeviceGetMaxPcieLinkWidth");
    find(persistence, "nvmlDeviceGetPersistenceMode");
    find(ecc_mode, "nvmlDeviceGetEccMode");
    find(performance_state, "nvmlDeviceGetPerformanceState");
    find(ecc_errors, "nvmlDeviceGetTotalEccErrors");
    find(ancestor, "nvmlDeviceGetTopologyCommonAncestor");
    find(fabric, "nvmlDeviceGetGpuFabricInfoV");
    find(fields, "nvmlDeviceGetFieldValues");
  }
  ~Library() {
    if (handle != nullptr) ::dlclose(handle);
  }
  Library(const Library&) = delete;

  std::string words_for(int status) const {
    const char* words = error_string != nullptr ? error_string(status) : nullptr;
    return words != nullptr ? words : fmt::format("error {}", status);
  }

  // The version at the end of the library's file; it must be the driver's.
  Fact version() const {
    Dl_info about{};
    if (init == nullptr || ::dladdr(reinterpret_cast<void*>(init), &about) == 0 || about.dli_fname == nullptr)
      return {.source = "dlopen", .why_unknown = "the library's file cannot be told"};
    std::error_code error;
    const auto file = std::filesystem::canonical(about.dli_fname, error);
    const std::string found = version_in_name(file.filename().string(), "libnvidia-ml.so");
    if (found.empty()) return {.source = file.string(), .why_unknown = "the file's name has no version"};
    return {.value = found, .source = file.string()};
  }

 private:
  template <class Function>
  void find(Function& function, const char* symbol) {
    if (handle != nullptr) function = reinterpret_cast<Function>(::dlsym(handle, symbol));
  }
};

struct Listed {
  Device device;
  Gpu gpu;
  std::array<int, kMaxLinks> peer_type{};          // 0 GPU, 2 switch, 255 unknown
  std::array<std::string, kMaxLinks> peer_pci_id;  // of links to GPUs
  std::array<int, kMaxLinks> is_active{};
};

std::string pci_id_of(const PciInfo& info) {
  return fmt::format("{:04x}:{:02x}:{:02x}.0", info.domain, info.bus, info.device);
}

double gt_per_s_of(unsigned generation) {
  constexpr double kRates[] = {0, 2.5, 5, 8, 16, 32, 64};
  return generation < std::size(kRates) ? kRates[generation] : 0;
}

template <class Call>
unsigned number_from(Call call, Device device) {
  unsigned value = 0;
  return call != nullptr && call(device, &value) == kSuccess ? value : 0;
}

void read_device(const Library& nvml, Listed& listed) {
  Gpu& gpu = listed.gpu;
  char name[96] = {};
  if (nvml.name != nullptr && nvml.name(listed.device, name, sizeof name - 1) == kSuccess) gpu.name = name;
  Memory memory{};
  if (nvml.memory != nullptr && nvml.memory(listed.device, &memory) == kSuccess)
    gpu.memory_bytes = static_cast<int64_t>(memory.total);
  int major = 0, minor = 0;
  if (nvml.compute_capability != nullptr && nvml.compute_capability(listed.device, &major, &minor) == kSuccess)
    gpu.sm = 10 * major + minor;
  gpu.pcie = {.gt_per_s = gt_per_s_of(number_from(nvml.pcie_generation, listed.device)),
              .max_gt_per_s = gt_per_s_of(number_from(nvml.max_pcie_generation, listed.device)),
              .width = static_cast<int>(number_from(nvml.pcie_width, listed.device)),
              .max_width = static_cast<int>(number_from(nvml.max_pcie_width, listed.device))};
}

// A link that the GPU does not have, or a GPU without links, is an error of the call; the first error that is not of
// this kind leaves the count unknown.
void read_links(const Library& nvml, Listed& listed) {
  constexpr int kInvalidArgument = 2, kNotSupported = 3, kSwitch = 2, kUnknownPeer = 255;
  Gpu& gpu = listed.gpu;
  if (nvml.link_state == nullptr) return;
  gpu.num_nvlinks = gpu.max_nvlinks = 0;
  for (unsigned link = 0; link < kMaxLinks; ++link) {
    int is_active = 0;
    const int status = nvml.link_state(listed.device, link, &is_active);
    if (status == kInvalidArgument || status == kNotSupported) continue;
    if (status != kSuccess) {
      gpu.num_nvlinks = gpu.max_nvlinks = -1;
      return;
    }
    ++gpu.max_nvlinks;
    listed.is_active[link] = is_active != 0 ? 1 : -1;
    if (is_active == 0) continue;
    ++gpu.num_nvlinks;
    int type = kUnknownPeer;
    if (nvml.link_type == nullptr || nvml.link_type(listed.device, link, &type) != kSuccess) type = kUnknownPeer;
    listed.peer_type[link] = type;
    PciInfo peer{};
    if (type == kSwitch)
      gpu.has_nvswitch = true;
    else if (nvml.link_peer != nullptr && nvml.link_peer(listed.device, link, &peer) == kSuccess)
      listed.peer_pci_id[link] = pci_id_of(peer);
  }
  constexpr unsigned kSpeedOfActiveLinks = 90;  // NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON, megabytes per second
  FieldValue speed{};
  speed.field = kSpeedOfActiveLinks;
  if (gpu.num_nvlinks > 0 && nvml.fields != nullptr && nvml.fields(listed.device, 1, &speed) == kSuccess &&
      speed.status == kSuccess)
    gpu.nvlink_gb_per_s = speed.value.count / 1000.0;
}

void read_fabric(const Library& nvml, int index, Listed& listed, std::map<std::string, Fact>& facts) {
  constexpr const char* kStates[] = {"not supported", "not started", "in progress", "completed"};
  const std::string key = fmt::format("gpu.{}.fabric_", index), source = "nvmlDeviceGetGpuFabricInfoV";
  Fact &state = facts[key + "state"], &cluster = facts[key + "cluster"], &clique = facts[key + "clique"];
  state.source = cluster.source = clique.source = source;
  FabricInfo info{};
  info.version = static_cast<unsigned>(sizeof info) | 2u << 24;
  const int status = nvml.fabric != nullptr ? nvml.fabric(listed.device, &info) : -1;
  if (status != kSuccess) {
    const std::string why = nvml.fabric == nullptr ? "the driver is too old to tell" : nvml.words_for(status);
    state.why_unknown = cluster.why_unknown = clique.why_unknown = why;
    return;
  }
  state.value = info.state < std::size(kStates) ? kStates[info.state] : fmt::format("state {}", info.state);
  if (info.state == 3 && info.status != kSuccess) state.value = "failed: " + nvml.words_for(info.status);
  std::string uuid;
  for (size_t i = 0; i < sizeof info.cluster; ++i)
    uuid += fmt::format("{}{:02x}", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", info.cluster[i]);
  const std::string domain = nvlink_domain(uuid, std::to_string(info.clique));
  if (state.value == "completed") listed.gpu.nvlink_domain = domain;
  cluster.value = domain.empty() ? "none" : pseudonym(uuid);
  clique.value = std::to_string(info.clique);
}

void read_health(const Library& nvml, int index, const Listed& listed, std::map<std::string, Fact>& facts) {
  constexpr int kUncorrected = 1, kSinceDriverLoad = 0;
  Fact& ecc = facts[fmt::format("gpu.{}.ecc_uncorrected", index)];
  ecc.source = "nvmlDeviceGetTotalEccErrors";
  unsigned long long count = 0;
  const int status =
      nvml.ecc_errors != nullptr ? nvml.ecc_errors(listed.device, kUncorrected, kSinceDriverLoad, &count) : -1;
  if (status == kSuccess)
    ecc.value = std::to_string(count);
  else
    ecc.why_unknown = nvml.ecc_errors == nullptr ? "the library lacks the call" : nvml.words_for(status);
  int is_on = 0, pending = 0, state = 0;
  if (nvml.ecc_mode != nullptr && nvml.ecc_mode(listed.device, &is_on, &pending) == kSuccess)
    facts[fmt::format("gpu.{}.ecc", index)] = {.value = is_on != 0 ? "on" : "off", .source = "nvmlDeviceGetEccMode"};
  constexpr int kLowestState = 15;
  if (nvml.performance_state != nullptr && nvml.performance_state(listed.device, &state) == kSuccess && state >= 0 &&
      state <= kLowestState)
    facts[fmt::format("gpu.{}.performance_state", index)] = {.value = fmt::format("P{}", state),
                                                             .source = "nvmlDeviceGetPerformanceState"};
  for (size_t link = 0; link < kMaxLinks; ++link)
    if (listed.is_active[link] != 0)
      facts[fmt::format("gpu.{}.nvlink.{}", index, link)] = {
          .value = listed.is_active[link] > 0 ? "active" : "inactive", .source = "nvmlDeviceGetNvLinkState"};
}

Path path_of_level(int level) {
  switch (level) {  // nvmlGpuTopologyLevel_t
    case 0:         // two GPUs of one board
    case 10:
      return Path::kPix;
    case 20:
      return Path::kPxb;
    case 30:
      return Path::kPhb;
    case 40:
      return Path::kNode;
    case 50:
      return Path::kSys;
    default:
      return Path::kUnknown;
  }
}

void read_pairs(const Library& nvml, const std::vector<Listed>& listed, HostCalls& calls) {
  const size_t n = listed.size();
  calls.gpu_to_gpu_nvlinks.assign(n, std::vector<int>(n, 0));
  calls.gpu_to_gpu.assign(n, std::vector<Path>(n, Path::kUnknown));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      if (i == j) {
        calls.gpu_to_gpu[i][j] = Path::kSelf;
        continue;
      }
      int level = -1;
      if (nvml.ancestor != nullptr && nvml.ancestor(listed[i].device, listed[j].device, &level) == kSuccess)
        calls.gpu_to_gpu[i][j] = path_of_level(level);
      const Gpu &a = listed[i].gpu, &b = listed[j].gpu;
      calls.gpu_to_gpu_nvlinks[i][j] =
          a.has_nvswitch && b.has_nvswitch
              ? std::min(a.num_nvlinks, b.num_nvlinks)
              : static_cast<int>(std::count(listed[i].peer_pci_id.begin(), listed[i].peer_pci_id.end(), b.pci_id));
    }
  }
}

void read_persistence(const Library& nvml, const std::vector<Listed>& listed, std::map<std::string, Fact>& facts) {
  Fact& fact = facts["nvidia.persistence"];
  fact.source = "nvmlDeviceGetPersistenceMode";
  fact.value = "on";
  for (const Listed& one : listed) {
    int is_on = 0;
    const int status = nvml.persistence != nullptr ? nvml.persistence(one.device, &is_on) : -1;
    if (status != kSuccess) {
      fact.value.clear();
      fact.why_unknown = nvml.persistence == nullptr ? "the library lacks the call" : nvml.words_for(status);
      return;
    }
    if (is_on == 0) fact.value = "off";
  }
}

}  // namespace

void ask_nvml(const char* library, HostCalls& calls) {
  const Library nvml(library);
  Fact& driver = calls.facts["nvidia.driver"];
  driver.source = "nvmlSystemGetDriverVersion";
  const auto fail = [&](const std::string& why) { driver.why_unknown = calls.facts["nvml"].why_unknown = why; };
  calls.facts["nvml"] = {.source = std::string("dlopen ") + library};
  if (nvml.handle == nullptr || nvml.init == nullptr || nvml.shutdown == nullptr)
    return fail(std::string(library) + " is not here: no NVIDIA driver, or the container hides it");
  calls.facts["lib.nvml"] = nvml.version();
  if (const int status = nvml.init(); status != kSuccess) return fail("nvmlInit: " + nvml.words_for(status));
  char version[96] = {};
  if (nvml.driver_version != nullptr && nvml.driver_version(version, sizeof version - 1) == kSuccess)
    driver.value = version;
  if (driver.value.empty()) driver.why_unknown = "NVML does not say";
  unsigned count = 0;
  std::vector<Listed> listed;
  if (nvml.count != nullptr && nvml.by_index != nullptr && nvml.pci != nullptr && nvml.count(&count) == kSuccess) {
    calls.has_gpus = true;
    for (unsigned i = 0; i < count; ++i) {
      Listed one{};
      PciInfo info{};
      if (nvml.by_index(i, &one.device) != kSuccess || nvml.pci(one.device, &info) != kSuccess) continue;
      one.gpu.pci_id = pci_id_of(info);
      listed.push_back(std::move(one));
    }
  }
  calls.facts["nvml"].value = std::to_string(listed.size()) + " GPUs";
  std::sort(listed.begin(), listed.end(), [](auto& a, auto& b) { return a.gpu.pci_id < b.gpu.pci_id; });
  for (size_t i = 0; i < listed.size(); ++i) {
    const int index = listed[i].gpu.index = static_cast<int>(i);
    read_device(nvml, listed[i]);
    read_links(nvml, listed[i]);
    read_fabric(nvml, index, listed[i], calls.facts);
    read_health(nvml, index, listed[i], calls.facts);
  }
  read_pairs(nvml, listed, calls);
  if (!listed.empty()) read_persistence(nvml, listed, calls.facts);
  for (Listed& one : listed) calls.gpus.push_back(std::move(one.gpu));
  nvml.shutdown();
}

}  // namespace lane::inventory
