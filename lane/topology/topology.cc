#include "lane/topology/topology.h"

#include <array>

namespace lane::topology {
namespace {

constexpr std::array<std::string_view, 8> kPaths = {"X", "NV", "PIX", "PXB", "PHB", "NODE", "SYS", "?"};
constexpr std::array<std::string_view, 6> kKinds = {"unknown", "infiniband", "roce", "efa", "slingshot", "ethernet"};
constexpr std::array<std::string_view, 4> kRoles = {"unknown", "compute", "storage", "management"};

template <class Enum, size_t kSize>
std::optional<Enum> find(const std::array<std::string_view, kSize>& names, std::string_view name) {
  for (size_t i = 0; i < kSize; ++i)
    if (names[i] == name) return static_cast<Enum>(i);
  return std::nullopt;
}

}  // namespace

std::string_view name_of(Path path) { return kPaths[static_cast<size_t>(path)]; }
std::string_view name_of(NicKind kind) { return kKinds[static_cast<size_t>(kind)]; }
std::string_view name_of(NicRole role) { return kRoles[static_cast<size_t>(role)]; }

std::optional<Path> path_of(std::string_view name) { return find<Path>(kPaths, name); }
std::optional<NicKind> nic_kind_of(std::string_view name) { return find<NicKind>(kKinds, name); }
std::optional<NicRole> nic_role_of(std::string_view name) { return find<NicRole>(kRoles, name); }

}  // namespace lane::topology
