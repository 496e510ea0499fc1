#include <algorithm>

#include "lane/inventory/ib.h"

namespace lane::inventory {
namespace {

using topology::Host;
using topology::Nic;
using topology::NicKind;
using topology::NicRole;
using topology::Path;

bool has_rdma(const Nic& nic) {
  return nic.kind == NicKind::kInfiniband || nic.kind == NicKind::kRoce || nic.kind == NicKind::kEfa ||
         nic.kind == NicKind::kSlingshot;
}

Path nearest_gpu(const Host& host, size_t nic) {
  Path nearest = Path::kUnknown;
  for (const auto& row : host.gpu_to_nic)
    if (nic < row.size()) nearest = std::min(nearest, row[nic]);
  return nearest;
}

double gbit_per_s(const Nic& nic) {
  double fastest = 0;
  for (const auto& port : nic.ports) fastest = std::max(fastest, port.gbit_per_s);
  return fastest;
}

bool is_with_a_gpu(const Host& host, const Nic& nic) {
  return std::any_of(host.gpus.begin(), host.gpus.end(),
                     [&](const auto& gpu) { return gpu.numa_node >= 0 && gpu.numa_node == nic.numa_node; });
}

}  // namespace

void set_roles(Host& host, const std::set<std::string>& default_route) {
  const auto is_near = [&](size_t i) {
    const Nic& nic = host.nics[i];
    return has_rdma(nic) && !nic.is_virtual_function && nearest_gpu(host, i) <= Path::kPxb;
  };
  bool any_near = false;
  double fastest = 0;
  for (size_t i = 0; i < host.nics.size(); ++i) {
    any_near = any_near || is_near(i);
    if (has_rdma(host.nics[i]) && !host.nics[i].is_virtual_function)
      fastest = std::max(fastest, gbit_per_s(host.nics[i]));
  }
  for (size_t i = 0; i < host.nics.size(); ++i) {
    Nic& nic = host.nics[i];
    if (nic.role != NicRole::kUnknown || nic.is_virtual_function) continue;
    const bool computes =
        any_near ? is_near(i) : has_rdma(nic) && gbit_per_s(nic) >= fastest && is_with_a_gpu(host, nic);
    if (computes)
      nic.role = NicRole::kCompute;
    else if (default_route.count(nic.pci_id) && !nic.pci_id.empty())
      nic.role = NicRole::kManagement;
    else if (has_rdma(nic) && !host.gpus.empty() && nearest_gpu(host, i) != Path::kUnknown)
      nic.role = NicRole::kStorage;
  }
}

}  // namespace lane::inventory
