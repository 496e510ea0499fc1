#include <dlfcn.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/random.h"
#include "lane/inventory/calls.h"
#include "lane/inventory/sysfs.h"

namespace lane::inventory {
namespace {

Fact limit(int resource, const char* name) {
  struct rlimit limits {};
  const std::string source = fmt::format("getrlimit({})", name);
  if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &limits) != 0)
    return {.source = source, .why_unknown = std::strerror(errno)};
  return {.value = limits.rlim_cur == RLIM_INFINITY ? "unlimited" : std::to_string(limits.rlim_cur), .source = source};
}

void ask_shared_memory(std::map<std::string, Fact>& facts) {
  const std::string source = "statvfs(/dev/shm)";
  struct statvfs about {};
  if (::statvfs("/dev/shm", &about) != 0) {
    facts["shm.bytes"] = facts["shm.free_bytes"] = {.source = source, .why_unknown = std::strerror(errno)};
    return;
  }
  facts["shm.bytes"] = {.value = std::to_string(about.f_blocks * about.f_frsize), .source = source};
  facts["shm.free_bytes"] = {.value = std::to_string(about.f_bavail * about.f_frsize), .source = source};
}

// "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus." gives 79 to the GPU at 0000:1b:00.0. The pid and
// the name of the process are nobody's business.
void ask_kernel_log(HostCalls& calls) {
  const std::string source = "/dev/kmsg";
  const Fd log(::open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  const int error = errno;
  std::map<std::string, std::string> seen;
  char line[8192];
  for (ssize_t got = 0; log;) {
    got = ::read(log.get(), line, sizeof line);
    if (got < 0 && (errno == EPIPE || errno == EINTR)) continue;  // the record was overwritten
    if (got <= 0) break;
    const std::string_view text(line, static_cast<size_t>(got));
    const size_t xid = text.find("NVRM: Xid (PCI:"), close = text.find("): ", xid);
    if (xid == text.npos || close == text.npos) continue;
    const std::string address = std::string(text.substr(xid + 15, close - xid - 15)) + ".0";
    const int number = static_cast<int>(leading_number(text.substr(close + 3, text.find(',', close) - close - 3)));
    std::string& numbers = seen[address];
    numbers += (numbers.empty() ? "" : ", ") + std::to_string(number);
  }
  for (size_t i = 0; i < calls.gpus.size(); ++i) {
    Fact& fact = calls.facts[fmt::format("gpu.{}.xid", i)];
    fact.source = source;
    if (!log)
      fact.why_unknown = error == EPERM || error == EACCES ? "permission denied; run as root" : std::strerror(error);
    else
      fact.value = seen.count(calls.gpus[i].pci_id) ? seen[calls.gpus[i].pci_id] : "none";
  }
}

// --- libraries ---

std::string load_and_ask(const char* library, std::string (*ask)(void*)) {
  void* handle = ::dlopen(library, RTLD_NOW | RTLD_LOCAL);
  return handle == nullptr ? "absent" : ask(handle);
}

// In a process of its own: libraries do things when they are loaded (UCX takes over signals), cannot always be
// unloaded, print, and may crash or hang without their hardware.
Fact loaded_version(const char* library, std::string (*ask)(void*)) {
  constexpr int kLimitMs = 5000;
  const std::string source = std::string("dlopen ") + library;
  const auto unknown = [&](const std::string& why) { return Fact{.source = source, .why_unknown = why}; };
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return unknown(std::strerror(errno));
  const Fd in(ends[0]);
  Fd out(ends[1]);
  const pid_t child = ::fork();
  if (child < 0) return unknown(std::strerror(errno));
  if (child == 0) {
    const int nowhere = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    ::dup2(nowhere, STDOUT_FILENO);
    ::dup2(nowhere, STDERR_FILENO);
    const std::string version = load_and_ask(library, ask);
    [[maybe_unused]] const ssize_t wrote = ::write(out.get(), version.data(), version.size());
    ::_exit(0);
  }
  out = Fd();
  struct pollfd wait = {.fd = in.get(), .events = POLLIN, .revents = 0};
  const bool is_done = ::poll(&wait, 1, kLimitMs) == 1;
  char text[256] = {};
  const ssize_t got = is_done ? ::read(in.get(), text, sizeof text - 1) : 0;
  if (!is_done) ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (got > 0) return {.value = text, .source = source};
  if (!is_done) return unknown(fmt::format("loading it took more than {} s", kLimitMs / 1000));
  return unknown(WIFSIGNALED(status) ? "loading it crashed" : "the library does not tell its version");
}

template <class Function>
Function* function_in(void* library, const char* name) {
  return reinterpret_cast<Function*>(::dlsym(library, name));
}

std::string nccl_version(void* library) {
  const auto get = function_in<int(int*)>(library, "ncclGetVersion");
  int code = 0;
  if (get == nullptr || get(&code) != 0 || code <= 0) return {};
  // 2809 was 2.8.9; from 2.9 on it is 21004 for 2.10.4.
  const int major = code < 10000 ? code / 1000 : code / 10000;
  return fmt::format("{}.{}.{}", major, code < 10000 ? code / 100 % 10 : code / 100 % 100, code % 100);
}

std::string nvshmem_version(void* library) {
  const auto get = function_in<void(int*, int*, int*)>(library, "nvshmemx_vendor_get_version_info");
  int major = 0, minor = 0, patch = 0;
  if (get == nullptr) return {};
  get(&major, &minor, &patch);
  return fmt::format("{}.{}.{}", major, minor, patch);
}

std::string ucx_version(void* library) {
  const auto get = function_in<const char*()>(library, "ucp_get_version_string");
  const char* version = get != nullptr ? get() : nullptr;
  return version != nullptr ? std::string(version).substr(0, std::string_view(version).find(' ')) : std::string();
}

std::string libfabric_version(void* library) {
  const auto get = function_in<uint32_t()>(library, "fi_version");
  if (get == nullptr) return {};
  const uint32_t version = get();
  return fmt::format("{}.{}", version >> 16, version & 0xffff);
}

// --- JSON ---

Json to_json(const Fact& fact) {
  Json json{{"source", fact.source}};
  if (fact.known())
    json["value"] = fact.value;
  else
    json["why_unknown"] = fact.why_unknown;
  return json;
}

[[noreturn]] void corrupt(const std::string& where, const std::string& what) {
  throw Error(ErrorCode::kCorruptData, where + ": " + what + "; make the bundle again: lane doctor --collect");
}

const Json& object_in(const Json& json, const char* field, const std::string& where) {
  static const Json kNone = Json::object();
  if (!json.contains(field)) return kNone;
  if (!json[field].is_object()) corrupt(where, fmt::format("\"{}\": expected an object", field));
  return json[field];
}

int small_int(const Json& json, const char* field, int fallback, const std::string& where) {
  constexpr int64_t kMost = 1 << 20;
  const int64_t value = json_int(json, field, fallback, where);
  if (value < -1 || value > kMost) corrupt(where, fmt::format("\"{}\": {}: expected a small number", field, value));
  return static_cast<int>(value);
}

topology::Gpu gpu_from_json(const Json& json, const std::string& where) {
  if (!json.is_object()) corrupt(where, "\"gpus\": expected objects");
  topology::Gpu gpu;
  gpu.pci_id = json_string(json, "pci_id", "", where);
  gpu.name = json_string(json, "name", "", where);
  gpu.sm = small_int(json, "sm", 0, where);
  gpu.memory_bytes = std::max<int64_t>(0, json_int(json, "memory_bytes", 0, where));
  gpu.numa_node = small_int(json, "numa_node", -1, where);
  gpu.pcie.gt_per_s = json_number(json, "pcie_gt_per_s", 0, where);
  gpu.pcie.max_gt_per_s = json_number(json, "max_pcie_gt_per_s", 0, where);
  gpu.pcie.width = small_int(json, "pcie_width", 0, where);
  gpu.pcie.max_width = small_int(json, "max_pcie_width", 0, where);
  gpu.num_nvlinks = small_int(json, "num_nvlinks", -1, where);
  gpu.max_nvlinks = small_int(json, "max_nvlinks", -1, where);
  gpu.nvlink_gb_per_s = json_number(json, "nvlink_gb_per_s", 0, where);
  gpu.has_nvswitch = json_bool(json, "has_nvswitch", false, where);
  gpu.nvlink_domain = json_string(json, "nvlink_domain", "", where);
  return gpu;
}

Json to_json(const topology::Gpu& gpu) {
  return {{"pci_id", gpu.pci_id},
          {"name", gpu.name},
          {"sm", gpu.sm},
          {"memory_bytes", gpu.memory_bytes},
          {"numa_node", gpu.numa_node},
          {"pcie_gt_per_s", gpu.pcie.gt_per_s},
          {"max_pcie_gt_per_s", gpu.pcie.max_gt_per_s},
          {"pcie_width", gpu.pcie.width},
          {"max_pcie_width", gpu.pcie.max_width},
          {"num_nvlinks", gpu.num_nvlinks},
          {"max_nvlinks", gpu.max_nvlinks},
          {"nvlink_gb_per_s", gpu.nvlink_gb_per_s},
          {"has_nvswitch", gpu.has_nvswitch},
          {"nvlink_domain", gpu.nvlink_domain}};
}

// A square of the GPUs' number, each cell made by `cell`.
template <class Cell>
std::vector<std::vector<Cell>> matrix_in(const Json& json, const char* field, size_t size, const std::string& where,
                                         const std::function<Cell(const Json&)>& cell) {
  std::vector<std::vector<Cell>> matrix;
  if (!json.contains(field) || json[field].empty()) return matrix;
  const auto bad = [&] { corrupt(where, fmt::format("\"{}\": expected {} rows of {} cells", field, size, size)); };
  if (!json[field].is_array() || json[field].size() != size) bad();
  for (const Json& row : json[field]) {
    if (!row.is_array() || row.size() != size) bad();
    matrix.emplace_back();
    for (const Json& value : row) matrix.back().push_back(cell(value));
  }
  return matrix;
}

}  // namespace

