#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/doctor/checks/check.h"

// NVLink, its switches and their services.
namespace lane::doctor {
namespace {

// Links of the kinds that are always wired up, from their data sheets; H800 and A800 are cut to 8.
struct Kind {
  const char* name;
  int num_links;
};
constexpr Kind kKinds[] = {{"GB300", 18}, {"GB200", 18}, {"B300", 18}, {"B200", 18}, {"H200", 18}, {"H100", 18},
                           {"GH200", 18}, {"H800", 8},   {"H20", 18},  {"A800", 8},  {"A100", 12}, {"V100", 6}};

// Other cards have bridges between pairs, or none: how many links they should have is not theirs to say. -1: unknown.
int expected_links(const Gpu& gpu) {
  const bool is_card = gpu.name.find("PCIe") != std::string::npos || gpu.name.find(" NVL") != std::string::npos ||
                       gpu.name.find("PCIE") != std::string::npos;
  if (is_card) return -1;
  if (gpu.name.find("GH200") != std::string::npos) return -1;  // its NVLink may go to the CPU alone
  for (const Kind& kind : kKinds)
    if (gpu.name.find(kind.name) != std::string::npos) return kind.num_links;
  return -1;
}

bool has_switches(const Case& c) {
  return std::any_of(c.host.gpus.begin(), c.host.gpus.end(), [](const Gpu& gpu) { return gpu.has_nvswitch; });
}

bool is_zero(const std::string& uuid) {
  return uuid.empty() || uuid == "none" || uuid.find_first_not_of("0-") == std::string::npos;
}

// "completed" on all GPUs, "" if some do not tell, else the state of one that has not.
std::string fabric_state(const Case& c) {
  bool told = !c.host.gpus.empty();
  for (const Gpu& gpu : c.host.gpus) {
    const std::string state = c.value(fmt::format("gpu.{}.fabric_state", gpu.index));
    if (state.empty()) told = false;
    if (!state.empty() && state != "completed" && state != "not supported" && state != "N/A") return state;
    if (state == "not supported" || state == "N/A") told = false;
  }
  return told ? "completed" : "";
}

std::vector<Evidence> fabric_evidence(const Case& c) {
  std::vector<Evidence> evidence;
  for (const Gpu& gpu : c.host.gpus) {
    const std::string key = fmt::format("gpu.{}.fabric_state", gpu.index);
    if (c.fact(key) == nullptr) continue;
    Evidence seen = c.evidence(key);
    seen.value = fmt::format("GPU {}: {}", gpu.index, seen.value);
    evidence.push_back(seen);
  }
  return evidence;
}

std::vector<Finding> links(const Case& c) {
  if (c.host.gpus.size() < 2) return {};  // one GPU has nobody to talk to: its links may rest
  int most = -1;
  for (const Gpu& gpu : c.host.gpus) most = std::max(most, gpu.num_nvlinks);
  std::vector<Finding> found;
  std::vector<Evidence> untold;
  for (const Gpu& gpu : c.host.gpus) {
    if (gpu.num_nvlinks < 0) {
      if (most > 0 || expected_links(gpu) > 0) untold.push_back({name_of_gpu(gpu), "number of NVLinks not told"});
      continue;
    }
    const int wanted = std::max(most, expected_links(gpu));
    if (wanted <= 0 || gpu.num_nvlinks >= wanted) continue;
    std::vector<std::string> inactive;
    const std::string prefix = fmt::format("gpu.{}.nvlink.", gpu.index);
    for (const auto& [link, fact] : c.facts_below(prefix))
      if (fact.known() && fact.value == "inactive") inactive.push_back(link);
    std::vector<Evidence> evidence{{name_of_gpu(gpu), fmt::format("{} of {} links active", gpu.num_nvlinks, wanted)}};
    if (!inactive.empty()) evidence.push_back({prefix + "*", fmt::format("inactive: {}", fmt::join(inactive, ", "))});
    const double share = static_cast<double>(gpu.num_nvlinks) / wanted;
    found.push_back(warning(
        fmt::format("{} has {} of {} NVLinks{}", name_of_gpu(gpu), gpu.num_nvlinks, wanted,
                    wanted == most ? ", as its siblings have" : fmt::format(" that a {} has", gpu.name)),
        evidence, c.costs.local_at(share),
        fmt::format(
            "nvidia-smi nvlink -s -i {0}; nvidia-smi nvlink -e -i {0}; dmesg | grep -iE 'nvlink|xid'; with all "
            "links down: sudo systemctl restart nvidia-fabricmanager; else reset the GPU, then have it replaced",
            gpu.index),
        "nothing was changed"));
  }
  if (!untold.empty())
    found.push_back(
        unknown(fmt::format("the NVLinks of {} GPUs are not told", untold.size()), {untold.front()},
                "the NVIDIA driver's NVML, or --text nvlink_s=FILE with the output of nvidia-smi nvlink -s"));
  if (found.empty() && most > 0) found.push_back(fine(fmt::format("each GPU has its {} NVLinks", most)));
  return found;
}

std::vector<Finding> pcie_only(const Case& c) {
  if (c.host.gpus.size() < 2) return {};
  for (const Gpu& gpu : c.host.gpus)
    if (gpu.num_nvlinks != 0 && !(gpu.num_nvlinks < 0 && gpu.max_nvlinks == 0)) return {};
  for (const Gpu& gpu : c.host.gpus)
    if (expected_links(gpu) > 0) return {};  // that is a fault: nvlink-missing
  const Price price = c.costs.pcie_instead_of_nvlink();
  Finding made = note(
      "the GPUs reach each other over PCIe alone: all-reduces of 16 KiB and more take many times as long as with "
      "NVLink",
      {{"GPUs", fmt::format("{} x {}, no NVLink", c.host.gpus.size(), c.host.gpus.front().name)}},
      "prefer pipeline parallelism or replicas to tensor parallelism on this host: lane plan compares them; whether "
      "peer-to-peer works: nvidia-smi topo -p2p r");
  made.cost_us = price.us;
  made.cost_why = price.why;
  return {made};
}

std::vector<Finding> fabric_manager(const Case& c) {
  if (!has_switches(c)) return {};
  const std::string state = c.value("nvidia.fabric_manager");
  std::vector<Evidence> evidence{c.evidence("nvidia.fabric_manager")};
  if (state == "running" || state == "not needed")
    return {fine(state == "running" ? "Fabric Manager runs" : "this machine needs no Fabric Manager", evidence)};
  const std::vector<Evidence> fabric = fabric_evidence(c);
  evidence.insert(evidence.end(), fabric.begin(), fabric.end());
  if (fabric_state(c) == "completed")
    return {fine("the GPUs have joined their NVSwitch fabric; its manager runs outside of what can be seen here",
                 evidence)};
  const std::string fix =
      "sudo systemctl enable --now nvidia-fabricmanager (the package must have the driver's very version)";
  if (state.empty() || c.is_virtual() || c.is_container())
    return {unknown("whether Fabric Manager runs is not told, nor whether the GPUs have joined their fabric", evidence,
                    "nvidia-smi -q | grep -A2 Fabric must say Completed and Success; else on the host: " + fix)};
  return {fatal(fmt::format("NVSwitch without Fabric Manager ({}): CUDA does not start (error 802)", state), evidence,
                fix, "sudo systemctl disable --now nvidia-fabricmanager")};
}

std::vector<Finding> fabric(const Case& c) {
  if (!has_switches(c)) return {};
  const std::string state = fabric_state(c);
  std::vector<Evidence> evidence = fabric_evidence(c);
  if (state == "completed") return {fine("all GPUs have joined their NVSwitch fabric", evidence)};
  const bool reported = !evidence.empty();
  if (state.empty()) {
    // Before Hopper GPUs do not register with the fabric and have no state to tell.
    if (!reported &&
        std::all_of(c.host.gpus.begin(), c.host.gpus.end(), [](const Gpu& gpu) { return gpu.sm > 0 && gpu.sm < 90; }))
      return {};
    return {unknown("whether the GPUs have joined their NVSwitch fabric is not told", evidence,
                    "NVML, or --text smi_q=FILE with the output of nvidia-smi -q")};
  }
  return {fatal(fmt::format("a GPU has not joined its NVSwitch fabric (\"{}\"): CUDA does not start on it", state),
                evidence,
                "journalctl -u nvidia-fabricmanager; sudo systemctl restart nvidia-fabricmanager; then reset "
                "the GPUs: nvidia-smi -r",
                "nothing was changed")};
}

std::vector<Finding> imex(const Case& c) {
  // All-zero cluster UUIDs are normal: such GPUs share NVLink with their own host alone.
  bool is_rack = false;
  std::vector<Evidence> evidence;
  for (const Gpu& gpu : c.host.gpus) {
    const std::string key = fmt::format("gpu.{}.fabric_cluster", gpu.index), cluster = c.value(key);
    if (is_zero(cluster) && gpu.nvlink_domain.empty()) continue;
    is_rack = true;
    if (evidence.empty()) evidence.push_back({key, "an NVLink domain of several hosts"});
  }
  if (!is_rack) return {};
  const std::string state = c.value("nvidia.imex");
  evidence.push_back(c.evidence("nvidia.imex"));
  if (state == "running" || state == "not needed") return {fine("the IMEX service runs", evidence)};
  const std::string fix =
      "list the domain's hosts in /etc/nvidia-imex/nodes_config.cfg; sudo systemctl enable --now "
      "nvidia-imex; check with nvidia-imex-ctl -N";
  if (state.empty()) return {unknown("whether the IMEX service runs is not told", evidence, fix)};
  return {
      warning(fmt::format("the IMEX service is {}: memory cannot be shared over NVLink between hosts, so NCCL takes "
                          "the network",
                          state),
              evidence, c.costs.unknown("NVLink between hosts is not in the cost model of this check"), fix,
              "sudo systemctl disable --now nvidia-imex")};
}

// NCCL 2.29 and later fail when multicast memory cannot be had; 2.27 and 2.28 fell back, and hung if only some ranks
// did (NCCL's env.rst). Whether it can be had shows only when a CUDA program asks.
std::vector<Finding> multicast(const Case& c) {
  constexpr int kFellBack = 22700, kFails = 22900;
  if (!has_switches(c) || c.host.gpus.size() < 2) return {};
  if (std::none_of(c.host.gpus.begin(), c.host.gpus.end(), [](const Gpu& gpu) { return gpu.sm >= 90; })) return {};
  const int version = c.nccl_version();
  const std::string manager = c.value("nvidia.fabric_manager");
  const std::vector<Evidence> evidence{c.evidence("lib.nccl"), c.evidence("nvidia.fabric_manager")};
  const std::string fix = "if ncclCommInit fails with CUDA error 401 in cuMulticastBindMem: export NCCL_NVLS_ENABLE=0";
  const std::string undo = "unset NCCL_NVLS_ENABLE";
  if (version != 0 && version < kFellBack) return {fine("this NCCL comes up without multicast too", evidence)};
  if (version >= kFails && manager != "running" && manager != "not needed")
    return {
        note("whether NVLink multicast can be bound was not tried; Fabric Manager is out of sight, and NCCL from "
             "2.29 on does not start without multicast",
             evidence, fix, undo)};
  if (version >= kFails)
    return {note("whether NVLink multicast can be bound was not tried; NCCL from 2.29 on does not start if it cannot",
                 evidence, fix, undo)};
  if (version != 0)
    return {
        note("NCCL 2.27 and 2.28 go on without NVLink multicast if it cannot be had, and hang if only some ranks "
             "cannot",
             evidence, fix, undo)};
  return {
      note("whether NVLink multicast can be bound was not tried, and NCCL's version is not known; from 2.29 on it "
           "does not start if it cannot",
           evidence, fix, undo)};
}

}  // namespace

std::span<const Check> nvlink_checks() {
  static constexpr Check kChecks[] = {
      {"nvlink-missing", links},   {"no-nvlink", pcie_only}, {"fabric-manager", fabric_manager},
      {"nvswitch-fabric", fabric}, {"imex", imex},           {"nvls-multicast", multicast}};
  return kChecks;
}

}  // namespace lane::doctor
