// What all checks share. A check looks at one inventory and says what it found; it reads nothing else.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lane/doctor/checks/costs.h"
#include "lane/doctor/doctor.h"

namespace lane::doctor {

using inventory::Fact;
using topology::Gpu;
using topology::Nic;

struct Case {
  const inventory::Inventory& inventory;
  const topology::Host& host;
  const Costs& costs;

  const Fact* fact(const std::string& key) const { return inventory.find(key); }
  // The value, or empty if the fact is missing or unknown.
  std::string value(const std::string& key) const;
  std::optional<double> number(const std::string& key) const;
  // Facts whose keys start with `prefix`, by what follows it.
  std::vector<std::pair<std::string, Fact>> facts_below(const std::string& prefix) const;
  // The fact as evidence: where it is from and what it says, or why it is not known.
  Evidence evidence(const std::string& key) const;
  // A machine that belongs to a hypervisor, which may hide PCIe and NUMA and runs Fabric Manager and the IOMMU outside.
  bool is_virtual() const;
  bool is_container() const;
  int nccl_version() const;  // 22809 for 2.28.9; 0: not known
};

// `run` returns nothing where the check does not apply: a laptop has no NVLink to miss. `id` is given to what it
// returns.
struct Check {
  std::string_view id;
  std::vector<Finding> (*run)(const Case&);
};

// The table, by theme; lane/doctor/checks/<theme>.cc.
std::span<const Check> gpu_checks();
std::span<const Check> nvlink_checks();
std::span<const Check> pcie_checks();
std::span<const Check> nic_checks();
std::span<const Check> host_checks();

// A NIC whose state and speed matter to a job: of a fabric, no virtual function, bond, storage or management port.
bool is_compute(const Nic& nic);
// "mlx5_2" before "mlx5_10".
bool natural_less(std::string_view a, std::string_view b);
// Indices into host.nics of the compute NICs that are nearest to a GPU, in natural order, and how near they are.
std::vector<int> nearest_nics(const topology::Host& host, int gpu, topology::Path& path);

Finding fine(std::string what, std::vector<Evidence> evidence = {});
Finding note(std::string what, std::vector<Evidence> evidence, std::string fix = {}, std::string undo = {});
Finding warning(std::string what, std::vector<Evidence> evidence, Price price, std::string fix, std::string undo);
Finding fatal(std::string what, std::vector<Evidence> evidence, std::string fix, std::string undo);
Finding unknown(std::string what, std::vector<Evidence> evidence, std::string needs);

std::string name_of_gpu(const Gpu& gpu);  // "GPU 3 (0000:4e:00.0)"
std::string link_words(const topology::PcieLink& link);

}  // namespace lane::doctor
