#include "cli/fabric_flags.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/base/units.h"
#include "lane/comm/tuning.h"

namespace lane::cli {
namespace {

// Typical values to compare algorithms by, not promises about a machine. A remote rate is that of a whole node.
struct Preset {
  const char* name;
  const char* what;
  plan::Link local, remote;
};
constexpr Preset kPresets[] = {
    {"cpu", "shared memory; 25 Gb/s Ethernet with TCP", {1e-6, 8e9, 2e-7}, {2e-5, 2.9e9, 2e-6}},
    {"nvlink_slingshot", "4 GPUs on NVLink; 4 x Slingshot-11", {2e-6, 200e9, 2e-7}, {3.4e-6, 96e9, 3e-7}},
    {"nvlink_ndr", "8 GPUs on NVLink; 8 x NDR InfiniBand", {2e-6, 300e9, 2e-7}, {4e-6, 400e9, 3e-7}},
};

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::kInvalidArgument, what); }

plan::Layout parse_layout(const FabricFlags& flags, int max_ranks, const std::string& what) {
  std::vector<int> sizes = flags.ranks_by_node;
  for (const int size : sizes)
    if (size < 1)
      refuse(fmt::format("--ranks-by-node {}: each node needs at least one rank, as in --ranks-by-node 3,2,1",
                         fmt::join(sizes, ",")));
  if (sizes.empty()) {
    if (flags.nodes < 1) refuse(fmt::format("--nodes {}: give at least 1", flags.nodes));
    if (flags.ranks_per_node < 1) refuse(fmt::format("--ranks-per-node {}: give at least 1", flags.ranks_per_node));
    if (flags.nodes > max_ranks || flags.ranks_per_node > max_ranks)
      refuse(fmt::format("--nodes {} --ranks-per-node {}: at most {} ranks", flags.nodes, flags.ranks_per_node,
                         max_ranks));
    sizes.assign(flags.nodes, flags.ranks_per_node);
  }
  const int64_t num_ranks = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
  if (num_ranks > max_ranks)
    refuse(fmt::format("{} ranks are too many for {}: at most {}", num_ranks, what, max_ranks));
  return plan::Layout::of_sizes(sizes);
}

void set(double& value, std::optional<double> given, double unit, const char* flag, bool positive) {
  if (!given) return;
  if (!(*given >= 0) || (positive && *given == 0) || *given > 1e9)
    refuse(fmt::format("{} {}: give a number {} 0", flag, *given, positive ? "above" : "of at least"));
  value = *given * unit;
}

// The links of the entry for this number of nodes, else of the one with most ranks.
void use_measured(plan::Fabric& fabric, const std::string& file) {
  const TuningTable table = TuningTable::parse(read_file(file), file);
  const std::vector<int> shape = shape_of(fabric.layout);
  const TuningEntry* best = nullptr;
  const auto num_ranks = [](const TuningEntry& entry) {
    return std::accumulate(entry.ranks_per_node.begin(), entry.ranks_per_node.end(), 0);
  };
  for (const TuningEntry& entry : table.entries()) {
    if (!entry.links || (entry.ranks_per_node.size() > 1) != (shape.size() > 1)) continue;
    if (best == nullptr || entry.ranks_per_node == shape ||
        (best->ranks_per_node != shape && num_ranks(entry) > num_ranks(*best)))
      best = &entry;
  }
  if (best == nullptr)
    refuse(fmt::format("--tuning {}: nothing in it was measured on {}; run `lane tune collectives` there", file,
                       shape.size() > 1 ? "several nodes" : "one node"));
  fabric.local = best->links->local;
  if (shape.size() > 1) fabric.remote = best->links->remote;
}

}  // namespace

void FabricFlags::add_to(CLI::App& app) {
  std::vector<std::string> names;
  std::string help = "What the expected time is for:";
  for (const Preset& known : kPresets) {
    names.emplace_back(known.name);
    help += fmt::format(" {} ({});", known.name, known.what);
  }
  help.back() = '.';
  auto* of_nodes = app.add_option("--nodes", nodes, "Number of nodes")->capture_default_str();
  auto* of_ranks = app.add_option("--ranks-per-node", ranks_per_node, "Ranks of each node")->capture_default_str();
  app.add_option("--ranks-by-node", ranks_by_node, "Ranks of each node if they differ: 3,2,1")
      ->delimiter(',')
      ->take_all()
      ->excludes(of_nodes)
      ->excludes(of_ranks);
  app.add_option("--fabric", preset, help)->check(CLI::IsMember(names))->capture_default_str();
  app.add_option("--tuning", tuning,
                 "Instead of the fabric's: the links that `lane tune collectives` measured, from its file");
  app.add_option("--local-latency-us", local_latency_us, "Instead of the fabric's: latency inside a node");
  app.add_option("--local-gb-per-s", local_gb_per_s, "Rate of a rank's port inside its node");
  app.add_option("--local-message-us", local_message_us, "A rank's time for each further message of a round");
  app.add_option("--remote-latency-us", remote_latency_us, "Latency between nodes");
  app.add_option("--remote-gb-per-s", remote_gb_per_s, "Rate of a node's port, which its ranks share");
  app.add_option("--remote-message-us", remote_message_us, "A rank's time for each further message");
}

plan::Fabric FabricFlags::finish(int max_ranks, const std::string& what) const {
  const auto known =
      std::find_if(std::begin(kPresets), std::end(kPresets), [&](const Preset& one) { return one.name == preset; });
  ensure(known != std::end(kPresets), "the parser let only known fabrics pass");
  plan::Fabric fabric{parse_layout(*this, max_ranks, what), known->local, known->remote};
  if (!tuning.empty()) use_measured(fabric, tuning);
  set(fabric.local.latency_s, local_latency_us, 1e-6, "--local-latency-us", false);
  set(fabric.local.bytes_per_s, local_gb_per_s, 1e9, "--local-gb-per-s", true);
  set(fabric.local.message_s, local_message_us, 1e-6, "--local-message-us", false);
  set(fabric.remote.latency_s, remote_latency_us, 1e-6, "--remote-latency-us", false);
  set(fabric.remote.bytes_per_s, remote_gb_per_s, 1e9, "--remote-gb-per-s", true);
  set(fabric.remote.message_s, remote_message_us, 1e-6, "--remote-message-us", false);
  return fabric;
}

std::string plural(int count, const char* word) { return fmt::format("{} {}{}", count, word, count == 1 ? "" : "s"); }

// "8 ranks on 2 nodes of 4".
std::string words_for(const plan::Layout& layout) {
  const std::string ranks = plural(layout.num_ranks(), "rank");
  if (layout.num_nodes() == 1) return ranks + " on one node";
  std::vector<size_t> sizes;
  for (const auto& node : layout.ranks_by_node()) sizes.push_back(node.size());
  if (std::adjacent_find(sizes.begin(), sizes.end(), std::not_equal_to<>()) == sizes.end()) sizes.resize(1);
  return fmt::format("{} on {} nodes of {}", ranks, layout.num_nodes(), fmt::join(sizes, ", "));
}

std::string words_for_links(const plan::Fabric& fabric) {
  std::string words = fmt::format("{} and {} a rank inside a node", format_duration(fabric.local.latency_s),
                                  format_rate(fabric.local.bytes_per_s));
  if (fabric.layout.num_nodes() > 1)
    words += fmt::format(", {} and {} a node between nodes", format_duration(fabric.remote.latency_s),
                         format_rate(fabric.remote.bytes_per_s));
  return words;
}

}  // namespace lane::cli
