#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "lane/doctor/checks/check.h"
#include "lane/doctor/lint/rules.h"

// Variables that name network cards, ports and distances, held against those that the host has.
namespace lane::doctor {
namespace {

using topology::NicKind;

bool has_kind(const Lint& lint, NicKind kind) {
  const topology::Host* host = lint.host();
  return host != nullptr && std::any_of(host->nics.begin(), host->nics.end(),
                                        [&](const Nic& nic) { return nic.kind == kind && is_compute(nic); });
}

std::vector<std::string> verbs_nics(const topology::Host& host, bool compute_only) {
  std::vector<std::string> names;
  for (const Nic& nic : host.nics)
    if (nic.kind == NicKind::kInfiniband || nic.kind == NicKind::kRoce || (nic.kind == NicKind::kEfa))
      if (!compute_only || is_compute(nic)) names.push_back(nic.name);
  std::sort(names.begin(), names.end(), natural_less);
  return names;
}

// hca[:port[:rail[:plane]]],...; ^ excludes, = makes names exact, else they are prefixes.
std::vector<Finding> hca_list(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_IB_HCA");
  if (variable == nullptr || variable->value.empty()) return {};
  constexpr size_t kMostHcas = 32;
  std::string_view list = variable->value;
  const bool excludes = list.starts_with('^');
  if (excludes) list.remove_prefix(1);
  const bool exact = list.starts_with('=');
  if (exact) list.remove_prefix(1);
  const auto entries = split(list, ',');
  std::vector<Finding> found;
  if (entries.size() > kMostHcas)
    found.push_back(about(Verdict::kWarning, *variable,
                          fmt::format("NCCL_IB_HCA lists {} cards; NCCL takes 32 at most", entries.size()),
                          "list fewer"));
  const topology::Host* host = lint.host();
  const std::vector<std::string> all = host == nullptr ? std::vector<std::string>() : verbs_nics(*host, false);
  const std::vector<std::string> compute = host == nullptr ? std::vector<std::string>() : verbs_nics(*host, true);
  const std::string fix = compute.empty() ? "name each card exactly: NCCL_IB_HCA==mlx5_0,mlx5_3"
                                          : fmt::format("export NCCL_IB_HCA=={}", fmt::join(compute, ","));
  for (const std::string_view entry : entries) {
    const std::string_view name = entry.substr(0, entry.find(':'));
    if (name.empty()) continue;
    std::vector<std::string> matched, unwanted;
    for (const std::string& nic : all) {
      if (exact ? nic != name : !nic.starts_with(name)) continue;
      matched.push_back(nic);
      if (std::find(compute.begin(), compute.end(), nic) == compute.end()) unwanted.push_back(nic);
    }
    if (all.empty()) {
      if (!exact && !excludes)
        found.push_back(
            about(Verdict::kNote, *variable,
                  fmt::format("{}: \"{}\" is a prefix, which also takes cards whose names go on (mlx5_1 takes "
                              "mlx5_10, mlx5 takes storage and management ports)",
                              words_for(*variable), name),
                  fix));
    } else if (matched.empty()) {
      found.push_back(about(
          Verdict::kWarning, *variable,
          fmt::format("{}: there is no card {}{}", words_for(*variable), exact ? "" : "that starts with ", name), fix));
    } else if (!excludes && !exact && !unwanted.empty()) {
      found.push_back(
          about(Verdict::kWarning, *variable,
                fmt::format("{}: \"{}\" also takes {}, which {} not for compute traffic", words_for(*variable), name,
                            fmt::join(unwanted, ", "), unwanted.size() == 1 ? "is" : "are"),
                fix));
    } else if (!exact && matched.size() > 1 && name.back() >= '0' && name.back() <= '9') {
      found.push_back(about(
          Verdict::kWarning, *variable,
          fmt::format("{}: \"{}\" is a prefix and takes {}", words_for(*variable), name, fmt::join(matched, ", ")),
          fix));
    }
  }
  return found;
}

std::vector<Finding> gid_index(const Lint& lint) {
  const Variable* variable = lint.find("NCCL_IB_GID_INDEX");
  if (variable == nullptr || variable->value == "-1" || variable->value.empty()) return {};
  constexpr int kChoosesItself = 22100;
  if (lint.host() != nullptr && has_kind(lint, NicKind::kInfiniband) && !has_kind(lint, NicKind::kRoce))
    return {about(Verdict::kNote, *variable,
                  "NCCL_IB_GID_INDEX is for RoCE; these cards are InfiniBand, where it has no effect",
                  "unset NCCL_IB_GID_INDEX")};
  if (lint.inventory != nullptr && lint.host() != nullptr) {
    for (const Nic& nic : lint.host()->nics) {
      if (nic.kind != NicKind::kRoce || !is_compute(nic)) continue;
      for (const topology::NicPort& port : nic.ports) {
        const std::string base = fmt::format("ib.{}.{}.gid.", nic.name, port.number);
        const auto any = lint.inventory->facts.lower_bound(base);
        if (any == lint.inventory->facts.end() || !any->first.starts_with(base)) continue;
        const inventory::Fact* gid = lint.inventory->find(base + variable->value);
        if (gid != nullptr && gid->value.find("v2") != std::string::npos) continue;
        return {about(
            Verdict::kWarning, *variable,
            gid == nullptr
                ? fmt::format("{}: {} has no GID {}", words_for(*variable), nic.name, variable->value)
                : fmt::format("{}: that GID of {} is \"{}\", not RoCE v2", words_for(*variable), nic.name, gid->value),
            "unset NCCL_IB_GID_INDEX; with NCCL before 2.21 take a RoCE v2 row of show_gids")};
      }
    }
  }
  const std::string how =
      "unset NCCL_IB_GID_INDEX; if the choice must be narrowed: NCCL_IB_ADDR_FAMILY, NCCL_IB_ADDR_RANGE, "
      "NCCL_IB_ROCE_VERSION_NUM=2";
  if (lint.before(kChoosesItself))
    return {about(Verdict::kNote, *variable,
                  "NCCL before 2.21 needs the GID index of RoCE v2; it differs between hosts and in containers",
                  "compare with show_gids on every host; or use NCCL 2.21 or later, and unset it")};
  return {about(
      lint.nccl_version == 0 ? Verdict::kNote : Verdict::kWarning, *variable,
      fmt::format("{}: NCCL from 2.21 on chooses the GID itself, and its guide says not to set it; in pods the right "
                  "index is another",
                  words_for(*variable)),
      how)};
}

std::vector<Finding> distance(const Lint& lint) {
  constexpr std::string_view kWords[] = {"LOC", "NVL", "C2C", "NVB", "PIX", "PXB", "P2C", "PXN", "PHB", "SYS"};
  constexpr const char* kLegacy[] = {"LOC", "PIX", "PXB", "PHB", "SYS"};
  std::vector<Finding> found;
  for (const char* name : {"NCCL_NET_GDR_LEVEL", "NCCL_P2P_LEVEL"}) {
    const Variable* variable = lint.find(name);
    if (variable == nullptr || variable->value.empty()) continue;
    const bool is_gdr = variable->name == "NCCL_NET_GDR_LEVEL";
    const std::string fix = is_gdr ? "unset NCCL_NET_GDR_LEVEL (PXB: the card is on the GPU's side of the host bridge)"
                                   : fmt::format("unset {}", name);
    if (const auto level = lint.number(name)) {
      const char* word = kLegacy[std::clamp<int64_t>(*level, 0, 4)];
      const bool forced = is_gdr && *level >= 4;
      found.push_back(about(
          forced ? Verdict::kWarning : Verdict::kNote, *variable,
          fmt::format("{}: numbers are discouraged and mean {} today{}", words_for(*variable), word,
                      forced ? ", which forces GPUDirect RDMA across the link between sockets, often slower" : ""),
          fmt::format("{}; or write {}", fix, word)));
    } else if (std::find(std::begin(kWords), std::end(kWords), variable->value) == std::end(kWords)) {
      found.push_back(about(
          Verdict::kWarning, *variable,
          fmt::format("{}: no such distance, so NCCL takes its default; there are LOC, {}PIX, PXB, PHB and SYS, in "
                      "capitals",
                      words_for(*variable), is_gdr ? "" : "NVL, "),
          fix));
    } else if (is_gdr && variable->value == "SYS") {
      found.push_back(
          about(Verdict::kWarning, *variable,
                "NCCL_NET_GDR_LEVEL=SYS forces GPUDirect RDMA across the link between sockets, often slower", fix));
    } else if (is_gdr && variable->value == "LOC") {
      found.push_back(about(Verdict::kWarning, *variable, "NCCL_NET_GDR_LEVEL=LOC turns GPUDirect RDMA off", fix,
                            "two more copies of each message between hosts"));
    }
  }
  return found;
}

std::vector<Finding> service_level(const Lint& lint) {
  const Variable *level = lint.find("NCCL_IB_SL"), *traffic = lint.find("NCCL_IB_TC");
  std::vector<Finding> found;
  const bool infiniband = has_kind(lint, NicKind::kInfiniband), roce = has_kind(lint, NicKind::kRoce);
  if (level != nullptr && traffic != nullptr) {
    const auto byte = lint.number("NCCL_IB_TC");
    found.push_back(
        about(Verdict::kNote, *traffic,
              fmt::format("NCCL_IB_SL is InfiniBand's service level, NCCL_IB_TC RoCE's traffic class{}: neither goes "
                          "with the other",
                          byte && *byte >= 0 && *byte <= 255 ? fmt::format(" (DSCP {})", *byte >> 2) : ""),
              "keep the one that the fabric's administrator gave you"));
  }
  if (level != nullptr && roce && !infiniband)
    found.push_back(about(Verdict::kNote, *level,
                          "NCCL_IB_SL is InfiniBand's; these cards are RoCE, where switches sort by NCCL_IB_TC",
                          "unset NCCL_IB_SL"));
  if (traffic != nullptr && infiniband && !roce)
    found.push_back(about(Verdict::kNote, *traffic,
                          "NCCL_IB_TC is RoCE's; these cards are InfiniBand, where switches sort by NCCL_IB_SL",
                          "unset NCCL_IB_TC"));
  return found;
}

std::vector<Finding> ucx_devices(const Lint& lint) {
  const Variable* variable = lint.find("UCX_NET_DEVICES");
  if (variable == nullptr || variable->value.empty() || variable->value == "all") return {};
  std::vector<Finding> found;
  const topology::Host* host = lint.host();
  for (std::string_view entry : split(variable->value, ',')) {
    if (entry.starts_with('^')) entry.remove_prefix(1);
    const std::string_view name = entry.substr(0, entry.find(':'));
    const bool is_hca = name.starts_with("mlx5") || name.starts_with("mlx4") || name.starts_with("bnxt_re");
    if (is_hca && entry.find(':') == std::string_view::npos)
      found.push_back(about(Verdict::kWarning, *variable,
                            fmt::format("{}: UCX wants the port too: {}:1", words_for(*variable), name),
                            fmt::format("write {}:1", name)));
    if (host == nullptr || host->nics.empty()) continue;
    if (name.find('*') != std::string_view::npos || name.find('[') != std::string_view::npos) continue;
    const auto nic =
        std::find_if(host->nics.begin(), host->nics.end(), [&](const Nic& one) { return one.name == name; });
    if (nic == host->nics.end() && is_hca)
      found.push_back(
          about(Verdict::kWarning, *variable,
                fmt::format("{}: this host has no {}; UCX goes on without it, over TCP if nothing is left",
                            words_for(*variable), name),
                fmt::format("ucx_info -d lists the devices; here: {}", fmt::join(verbs_nics(*host, true), ":1,"))));
    else if (nic != host->nics.end() && is_hca && !is_compute(*nic))
      found.push_back(about(Verdict::kWarning, *variable,
                            fmt::format("{}: {} is not for compute traffic", words_for(*variable), name),
                            "leave it out"));
  }
  return found;
}

}  // namespace

std::span<const Rule> device_rules() {
  static constexpr Rule kRules[] = {{"env-ib-hca", hca_list},
                                    {"env-gid-index", gid_index},
                                    {"env-distance", distance},
                                    {"env-service-level", service_level},
                                    {"ucx-net-devices", ucx_devices}};
  return kRules;
}

}  // namespace lane::doctor