HostCalls ask_host() {
  HostCalls calls;
  calls.facts["limits.memlock_bytes"] = limit(RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK");
  calls.facts["limits.open_files"] = limit(RLIMIT_NOFILE, "RLIMIT_NOFILE");
  calls.facts["limits.stack_bytes"] = limit(RLIMIT_STACK, "RLIMIT_STACK");
  ask_shared_memory(calls.facts);
  ask_nvml("libnvidia-ml.so.1", calls);
  ask_kernel_log(calls);
  ask_libraries(calls.facts);
  return calls;
}

void ask_libraries(std::map<std::string, Fact>& facts) {
  facts["lib.nccl"] = loaded_version("libnccl.so.2", nccl_version);
  facts["lib.nvshmem"] = loaded_version("libnvshmem_host.so.3", nvshmem_version);
  facts["lib.ucx"] = loaded_version("libucp.so.0", ucx_version);
  facts["lib.libfabric"] = loaded_version("libfabric.so.1", libfabric_version);
}

std::string version_in_name(const std::string& file_name, const std::string& library) {
  if (file_name.rfind(library + ".", 0) != 0) return {};
  const std::string version = file_name.substr(library.size() + 1);
  const bool is_version = version.find_first_not_of("0123456789.") == std::string::npos &&
                          version.find('.') != std::string::npos && version.find("..") == std::string::npos;
  return is_version && version.front() != '.' && version.back() != '.' ? version : std::string();
}

Json to_json(const HostCalls& calls) {
  Json facts = Json::object(), gpus = Json::array(), paths = Json::array();
  for (const auto& [key, fact] : calls.facts) facts[key] = to_json(fact);
  for (const topology::Gpu& gpu : calls.gpus) gpus.push_back(to_json(gpu));
  for (const auto& row : calls.gpu_to_gpu) {
    paths.push_back(Json::array());
    for (const topology::Path path : row) paths.back().push_back(topology::name_of(path));
  }
  Json json{{"schema", 1}, {"facts", facts}, {"why_unreadable", calls.why_unreadable}};
  if (!calls.has_gpus) return json;
  json["gpus"] = gpus;
  json["gpu_to_gpu"] = paths;
  json["gpu_to_gpu_nvlinks"] = calls.gpu_to_gpu_nvlinks;
  return json;
}

HostCalls calls_from_json(const std::string& text, const std::string& where) {
  const Json json = parse_json(text, where);
  if (!json.is_object()) corrupt(where, "expected an object");
  if (const int64_t schema = json_int(json, "schema", 0, where); schema != 1)
    throw Error(ErrorCode::kCorruptData, fmt::format("{}: \"schema\": {}: this version reads 1; use the lane that made "
                                                     "the bundle, or make it again",
                                                     where, schema));
  HostCalls calls;
  for (const auto& [key, value] : object_in(json, "facts", where).items()) {
    if (!value.is_object()) corrupt(where, fmt::format("fact {}: expected an object", in_quotes(key)));
    Fact fact{.value = json_string(value, "value", "", where),
              .source = json_string(value, "source", "", where),
              .why_unknown = json_string(value, "why_unknown", "", where)};
    if (fact.value.empty() && fact.known()) fact.why_unknown = "the bundle does not say";
    calls.facts[key] = fact;
  }
  for (const auto& [path, why] : object_in(json, "why_unreadable", where).items()) {
    if (!why.is_string() || why.get<std::string>().empty()) corrupt(where, "\"why_unreadable\": expected words");
    calls.why_unreadable[path] = why.get<std::string>();
  }
  calls.has_gpus = json.contains("gpus");
  if (!calls.has_gpus) return calls;
  if (!json["gpus"].is_array() || json["gpus"].size() > 1024) corrupt(where, "\"gpus\": expected a list");
  for (const Json& gpu : json["gpus"]) calls.gpus.push_back(gpu_from_json(gpu, where));
  for (size_t i = 0; i < calls.gpus.size(); ++i) calls.gpus[i].index = static_cast<int>(i);
  calls.gpu_to_gpu_nvlinks =
      matrix_in<int>(json, "gpu_to_gpu_nvlinks", calls.gpus.size(), where, [&](const Json& cell) {
        if (!cell.is_number_integer() || cell < 0 || cell > 1024)
          corrupt(where, "\"gpu_to_gpu_nvlinks\": expected counts");
        return cell.get<int>();
      });
  calls.gpu_to_gpu = matrix_in<topology::Path>(json, "gpu_to_gpu", calls.gpus.size(), where, [&](const Json& cell) {
    const auto path = cell.is_string() ? topology::path_of(cell.get<std::string>()) : std::nullopt;
    if (!path) corrupt(where, "\"gpu_to_gpu\": expected X, NV, PIX, PXB, PHB, NODE, SYS or ?");
    return *path;
  });
  return calls;
}

std::string pseudonym(const std::string& uuid) {
  constexpr std::string_view kMark = "1a9e1a9e-";
  const bool is_uuid = uuid.size() == 36 && uuid[8] == '-' && uuid[13] == '-' && uuid[18] == '-' && uuid[23] == '-' &&
                       uuid.find_first_not_of("0123456789abcdefABCDEF-") == std::string::npos;
  if (!is_uuid || uuid.find_first_not_of("0-") == std::string::npos || uuid.rfind(kMark, 0) == 0) return uuid;
  std::string lower = uuid;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) { return c >= 'A' && c <= 'F' ? c + 32 : c; });
  const uint64_t a = mix64(hash_name(lower)), b = mix64(a);
  return fmt::format("{}{:04x}-8{:03x}-8{:03x}-{:012x}", kMark, a & 0xffff, a >> 16 & 0xfff, a >> 28 & 0xfff,
                     b & 0xffffffffffff);
}

std::string nvlink_domain(const std::string& uuid, const std::string& clique) {
  if (uuid.find_first_not_of("0-") == std::string::npos) return {};
  return pseudonym(uuid) + "." + clique;
}

}  // namespace lane::inventory
