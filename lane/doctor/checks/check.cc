#include "lane/doctor/checks/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>

namespace lane::doctor {
namespace {

Finding finding(Verdict verdict, std::string what, std::vector<Evidence> evidence, std::string fix, std::string undo) {
  Finding made;
  made.verdict = verdict;
  made.what = std::move(what);
  made.evidence = std::move(evidence);
  made.fix = std::move(fix);
  made.undo = std::move(undo);
  return made;
}

}  // namespace

std::string Case::value(const std::string& key) const {
  const Fact* found = fact(key);
  return found != nullptr && found->known() ? found->value : std::string();
}

std::optional<double> Case::number(const std::string& key) const {
  const std::string text = value(key);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (text.empty() || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

std::vector<std::pair<std::string, Fact>> Case::facts_below(const std::string& prefix) const {
  std::vector<std::pair<std::string, Fact>> found;
  const auto& facts = inventory.facts;
  for (auto it = facts.lower_bound(prefix); it != facts.end() && it->first.starts_with(prefix); ++it)
    found.emplace_back(it->first.substr(prefix.size()), it->second);
  return found;
}

Evidence Case::evidence(const std::string& key) const {
  const Fact* found = fact(key);
  if (found == nullptr) return {key, "was not looked for"};
  const std::string source = found->source.empty() ? key : found->source;
  return {source, found->known() ? found->value : found->why_unknown};
}

bool Case::is_virtual() const {
  const std::string kind = value("os.virtualization");
  const std::string below = value("os.hypervisor");  // of a container's host
  return (!kind.empty() && kind != "none" && !is_container()) || (!below.empty() && below != "none");
}

bool Case::is_container() const {
  const std::string kind = value("os.virtualization");
  return kind == "container" || kind == "docker" || kind == "podman" || kind == "lxc" || kind == "kubernetes" ||
         kind == "gvisor";
}

int Case::nccl_version() const { return nccl_version_of(value("lib.nccl")); }

bool is_compute(const Nic& nic) {
  using enum topology::NicKind;
  const bool fabric = nic.kind == kInfiniband || nic.kind == kRoce || nic.kind == kEfa || nic.kind == kSlingshot;
  const bool role = nic.role == topology::NicRole::kCompute || nic.role == topology::NicRole::kUnknown;
  return fabric && role && !nic.is_virtual_function && nic.name.find("bond") == std::string::npos;
}

bool natural_less(std::string_view a, std::string_view b) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (is_digit(a[i]) && is_digit(b[j])) {
      size_t a_end = i, b_end = j;
      while (a_end < a.size() && is_digit(a[a_end])) ++a_end;
      while (b_end < b.size() && is_digit(b[b_end])) ++b_end;
      while (i < a_end - 1 && a[i] == '0') ++i;
      while (j < b_end - 1 && b[j] == '0') ++j;
      if (a_end - i != b_end - j) return a_end - i < b_end - j;
      const int order = a.substr(i, a_end - i).compare(b.substr(j, b_end - j));
      if (order != 0) return order < 0;
      i = a_end, j = b_end;
    } else {
      if (a[i] != b[j]) return a[i] < b[j];
      ++i, ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

std::vector<int> nearest_nics(const topology::Host& host, int gpu, topology::Path& path) {
  std::vector<int> nearest;
  path = topology::Path::kUnknown;
  if (gpu >= static_cast<int>(host.gpu_to_nic.size())) return nearest;
  const std::vector<topology::Path>& row = host.gpu_to_nic[gpu];
  for (int nic = 0; nic < static_cast<int>(std::min(row.size(), host.nics.size())); ++nic) {
    if (!is_compute(host.nics[nic]) || row[nic] == topology::Path::kUnknown || row[nic] > path) continue;
    if (row[nic] < path) nearest.clear();
    path = row[nic];
    nearest.push_back(nic);
  }
  std::sort(nearest.begin(), nearest.end(),
            [&](int a, int b) { return natural_less(host.nics[a].name, host.nics[b].name); });
  return nearest;
}

Finding fine(std::string what, std::vector<Evidence> evidence) {
  return finding(Verdict::kOk, std::move(what), std::move(evidence), {}, {});
}

Finding note(std::string what, std::vector<Evidence> evidence, std::string fix, std::string undo) {
  return finding(Verdict::kNote, std::move(what), std::move(evidence), std::move(fix), std::move(undo));
}

Finding warning(std::string what, std::vector<Evidence> evidence, Price price, std::string fix, std::string undo) {
  Finding made = finding(Verdict::kWarning, std::move(what), std::move(evidence), std::move(fix), std::move(undo));
  made.cost_us = price.us;
  made.cost_why = std::move(price.why);
  return made;
}

Finding fatal(std::string what, std::vector<Evidence> evidence, std::string fix, std::string undo) {
  Finding made = finding(Verdict::kFatal, std::move(what), std::move(evidence), std::move(fix), std::move(undo));
  made.cost_why = "jobs that need it do not run, or not to their end";
  return made;
}

Finding unknown(std::string what, std::vector<Evidence> evidence, std::string needs) {
  return finding(Verdict::kUnknown, std::move(what), std::move(evidence), std::move(needs), {});
}

std::string name_of_gpu(const Gpu& gpu) {
  return gpu.pci_id.empty() ? fmt::format("GPU {}", gpu.index) : fmt::format("GPU {} ({})", gpu.index, gpu.pci_id);
}

std::string link_words(const topology::PcieLink& link) {
  if (link.gt_per_s <= 0 || link.width <= 0) return "not told";
  return fmt::format("{:.1f} GT/s x{} of {:.1f} GT/s x{}", link.gt_per_s, link.width, link.max_gt_per_s,
                     link.max_width);
}

}  // namespace lane::doctor
