// `nvidia-smi -q`: lines "key : value", nested by their indentation, a part for each GPU.
#include <fmt/format.h>

#include <set>

#include "lane/base/error.h"
#include "lane/inventory/matching.h"
#include "lane/inventory/text.h"

namespace lane::inventory {
namespace {

constexpr size_t kMaxGpus = 1024;
constexpr size_t kMaxDepth = 16;

struct Section {
  std::string pci_id;
  std::map<std::string, std::string> values;  // "pci/gpu link info/link width/max": "16x"; drivers differ in case
};

struct Report {
  std::map<std::string, std::string> values;  // above the first GPU: "Driver Version"
  std::vector<Section> gpus;
};

// Words for "not here". UUIDs and serial numbers are never kept.
bool is_unknown(std::string_view value) {
  const std::string word = lower_case(value);
  return word.empty() || word == "n/a" || word == "[n/a]" || word == "err!" ||
         word.find("not supported") != word.npos || word.find("unknown error") != word.npos ||
         word.find("requires reset") != word.npos || word == "removed";
}

// Values end in a colon that has a space before it; a section's name has none.
KeyValue split(std::string_view line) {
  const size_t colon = line.find(" :");
  if (colon == line.npos || (colon + 2 < line.size() && line[colon + 2] != ' '))
    return {without_blanks(line), {}, false};
  return {without_blanks(line.substr(0, colon)), without_blanks(line.substr(colon + 2)), true};
}

std::string pci_id_of_heading(std::string_view line) {
  return line.starts_with("GPU ") ? normal_pci_id(without_blanks(line.substr(4))) : std::string();
}

Report read_report(std::string_view text, const std::string& where) {
  Report report;
  std::set<std::string> seen;
  struct Level {
    size_t indent;
    std::string path;
  };
  std::vector<Level> levels;
  for (const Line& line : lines_of(text)) {
    const size_t indent = line.text.find_first_not_of(" \t");
    if (indent == line.text.npos) continue;
    if (const std::string pci_id = pci_id_of_heading(line.text); !pci_id.empty()) {
      if (!seen.insert(pci_id).second) corrupt(where, line.number, "GPU " + pci_id + " is there twice");
      if (seen.size() > kMaxGpus) corrupt(where, line.number, fmt::format("more than {} GPUs", kMaxGpus));
      report.gpus.push_back({pci_id});
      levels.clear();
      continue;
    }
    while (!levels.empty() && levels.back().indent >= indent) levels.pop_back();
    const auto [key, value, has_value] = split(line.text);
    const std::string path = (levels.empty() ? "" : levels.back().path + "/") + std::string(key);
    auto& values = report.gpus.empty() ? report.values : report.gpus.back().values;
    if (has_value && !is_unknown(value)) values.emplace(lower_case(path), value);
    if (levels.size() < kMaxDepth) levels.push_back({indent, path});  // "Platform : removed" has lines below it
  }
  return report;
}

std::string value_of(const std::map<std::string, std::string>& values, const std::string& path) {
  const auto found = values.find(lower_case(path));
  return found == values.end() ? std::string() : found->second;
}

// The number that a value begins with: "143771 MiB", "16x", "5".
std::optional<int64_t> leading_int(const std::string& value) {
  return int_of(std::string_view(value).substr(0, value.find_first_not_of("0123456789")));
}

// The signalling rate of a PCI Express generation.
double gt_per_s_of(const std::optional<int64_t>& generation) {
  constexpr double kRates[] = {0, 2.5, 5, 8, 16, 32, 64};
  return generation && *generation >= 1 && *generation <= 6 ? kRates[*generation] : 0;
}

int lanes_of(const std::optional<int64_t>& width) {
  return width && *width >= 1 && *width <= 32 ? static_cast<int>(*width) : 0;
}

void fill_pcie(const Section& section, topology::PcieLink& link) {
  const auto number = [&](const char* path) {
    return leading_int(value_of(section.values, std::string("PCI/GPU Link Info/") + path));
  };
  fill(link.gt_per_s, 0.0, gt_per_s_of(number("PCIe Generation/Current")));
  fill(link.max_gt_per_s, 0.0, gt_per_s_of(number("PCIe Generation/Max")));
  fill(link.width, 0, lanes_of(number("Link Width/Current")));
  fill(link.max_width, 0, lanes_of(number("Link Width/Max")));
}

// Since the driver was loaded. Drivers before 2020 or so count double bit errors by memory and give a total.
std::optional<int64_t> uncorrected_errors(const Section& section) {
  std::optional<int64_t> sum;
  if (const auto total = leading_int(value_of(section.values, "ECC Errors/Volatile/Double Bit/Total"))) return total;
  for (const auto& [path, value] : section.values)
    if (path.starts_with("ecc errors/volatile/") && path.find("uncorrectable") != path.npos)
      if (const auto count = leading_int(value); count && *count < int64_t{1} << 48) sum = sum.value_or(0) + *count;
  return sum;
}

void fill_fabric(const Section& section, const std::string& where, topology::Gpu& gpu, Inventory& inventory) {
  const std::string key = fmt::format("gpu.{}.fabric_", gpu.index);
  const std::string state = value_of(section.values, "Fabric/State"),
                    status = value_of(section.values, "Fabric/Status");
  const std::string cluster = lower_case(value_of(section.values, "Fabric/ClusterUUID"));
  const std::string clique = value_of(section.values, "Fabric/CliqueId");
  if (state.empty()) {
    fill_fact(inventory, key + "state",
              {.source = where, .why_unknown = "nvidia-smi -q has no state of the fabric for this GPU"});
    return;
  }
  const bool has_failed = state == "Completed" && !status.empty() && status != "Success";
  const std::string value = has_failed ? "failed: " + status : lower_case(state);
  fill_fact(inventory, key + "state", {.value = value, .source = where});
  if (!clique.empty()) fill_fact(inventory, key + "clique", {.value = clique, .source = where});
  if (cluster.empty()) return;
  const std::string domain = nvlink_domain_name(cluster, clique);
  fill_fact(inventory, key + "cluster", {.value = domain.empty() ? "none" : cluster, .source = where});
  if (value == "completed") fill(gpu.nvlink_domain, {}, domain);  // before that nobody is reached
}

void fill_gpu(const Section& section, const std::string& where, topology::Gpu& gpu, Inventory& inventory) {
  const std::string key = fmt::format("gpu.{}.", gpu.index);
  fill(gpu.name, {}, value_of(section.values, "Product Name"));
  if (const auto mib = leading_int(value_of(section.values, "FB Memory Usage/Total")); mib && *mib < int64_t{1} << 30)
    fill(gpu.memory_bytes, int64_t{0}, *mib << 20);
  fill_pcie(section, gpu.pcie);
  if (const std::string link = describe(gpu.pcie); !link.empty())
    fill_fact(inventory, key + "pcie", {.value = link, .source = where});
  if (const std::string state = value_of(section.values, "Performance State"); !state.empty())
    fill_fact(inventory, key + "performance_state", {.value = state, .source = where});
  if (const std::string mode = value_of(section.values, "ECC Mode/Current"); !mode.empty())
    fill_fact(inventory, key + "ecc", {.value = mode == "Enabled" ? "on" : "off", .source = where});
  if (const auto errors = uncorrected_errors(section))
    fill_fact(inventory, key + "ecc_uncorrected", {.value = std::to_string(*errors), .source = where});
  fill_fabric(section, where, gpu, inventory);
}

// One answer for the host: off as soon as one GPU says so.
void fill_persistence(const Report& report, const std::string& where, Inventory& inventory) {
  std::string answer;
  for (const Section& section : report.gpus) {
    const std::string mode = value_of(section.values, "Persistence Mode");
    if (mode == "Enabled" && answer.empty()) answer = "on";
    if (mode == "Disabled") answer = "off";
  }
  if (!answer.empty()) fill_fact(inventory, "nvidia.persistence", {.value = answer, .source = where});
}

}  // namespace

void read_smi_q(std::string_view text, const std::string& where, Inventory& inventory) {
  const Rollback rollback(inventory);
  if (!note_text(inventory, "smi_q", "nvidia-smi -q", where, text)) return;
  if (without_blanks(text).starts_with("<?xml"))
    throw Error(ErrorCode::kInvalidArgument,
                where + ": this is the XML of `nvidia-smi -q -x`: expected the text of `nvidia-smi -q`");
  const Report report = read_report(text, where);
  const std::string driver = value_of(report.values, "Driver Version");
  if (report.gpus.empty() && driver.empty())
    corrupt(where, 1, "expected the output of `nvidia-smi -q`: neither a driver version nor a GPU");
  if (!driver.empty()) fill_fact(inventory, "nvidia.driver", {.value = driver, .source = where});
  // With `-i` some GPUs are left out; then their order does not tell their numbers.
  const auto num_attached = leading_int(value_of(report.values, "Attached GPUs"));
  const bool is_whole = num_attached && *num_attached == static_cast<int64_t>(report.gpus.size());
  topology::Host& host = host_of(inventory);
  for (size_t at = 0; at < report.gpus.size(); ++at) {
    const int place = gpu_of(host, report.gpus[at].pci_id, is_whole ? static_cast<int>(at) : -1);
    if (place >= 0) fill_gpu(report.gpus[at], where, host.gpus[static_cast<size_t>(place)], inventory);
  }
  fill_persistence(report, where, inventory);
}

}  // namespace lane::inventory
