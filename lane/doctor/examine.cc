#include <algorithm>

#include "lane/doctor/checks/check.h"
#include "lane/doctor/lint/rules.h"

namespace lane::doctor {
namespace {

constexpr std::span<const Check> (*kThemes[])() = {gpu_checks, nvlink_checks, nic_checks, pcie_checks, host_checks};

}  // namespace

std::vector<Finding> examine(const inventory::Inventory& inventory, const Workload& workload) {
  const topology::Host nothing;
  const topology::Host& host = inventory.topology.hosts.empty() ? nothing : inventory.topology.hosts.front();
  const Costs costs(inventory.topology, workload);
  const Case looked_at{inventory, host, costs};
  std::vector<Finding> findings;
  for (const auto& theme : kThemes)
    for (const Check& check : theme())
      for (Finding& finding : check.run(looked_at)) {
        finding.id = check.id;
        findings.push_back(std::move(finding));
      }
  put_worst_first(findings);
  return findings;
}

void put_worst_first(std::vector<Finding>& findings) {
  const auto rank = [](const Finding& finding) {
    switch (finding.verdict) {
      case Verdict::kFatal:
        return 0;
      case Verdict::kWarning:
        return 1;
      case Verdict::kUnknown:
        return 2;
      case Verdict::kNote:
        return 3;
      case Verdict::kOk:
        return 4;
    }
    return 5;
  };
  std::stable_sort(findings.begin(), findings.end(), [&](const Finding& a, const Finding& b) {
    return rank(a) != rank(b) ? rank(a) < rank(b) : a.cost_us > b.cost_us;
  });
}

std::vector<std::string> finding_ids() {
  std::vector<std::string> ids;
  for (const auto& theme : kThemes)
    for (const Check& check : theme()) ids.emplace_back(check.id);
  for (const Rule& rule : rules()) ids.emplace_back(rule.id);
  return ids;
}

}  // namespace lane::doctor
