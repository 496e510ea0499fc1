#include "lane/place/read/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/topology/hostlist.h"

namespace lane::place {
namespace {

using topology::Gpu;
using topology::Host;
using topology::Nic;

// What a kind of GPU is to the network. NVLink: links x GB/s of one link in one direction as `nvidia-smi nvlink -s`
// prints them (A100 12 x 25, Hopper 18 x 26.562, Blackwell 18 x 53.125); L40S has none. Hosts: the vendor's reference
// boards (DGX and HGX: 8 GPUs; GB200 NVL72 compute tray: 4), with a NIC for each GPU of these many Gb/s (DGX A100: HDR;
// DGX H100, H200, B200 and GB200: NDR). L40S: a common server, 8 GPUs; its NICs differ most.
struct Kind {
  const char* key;
  const char* name;
  int sm, num_nvlinks;
  double nvlink_gb_per_s;
  int64_t memory_gib;
  double pcie_gt_per_s;
  int num_gpus;
  double nic_gbit_per_s;
};
constexpr Kind kKinds[] = {
    {"a100", "NVIDIA A100-SXM4-80GB", 80, 12, 25, 80, 16, 8, 200},
    {"h100", "NVIDIA H100 80GB HBM3", 90, 18, 26.562, 80, 32, 8, 400},
    {"h200", "NVIDIA H200", 90, 18, 26.562, 141, 32, 8, 400},
    {"b200", "NVIDIA B200", 100, 18, 53.125, 180, 32, 8, 400},
    {"gb200", "NVIDIA GB200", 100, 18, 53.125, 186, 32, 4, 400},
    {"l40s", "NVIDIA L40S", 89, 0, 0, 48, 16, 8, 200},
};

const Kind& kind_of(const HostDefaults& defaults) {
  const std::string key = defaults.gpu.empty() ? "h100" : defaults.gpu;
  for (const Kind& kind : kKinds)
    if (key == kind.key) return kind;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("GPU kind {} is not known; there are {}", in_quotes(key), fmt::join(gpu_kinds(), ", ")));
}

// Marked as "assumed": such names never reach a launcher.
std::vector<Nic> default_nics(const HostDefaults& defaults, size_t num_gpus) {
  const size_t count = defaults.num_nics > 0 ? static_cast<size_t>(defaults.num_nics) : num_gpus;
  const double rate = defaults.nic_gbit_per_s > 0 ? defaults.nic_gbit_per_s : kind_of(defaults).nic_gbit_per_s;
  std::vector<Nic> nics;
  for (size_t i = 0; i < count; ++i)
    nics.push_back({.name = fmt::format("nic{}", i),
                    .kind = topology::NicKind::kInfiniband,
                    .role = topology::NicRole::kCompute,
                    .model = "assumed",
                    .ports = {{.gbit_per_s = rate}},
                    .rail = static_cast<int>(i)});
  return nics;
}

}  // namespace

std::vector<std::string> gpu_kinds() {
  std::vector<std::string> keys;
  for (const Kind& kind : kKinds) keys.emplace_back(kind.key);
  return keys;
}

std::vector<Gpu> default_gpus(const HostDefaults& defaults, int count) {
  const Kind& kind = kind_of(defaults);
  if (count == 0) count = defaults.num_gpus > 0 ? defaults.num_gpus : kind.num_gpus;
  std::vector<Gpu> gpus;
  for (int i = 0; i < count; ++i)
    gpus.push_back({.index = i,
                    .name = kind.name,
                    .sm = kind.sm,
                    .memory_bytes = kind.memory_gib << 30,
                    .pcie = {.max_gt_per_s = kind.pcie_gt_per_s, .max_width = 16},
                    .num_nvlinks = kind.num_nvlinks,
                    .max_nvlinks = kind.num_nvlinks,
                    .nvlink_gb_per_s = kind.nvlink_gb_per_s,
                    .has_nvswitch = kind.num_nvlinks > 0});
  return gpus;
}

void fill_hosts(Source& source, const HostDefaults& defaults, topology::Topology& topology) {
  size_t num_without_gpus = 0, num_without_nics = 0;
  bool has_domains = false;
  for (Host& host : topology.hosts) {
    if (host.gpus.empty()) {
      host.gpus = default_gpus(defaults, 0);
      ++num_without_gpus;
    }
    if (host.nics.empty()) {
      host.nics = default_nics(defaults, host.gpus.size());
      ++num_without_nics;
    }
    for (Gpu& gpu : host.gpus) {
      if (defaults.leaf_is_nvlink_domain && gpu.nvlink_domain.empty() && gpu.num_nvlinks > 0)
        gpu.nvlink_domain = host.leaf_switch;
      has_domains = has_domains || !gpu.nvlink_domain.empty();
    }
  }
  const Host& first = topology.hosts.front();
  if (num_without_gpus > 0)
    source.notes.push_back(fmt::format("GPUs of {} hosts assumed: {} x {} (--gpus-per-node, --gpu)", num_without_gpus,
                                       default_gpus(defaults, 0).size(), kind_of(defaults).name));
  if (num_without_nics > 0)
    source.notes.push_back(
        fmt::format("NICs of {} hosts assumed: {} x {:g} Gb/s InfiniBand (--nics-per-node, --nic-gbit)",
                    num_without_nics, first.nics.size(), first.nics[0].ports[0].gbit_per_s));
  if (std::string_view(kind_of(defaults).key) == "gb200" && !has_domains)
    source.notes.push_back(
        "NVLink domains between hosts are not known: each host was taken as its own (--leaf-is-nvlink-domain, or a "
        "CSV with nvlink_domain)");
}

void Source::refuse(int line, const std::string& what) const {
  throw Error(ErrorCode::kCorruptData, line > 0 ? fmt::format("{}:{}: {}", where, line, what) : where + ": " + what);
}

std::vector<std::string> Source::expand(const std::string& hostlist, int line) const {
  try {
    return topology::expand_hostlist(hostlist, kMaxHosts);
  } catch (const Error& error) {
    refuse(line, error.what());
  }
}

int64_t Source::number(std::string_view digits, int line, const char* what, int64_t least, int64_t most) const {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() || value < least || value > most)
    refuse(line, fmt::format("{} is {}; expected a whole number from {} to {}", what, in_quotes(digits), least, most));
  return value;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return result;
}

bool is_host_name(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  });
}

}  // namespace lane::place
