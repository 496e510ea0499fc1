#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "lane/base/error.h"
#include "lane/plan/schedules/schedules.h"

namespace lane::plan {
namespace {

using Names = std::vector<std::string_view>;

constexpr std::string_view kHier = "hier:", kDoubleTree = "double_tree";
constexpr int kMaxPieces = 1024;

// Halves, also as the inside of hier:, and under which name alone.
struct NamedHalves {
  std::string_view name;
  Halves (*make)(int n);
  bool multicast = false;
};
constexpr NamedHalves kHalves[] = {{"two_shot", direct_halves},
                                   {"two_shot_multicast", multicast_halves, true},
                                   {"bruck", bruck_halves},
                                   {"halving_doubling", halving_doubling_halves},
                                   {"ring", ring_halves}};

struct NamedGather {
  std::string_view name;
  Transfers (*make)(int n);
  bool multicast = false;
};
constexpr NamedGather kAllGathers[] = {{"direct", direct_all_gather},
                                       {"direct_multicast", multicast_all_gather, true},
                                       {"bruck", bruck_all_gather},
                                       {"ring", ring_all_gather}};

struct NamedRooted {
  std::string_view name;
  Transfers (*make)(int n, int root);
  bool multicast = false;
};
constexpr NamedRooted kBroadcasts[] = {
    {"direct", direct_broadcast}, {"direct_multicast", multicast_broadcast, true}, {"binomial", binomial_broadcast}};
constexpr NamedRooted kGathers[] = {{"direct", direct_gather}, {"binomial", binomial_gather}};
constexpr NamedGather kAllToAlls[] = {{"direct", direct_all_to_all}, {"bruck", bruck_all_to_all}};

// The entry of that name that may be used, or null.
template <class Table>
auto find(const Table& table, std::string_view name, bool with_multicast) {
  const auto found = std::find_if(std::begin(table), std::end(table), [&](const auto& entry) {
    return entry.name == name && (with_multicast || !entry.multicast);
  });
  return found == std::end(table) ? nullptr : &*found;
}

template <class Table>
Names names_in(const Table& table, bool with_multicast) {
  Names names;
  for (const auto& entry : table)
    if (with_multicast || !entry.multicast) names.push_back(entry.name);
  return names;
}

// All-reduces of one level, smallest messages first.
Names all_reduce_names(bool with_multicast) {
  Names names = {"one_shot"};
  if (with_multicast) names.push_back("one_shot_multicast");
  names.push_back("recursive_doubling");
  for (const std::string_view name : names_in(kHalves, with_multicast)) {
    if (name == "ring") names.insert(names.end(), {"double_tree", "double_tree:4", "double_tree:16"});
    names.push_back(name);
  }
  return names;
}

std::optional<int> pieces_of(std::string_view name) {
  if (name == kDoubleTree) return 1;
  if (!name.starts_with(kDoubleTree) || name.size() < kDoubleTree.size() + 2 || name[kDoubleTree.size()] != ':')
    return {};
  const char* end = name.data() + name.size();
  int pieces = 0;
  const auto [stop, error] = std::from_chars(name.data() + kDoubleTree.size() + 1, end, pieces);
  if (error != std::errc() || stop != end || pieces < 1 || pieces > kMaxPieces) return {};
  return pieces;
}

std::optional<Transfers> make_all_reduce(std::string_view name, int n, bool with_multicast) {
  if (name == "one_shot") return one_shot_all_reduce(n);
  if (name == "one_shot_multicast" && with_multicast) return one_shot_multicast_all_reduce(n);
  if (name == "recursive_doubling") return recursive_doubling_all_reduce(n);
  if (const auto pieces = pieces_of(name)) return double_tree_all_reduce(n, *pieces);
  if (const auto* halves = find(kHalves, name, with_multicast)) {
    const Halves made = halves->make(n);
    return then(made.scatter, made.gather);
  }
  return {};
}

// What there is for a collective on a layout: names of one level, and those that hier: is made of.
struct Known {
  Names flat, inside, between;
};

Known known_names(Collective collective, bool one_node) {
  switch (collective) {
    case Collective::kAllReduce:
      return {all_reduce_names(one_node), names_in(kHalves, true), all_reduce_names(false)};
    case Collective::kReduceScatter:
      return {names_in(kAllGathers, false), names_in(kAllGathers, false), names_in(kAllGathers, false)};
    case Collective::kAllGather:
      return {names_in(kAllGathers, one_node), names_in(kAllGathers, true), names_in(kAllGathers, false)};
    case Collective::kBroadcast:
      return {names_in(kBroadcasts, one_node), names_in(kBroadcasts, true), names_in(kBroadcasts, false)};
    case Collective::kGather:
      return {names_in(kGathers, one_node), {}, {}};
    case Collective::kAllToAll:
      return {names_in(kAllToAlls, one_node), {}, {}};
  }
  return {};
}

std::optional<Transfers> make_hierarchical(std::string_view inside, std::string_view between, Collective collective,
                                           const Layout& layout, int root) {
  const int num_nodes = layout.num_nodes();
  if (collective == Collective::kAllReduce) {
    const auto* halves = find(kHalves, inside, true);
    const auto outer = make_all_reduce(between, num_nodes, false);
    if (halves != nullptr && outer) return hierarchical_all_reduce(layout, halves->make, *outer);
  }
  if (collective == Collective::kAllGather || collective == Collective::kReduceScatter) {
    const bool gathers = collective == Collective::kAllGather;
    const auto* inner = find(kAllGathers, inside, gathers);
    const auto* outer = find(kAllGathers, between, false);
    if (inner != nullptr && outer != nullptr) {
      const Transfers gather = hierarchical_all_gather(layout, inner->make, outer->make(num_nodes));
      return gathers ? gather : mirrored(gather);
    }
  }
  if (collective == Collective::kBroadcast) {
    const auto* inner = find(kBroadcasts, inside, true);
    const auto* outer = find(kBroadcasts, between, false);
    if (inner != nullptr && outer != nullptr) return hierarchical_broadcast(layout, inner->make, outer->make, root);
  }
  return {};
}

std::optional<Transfers> make(std::string_view name, Collective collective, const Layout& layout, int root) {
  const int n = layout.num_ranks();
  const bool one_node = layout.num_nodes() == 1;
  if (name.starts_with(kHier)) {
    name.remove_prefix(kHier.size());
    const size_t slash = name.find('/');
    if (one_node || slash == std::string_view::npos) return {};
    return make_hierarchical(name.substr(0, slash), name.substr(slash + 1), collective, layout, root);
  }
  switch (collective) {
    case Collective::kAllReduce:
      return make_all_reduce(name, n, one_node);
    case Collective::kReduceScatter:
      if (const auto* entry = find(kAllGathers, name, false)) return mirrored(entry->make(n));
      break;
    case Collective::kAllGather:
      if (const auto* entry = find(kAllGathers, name, one_node)) return entry->make(n);
      break;
    case Collective::kBroadcast:
      if (const auto* entry = find(kBroadcasts, name, one_node)) return entry->make(n, root);
      break;
    case Collective::kGather:
      if (const auto* entry = find(kGathers, name, one_node)) return entry->make(n, root);
      break;
    case Collective::kAllToAll:
      if (const auto* entry = find(kAllToAlls, name, one_node)) return entry->make(n);
      break;
  }
  return {};
}

void check(const Layout& layout, int root) {
  const auto bad = [](const std::string& what) { throw Error(ErrorCode::kInvalidArgument, what); };
  if (layout.num_ranks() < 1) bad("a schedule needs at least one rank");
  for (const int node : layout.node_of)
    if (node < 0) bad("a rank is on node " + std::to_string(node) + "; nodes are numbered from 0");
  const auto nodes = layout.ranks_by_node();
  for (size_t node = 0; node < nodes.size(); ++node)
    if (nodes[node].empty()) bad("node " + std::to_string(node) + " has no ranks; number the nodes without gaps");
  if (root < 0 || root >= layout.num_ranks())
    bad(fmt::format("there is no rank {} to be the root of {} ranks", root, layout.num_ranks()));
}

}  // namespace

std::vector<std::string> schedule_names(Collective collective, const Layout& layout) {
  const bool one_node = layout.num_nodes() == 1;
  const Known known = known_names(collective, one_node);
  std::vector<std::string> names(known.flat.begin(), known.flat.end());
  // With one rank on each node, hier:X/Y is Y.
  if (!one_node && layout.num_nodes() < layout.num_ranks())
    for (const std::string_view between : known.between)
      for (const std::string_view inside : known.inside)
        names.push_back(fmt::format("{}{}/{}", kHier, inside, between));
  return names;
}

Schedule make_schedule(std::string_view name, Collective collective, const Layout& layout, int root) {
  check(layout, root);
  if (const auto transfers = make(name, collective, layout, root)) {
    Schedule schedule = to_schedule(*transfers, layout);
    schedule.name = name;
    return schedule;
  }
  const bool one_node = layout.num_nodes() == 1;
  const Known known = known_names(collective, one_node);
  std::string text = fmt::format("no {} algorithm for {} is called {}; known: {}", name_of(collective),
                                 one_node ? "one node" : "several nodes", name, fmt::join(known.flat, ", "));
  if (!one_node && !known.inside.empty())
    text += fmt::format(", and hier:INSIDE/BETWEEN with {} inside and {} between the nodes",
                        fmt::join(known.inside, ", "), fmt::join(known.between, ", "));
  throw Error(ErrorCode::kInvalidArgument, text);
}

}  // namespace lane::plan
