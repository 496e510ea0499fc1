#include "lane/inventory/matching.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <numeric>

#include "lane/base/error.h"

namespace lane::inventory {
namespace {

using topology::Gpu;
using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::Path;

// No GPU has more: Vera Rubin's have 36 (NCCL's documentation of partitions in topology files).
constexpr int kMostNvlinks = 36;
constexpr int kMaxBits = 1 << 16;

// Gives matrices that exist the size that the lists of devices have now.
void fit_matrices(Host& host) {
  const size_t num_gpus = host.gpus.size();
  if (!host.gpu_to_gpu.empty()) {
    host.gpu_to_gpu.resize(num_gpus);
    for (size_t gpu = 0; gpu < num_gpus; ++gpu) {
      host.gpu_to_gpu[gpu].resize(num_gpus, Path::kUnknown);
      host.gpu_to_gpu[gpu][gpu] = Path::kSelf;
    }
  }
  if (!host.gpu_to_gpu_nvlinks.empty()) {
    host.gpu_to_gpu_nvlinks.resize(num_gpus);
    for (auto& row : host.gpu_to_gpu_nvlinks) row.resize(num_gpus, 0);
  }
  if (!host.gpu_to_nic.empty()) {
    host.gpu_to_nic.resize(num_gpus);
    for (auto& row : host.gpu_to_nic) row.resize(host.nics.size(), Path::kUnknown);
  }
}

template <class Cell>
void make_matrix(std::vector<std::vector<Cell>>& matrix, size_t num_rows) {
  if (matrix.empty()) matrix.resize(num_rows);
}

template <class Device, class Predicate>
int find(const std::vector<Device>& devices, Predicate is_it) {
  const auto found = std::find_if(devices.begin(), devices.end(), is_it);
  return found == devices.end() ? -1 : static_cast<int>(found - devices.begin());
}

int next_index(const Host& host) {
  int next = 0;
  for (const Gpu& gpu : host.gpus) next = std::max(next, gpu.index + 1);
  return next;
}

bool starts_with_any(std::string_view name, std::initializer_list<std::string_view> beginnings) {
  return std::any_of(beginnings.begin(), beginnings.end(), [&](auto beginning) { return name.starts_with(beginning); });
}

}  // namespace

std::string normal_pci_id(std::string_view text) {
  uint64_t parts[4] = {};  // domain, bus, device, function
  constexpr uint64_t kLimits[4] = {0xffffffff, 0xff, 0x1f, 7};
  const auto num_colons = std::count(text.begin(), text.end(), ':');
  if (num_colons < 1 || num_colons > 2) return {};
  for (size_t part = num_colons == 2 ? 0 : 1; part < 4; ++part) {
    const size_t end = part == 3 ? text.size() : text.find(part == 2 ? '.' : ':');
    if (end == text.npos || end == 0) return {};
    const auto [stop, error] = std::from_chars(text.data(), text.data() + end, parts[part], 16);
    if (error != std::errc{} || stop != text.data() + end || parts[part] > kLimits[part]) return {};
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return fmt::format("{:04x}:{:02x}:{:02x}.{:x}", parts[0], parts[1], parts[2], parts[3]);
}

Host& host_of(Inventory& inventory) {
  auto& hosts = inventory.topology.hosts;
  if (hosts.empty()) hosts.emplace_back();
  return hosts.front();
}

int gpu_of(Host& host, const std::string& pci_id, int index) {
  if (!pci_id.empty())
    if (const int found = find(host.gpus, [&](const Gpu& gpu) { return gpu.pci_id == pci_id; }); found >= 0)
      return found;
  const auto may_be = [&](const Gpu& gpu) { return pci_id.empty() || gpu.pci_id.empty(); };
  if (const int found = find(host.gpus, [&](const Gpu& gpu) { return may_be(gpu) && gpu.index == index; });
      found >= 0) {
    fill(host.gpus[static_cast<size_t>(found)].pci_id, {}, pci_id);
    return found;
  }
  if (index < 0 && std::any_of(host.gpus.begin(), host.gpus.end(), may_be)) return -1;
  const bool is_taken = find(host.gpus, [&](const Gpu& gpu) { return gpu.index == index; }) >= 0;
  host.gpus.push_back({.index = index < 0 || is_taken ? next_index(host) : index, .pci_id = pci_id});
  fit_matrices(host);
  return static_cast<int>(host.gpus.size()) - 1;
}

int nic_of(Host& host, const std::string& name, const std::string& pci_id) {
  int found = name.empty() ? -1 : find(host.nics, [&](const Nic& nic) { return nic.name == name; });
  if (found < 0 && !pci_id.empty()) found = find(host.nics, [&](const Nic& nic) { return nic.pci_id == pci_id; });
  if (found < 0) {
    const auto may_be = [](const Nic& nic) { return nic.pci_id.empty(); };
    if (name.empty() && std::any_of(host.nics.begin(), host.nics.end(), may_be)) return -1;
    found = static_cast<int>(host.nics.size());
    host.nics.push_back({.name = name.empty() ? pci_id : name});
    fit_matrices(host);
  }
  Nic& nic = host.nics[static_cast<size_t>(found)];
  fill(nic.pci_id, {}, pci_id);
  if (!name.empty()) fill(nic.name, nic.pci_id, name);
  return found;
}

topology::NumaNode& numa_node_of(Host& host, int id) {
  auto& nodes = host.machine.numa_nodes;
  auto at = std::find_if(nodes.begin(), nodes.end(), [&](const auto& node) { return node.id >= id; });
  if (at == nodes.end() || at->id != id) at = nodes.insert(at, {.id = id});
  return *at;
}

topology::NicPort& port_of(Nic& nic, int number) {
  auto at = std::find_if(nic.ports.begin(), nic.ports.end(), [&](const auto& port) { return port.number >= number; });
  if (at == nic.ports.end() || at->number != number) at = nic.ports.insert(at, {.number = number});
  return *at;
}

std::string why_not_by_index(const Host& host, int num_listed) {
  const int num_gpus = static_cast<int>(host.gpus.size());
  const bool has_addresses =
      std::any_of(host.gpus.begin(), host.gpus.end(), [](auto& gpu) { return !gpu.pci_id.empty(); });
  if (!has_addresses || num_listed == num_gpus) return {};
  return fmt::format("it lists {} GPUs, and this host has {}: which is which cannot be told by number", num_listed,
                     num_gpus);
}

void fill_gpu_path(Host& host, int gpu, int other, Path path, int num_nvlinks) {
  const auto a = static_cast<size_t>(gpu), b = static_cast<size_t>(other);
  if (a == b) return;
  make_matrix(host.gpu_to_gpu, host.gpus.size());
  make_matrix(host.gpu_to_gpu_nvlinks, host.gpus.size());
  fit_matrices(host);
  const bool lacks_nvlink = host.gpus[a].num_nvlinks == 0 || host.gpus[b].num_nvlinks == 0;
  for (auto [from, to] : {std::pair{a, b}, std::pair{b, a}}) {
    Path& known = host.gpu_to_gpu[from][to];
    if (known == Path::kUnknown || (path == Path::kNvlink && !lacks_nvlink)) known = path;
    if (known == Path::kNvlink) fill(host.gpu_to_gpu_nvlinks[from][to], 0, num_nvlinks);
  }
}

void fill_nic_path(Host& host, int gpu, int nic, Path path) {
  make_matrix(host.gpu_to_nic, host.gpus.size());
  fit_matrices(host);
  fill(host.gpu_to_nic[static_cast<size_t>(gpu)][static_cast<size_t>(nic)], Path::kUnknown, path);
}

void infer_nvswitches(Host& host) {
  for (size_t gpu = 0; gpu < host.gpu_to_gpu_nvlinks.size(); ++gpu) {
    const auto& links = host.gpu_to_gpu_nvlinks[gpu];
    const int num_nvlinks = host.gpus[gpu].num_nvlinks;
    if (std::accumulate(links.begin(), links.end(), int64_t{0}) > (num_nvlinks >= 0 ? num_nvlinks : kMostNvlinks))
      host.gpus[gpu].has_nvswitch = true;
  }
}

void fill_fact(Inventory& inventory, const std::string& key, Fact fact) {
  const auto [at, is_new] = inventory.facts.try_emplace(key, fact);
  if (!is_new && !at->second.known()) at->second = std::move(fact);
}

std::string nvlink_domain_name(std::string_view cluster_uuid, std::string_view clique) {
  if (cluster_uuid.find_first_not_of("0-") == cluster_uuid.npos) return {};
  return fmt::format("{}.{}", cluster_uuid, clique);
}

std::string describe(const topology::PcieLink& link) {
  if (link == topology::PcieLink{}) return {};
  const auto side = [](double gt_per_s, int width) {
    return fmt::format("{} GT/s x{}", gt_per_s > 0 ? fmt::format("{:.1f}", gt_per_s) : "?",
                       width > 0 ? fmt::format("{}", width) : "?");
  };
  return side(link.gt_per_s, link.width) + " of " + side(link.max_gt_per_s, link.max_width);
}

NicKind nic_kind_of(std::string_view name, std::string_view link_layer) {
  if (starts_with_any(name, {"rdmap", "efa"})) return NicKind::kEfa;
  if (starts_with_any(name, {"cxi", "hsn"})) return NicKind::kSlingshot;
  if (link_layer == "InfiniBand") return NicKind::kInfiniband;
  if (link_layer == "Ethernet" || name.starts_with("roce")) return NicKind::kRoce;
  return NicKind::kUnknown;
}

std::vector<int> bits_of_mask(std::string_view mask) {
  const auto bad = [&, whole = mask] {
    return Error(ErrorCode::kInvalidArgument,
                 fmt::format("mask \"{}\": expected groups of eight hexadecimal digits, with commas between", whole));
  };
  std::vector<uint32_t> words;  // least significant first
  while (!mask.empty()) {
    const size_t comma = mask.rfind(',');
    std::string_view digits = comma == mask.npos ? mask : mask.substr(comma + 1);
    mask = comma == mask.npos ? std::string_view() : mask.substr(0, comma);
    const bool is_empty = digits.empty();  // hwloc leaves zeros out
    if (digits.starts_with("0x")) digits.remove_prefix(2);
    uint32_t word = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), word, 16);
    const bool is_number = error == std::errc{} && stop == digits.data() + digits.size();
    if ((!is_empty && !is_number) || words.size() >= kMaxBits / 32) throw bad();
    words.push_back(word);
  }
  std::vector<int> bits;
  for (size_t word = 0; word < words.size(); ++word)
    for (int bit = 0; bit < 32; ++bit)
      if (words[word] >> bit & 1) bits.push_back(static_cast<int>(word) * 32 + bit);
  return bits;
}

std::string mask_of_bits(const std::vector<int>& bits) {
  std::vector<uint32_t> words(1);
  for (const int bit : bits) {
    const auto word = static_cast<size_t>(bit) / 32;
    words.resize(std::max(words.size(), word + 1));
    words[word] |= 1u << (bit % 32);
  }
  std::string mask;
  for (size_t word = words.size(); word-- > 0;) mask += fmt::format("{:08x}{}", words[word], word > 0 ? "," : "");
  return mask;
}

}  // namespace lane::inventory
