#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/doctor/checks/check.h"

// The way between GPUs, NICs and memory that is PCIe.
namespace lane::doctor {
namespace {

using topology::PcieLink;

constexpr double kGen1 = 2.5;  // GT/s: where idle GPUs rest to save power

bool is_told(const PcieLink& link) {
  return link.gt_per_s > 0 && link.width > 0 && link.max_gt_per_s > 0 && link.max_width > 0;
}

std::vector<Finding> downgraded(const Case& c) {
  std::vector<Finding> found;
  std::vector<Evidence> idle, untold;
  int num_links = 0;
  const auto look = [&](const PcieLink& link, const std::string& name, const std::string& pci_id, bool is_gpu,
                        bool is_busy) {
    ++num_links;
    const Evidence seen{fmt::format("/sys/bus/pci/devices/{}/current_link_speed, _width", pci_id), link_words(link)};
    if (!is_told(link)) return untold.push_back(seen);
    const bool narrow = link.width < link.max_width, slow = link.gt_per_s < link.max_gt_per_s;
    if (!narrow && slow && is_gpu && !is_busy && link.gt_per_s <= kGen1) return idle.push_back(seen);
    if (!narrow && !slow) return;
    const double share = (link.gt_per_s * link.width) / (link.max_gt_per_s * link.max_width);
    const bool pcie_only = is_gpu && std::all_of(c.host.gpus.begin(), c.host.gpus.end(),
                                                 [](const Gpu& gpu) { return gpu.num_nvlinks <= 0; });
    const std::string reseat = fmt::format(
        "drain the host, reseat the card and its riser, clean the contacts, update firmware; then compare: "
        "lspci -vvs {} | grep -E 'LnkCap:|LnkSta:'",
        pci_id);
    found.push_back(warning(fmt::format("{} runs at {}", name, link_words(link)), {seen},
                            pcie_only ? c.costs.local_at(share) : c.costs.network_at(share), reseat,
                            "nothing was changed"));
  };
  for (const Gpu& gpu : c.host.gpus) look(gpu.pcie, name_of_gpu(gpu), gpu.pci_id, true, gpu.is_busy);
  for (const Nic& nic : c.host.nics)
    if (is_compute(nic)) look(nic.pcie, nic.name, nic.pci_id, false, false);
  if (!idle.empty())
    found.push_back(note(fmt::format("{} idle GPU{} at PCIe Gen1 to save power, which is normal", idle.size(),
                                     idle.size() == 1 ? " rests" : "s rest"),
                         idle, "run a copy, then look again: nvidia-smi -q -d PERFORMANCE,CLOCK; lane doctor"));
  if (!untold.empty())
    found.push_back(unknown(fmt::format("the PCIe link of {} of {} devices is not told", untold.size(), num_links),
                            untold,
                            c.is_virtual() ? "the hypervisor hides it: run lane doctor on the host"
                                           : "the NVIDIA driver (nvidia-smi -q | grep -A6 'Link Width'), or root for "
                                             "lspci -vv"));
  if (found.empty() && num_links > 0)
    found.push_back(fine(fmt::format("all {} PCIe links run at full speed and width", num_links)));
  return found;
}

std::vector<Finding> max_read_request(const Case& c) {
  // The specification's default is 512; a NIC that asks for less at a time needs more requests for the same data.
  constexpr double kDefault = 512;
  std::vector<Evidence> small, all;
  for (const auto& [device, fact] : c.facts_below("pci.max_read_request.")) {
    const auto bytes = c.number("pci.max_read_request." + device);
    if (!bytes) continue;
    const auto nic = std::find_if(c.host.nics.begin(), c.host.nics.end(),
                                  [&, id = device](const Nic& one) { return one.pci_id == id && is_compute(one); });
    if (nic == c.host.nics.end()) continue;
    all.push_back({fact.source, fmt::format("{}: {}", nic->name, fact.value)});
    if (*bytes < kDefault) small.push_back(all.back());
  }
  if (all.empty()) return {};
  if (small.empty()) return {fine("the NICs read in requests of 512 bytes or more", all)};
  return {note(
      fmt::format("{} NIC{} in requests of less than 512 bytes", small.size(), small.size() == 1 ? " reads" : "s read"),
      small, "set PCI_MAX_READ_REQ or MaxReadReq in the BIOS; at run time: setpci -s <nic> CAP_EXP+8.w",
      "the value of before; a reboot restores it")};
}

std::vector<Finding> access_control(const Case& c) {
  if (c.host.gpus.empty()) return {};
  std::vector<Evidence> on, untold;
  std::vector<std::string> bridges;
  const auto facts = c.facts_below("acs.");
  for (const auto& [bridge, fact] : facts) {
    if (!fact.known()) untold.push_back(c.evidence("acs." + bridge));
    if (!fact.known() || fact.value != "on") continue;
    on.push_back(c.evidence("acs." + bridge));
    bridges.push_back(bridge);
  }
  if (c.is_virtual() && on.empty()) return {};
  if (c.is_virtual())  // what a guest sees of it is the hypervisor's, which needs ACS
    return {note("virtual machine: the host needs ACS; ATS in the NICs makes up for it", on)};
  if (!on.empty()) {
    std::string fix;
    for (const std::string& bridge : bridges)
      fix += (fix.empty() ? "" : "; ") + fmt::format("sudo setpci -s {} ECAP_ACS+0x6.w=0000", bridge);
    return {warning(fmt::format("PCIe access control (ACS) is on in {} bridge{}: traffic between GPUs and NICs goes up "
                                "to the CPU and back",
                                on.size(), on.size() == 1 ? "" : "s"),
                    on, c.costs.unknown("it depends on the CPU; measure with ib_write_bw --use_cuda before and after"),
                    fix + "; after every boot, or turn off IO virtualization (VT-d, AMD-Vi) in the BIOS. Not on hosts "
                          "of virtual machines: they need ACS",
                    "a reboot restores it")};
  }
  if (!untold.empty() || facts.empty())
    return {unknown(facts.empty() ? "whether ACS is on in PCIe bridges was not looked at"
                                  : fmt::format("whether ACS is on is not told for {} PCIe bridges", untold.size()),
                    untold.size() > 4 ? std::vector<Evidence>(untold.begin(), untold.begin() + 4) : untold,
                    "root: sudo lane doctor, or sudo lspci -vvv | grep ACSCtl (SrcValid+ means on)")};
  return {fine(fmt::format("ACS is off in all {} PCIe bridges", facts.size()))};
}

std::vector<Finding> iommu(const Case& c) {
  if (c.host.gpus.empty() || c.is_virtual()) return {};
  const std::string mode = c.value("iommu.mode");
  const Evidence seen = c.evidence("iommu.mode");
  if (mode.empty())
    return {unknown("whether the IOMMU translates is not told", {seen},
                    "cat /sys/kernel/iommu_groups/*/type, or dmesg | grep -i iommu as root")};
  if (mode != "translated") return {fine("the IOMMU does not translate: " + mode, {seen})};
  return {
      warning("the IOMMU translates addresses of devices: direct transfers between GPUs and NICs may be slow or hang",
              {seen}, c.costs.unknown("it depends on the CPU's IOMMU and on how many pages are in use"),
              "add iommu=pt to the kernel's command line and reboot (on Intel with intel_iommu=on)",
              "remove iommu=pt and reboot")};
}

std::vector<Finding> translation_service(const Case& c) {
  if (!c.is_virtual()) return {};
  std::vector<Evidence> off, untold;
  int num_nics = 0;
  for (const Nic& nic : c.host.nics) {
    // In a guest the functions passed through may be virtual ones.
    if (nic.kind != topology::NicKind::kInfiniband && nic.kind != topology::NicKind::kRoce) continue;
    ++num_nics;
    const std::string key = "pci.ats." + nic.pci_id, state = c.value(key);
    Evidence seen = c.evidence(key);
    seen.value = nic.name + ": " + seen.value;
    if (state.empty()) untold.push_back(seen);
    if (state == "off") off.push_back(seen);
  }
  if (num_nics == 0) return {};
  if (!off.empty())
    return {warning(fmt::format("address translation services (ATS) are off in {} NIC{} of this virtual machine",
                                off.size(), off.size() == 1 ? "" : "s"),
                    off, c.costs.unknown("GPUDirect goes through the host's IOMMU, whose cost is not published"),
                    "on the host: mlxconfig -d <nic> set ATS_ENABLED=true, then a cold reboot",
                    "mlxconfig -d <nic> set ATS_ENABLED=false, then a cold reboot")};
  if (!untold.empty())
    return {unknown("whether ATS is on in the NICs of this virtual machine is not told", untold,
                    "root: sudo lspci -vvv | grep ATSCtl (Enable+)")};
  return {fine("ATS is on in the NICs")};
}

}  // namespace

std::span<const Check> pcie_checks() {
  static constexpr Check kChecks[] = {{"pcie-downgraded", downgraded},
                                      {"pcie-max-read-request", max_read_request},
                                      {"acs-on", access_control},
                                      {"iommu-translates", iommu},
                                      {"ats-off", translation_service}};
  return kChecks;
}

}  // namespace lane::doctor
