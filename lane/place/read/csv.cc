#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {
namespace {

constexpr std::string_view kColumns[] = {"node", "rack", "leaf", "spine", "gpus", "nvlink_domain", "free", "busy"};

// Fields of a line; one in '"' may hold commas.
std::vector<std::string> fields_of(const Source& source, int number, std::string_view line) {
  std::vector<std::string> fields{""};
  bool is_quoted = false;
  for (const char c : line) {
    if (c == '"') {
      is_quoted = !is_quoted;
    } else if (c == ',' && !is_quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  if (is_quoted) source.refuse(number, "a '\"' is missing");
  for (std::string& field : fields) field = std::string(trimmed(field));
  return fields;
}

class CsvReader {
 public:
  CsvReader(Source& source, const HostDefaults& defaults) : source_(source), defaults_(defaults) {}

  topology::Topology run() {
    for (const std::string_view line : lines_of(source_.text)) {
      ++number_;
      if (trimmed(line).empty() || trimmed(line).starts_with('#')) continue;
      const std::vector<std::string> fields = fields_of(source_, number_, line);
      if (columns_.empty()) {
        read_header(fields);
      } else {
        read_row(fields);
      }
    }
    if (num_with_leaf_ > 0) add_switches();
    return std::move(topology_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const { source_.refuse(number_, what); }

  void read_header(const std::vector<std::string>& fields) {
    for (const std::string& field : fields) {
      const std::string name = lower(field);
      if (std::find(std::begin(kColumns), std::end(kColumns), name) == std::end(kColumns))
        refuse(fmt::format("column {} is not known; there are {}", in_quotes(field), fmt::join(kColumns, ",")));
      if (std::find(columns_.begin(), columns_.end(), name) != columns_.end())
        refuse(fmt::format("column {} comes twice", in_quotes(field)));
      columns_.push_back(name);
    }
    if (std::find(columns_.begin(), columns_.end(), "node") == columns_.end()) refuse("the column node is missing");
  }

  std::string field(const std::vector<std::string>& fields, std::string_view column) const {
    const auto found = std::find(columns_.begin(), columns_.end(), column);
    const size_t i = static_cast<size_t>(found - columns_.begin());
    return i < fields.size() ? fields[i] : "";
  }

  void read_row(const std::vector<std::string>& fields) {
    if (fields.size() > columns_.size())
      refuse(fmt::format("{} fields, but the header names {} (put lists with commas in quotes)", fields.size(),
                         columns_.size()));
    const std::string node = field(fields, "node"), leaf = field(fields, "leaf"), spine = field(fields, "spine");
    if (node.empty()) refuse("the node has no name");
    topology::Host host{.rack = field(fields, "rack"), .leaf_switch = leaf};
    const std::string gpus = field(fields, "gpus");
    host.gpus = default_gpus(
        defaults_, gpus.empty() ? 0 : static_cast<int>(source_.number(gpus, number_, "gpus", 1, kMaxGpusPerHost)));
    for (topology::Gpu& gpu : host.gpus) gpu.nvlink_domain = field(fields, "nvlink_domain");
    set_busy(host, field(fields, "free"), field(fields, "busy"));
    if (!leaf.empty()) add_leaf(leaf, spine);
    for (const std::string& name : source_.expand(node, number_)) {
      const auto [found, is_new] = line_of_.try_emplace(name, number_);
      if (!is_new) refuse(fmt::format("node {} comes twice, first in line {}", in_quotes(name), found->second));
      num_with_leaf_ += leaf.empty() ? 0 : 1;
      if (num_with_leaf_ != 0 && num_with_leaf_ != line_of_.size())
        refuse(fmt::format("node {} {}; give a leaf to all nodes or to none", in_quotes(name),
                           leaf.empty() ? "has no leaf though others do" : "has a leaf though others have none"));
      if (line_of_.size() > kMaxHosts) refuse(fmt::format("more than {} nodes", kMaxHosts));
      host.name = name;
      topology_.hosts.push_back(host);
    }
  }

  // free: how many, the lowest indices; busy: which ones.
  void set_busy(topology::Host& host, const std::string& free, const std::string& busy) const {
    const int64_t count = static_cast<int64_t>(host.gpus.size());
    const int64_t num_free = free.empty() ? count : source_.number(free, number_, "free", 0, count);
    for (int64_t i = num_free; i < count; ++i) host.gpus[static_cast<size_t>(i)].is_busy = true;
    if (busy.empty()) return;
    if (!free.empty()) refuse("both free and busy; give one of them");
    std::string list = busy;
    std::replace(list.begin(), list.end(), ' ', ',');
    std::replace(list.begin(), list.end(), ';', ',');
    std::vector<int> indices;
    try {
      indices = topology::parse_cpu_list(list);
    } catch (const Error&) {
      refuse(fmt::format("busy is {}; expected numbers of GPUs, as in 0-3;6", in_quotes(busy)));
    }
    for (const int i : indices) {
      if (i < 0 || i >= count) refuse(fmt::format("busy names GPU {}, but the node has {}", i, count));
      host.gpus[static_cast<size_t>(i)].is_busy = true;
    }
  }

  void add_leaf(const std::string& leaf, const std::string& spine) {
    const auto [found, is_new] = spine_of_.try_emplace(leaf, spine, number_);
    if (!is_new && found->second.first != spine)
      refuse(fmt::format("leaf {} is below spine {}, but below {} in line {}", in_quotes(leaf), in_quotes(spine),
                         in_quotes(found->second.first), found->second.second));
    if (leaf == spine) refuse(fmt::format("leaf {} is below itself", in_quotes(leaf)));
  }

  // Leaves without a spine hang on one; spines are joined above.
  void add_switches() {
    std::set<std::string> spines;
    for (const auto& [leaf, above] : spine_of_)
      if (!above.first.empty()) spines.insert(above.first);
    const std::string top = "all-switches";
    const bool needs_top = spines.size() > 1 || (spines.empty() && spine_of_.size() > 1);
    for (const auto& [leaf, above] : spine_of_) {
      const auto& [spine, line] = above;
      if (spine.empty() && !spines.empty())
        source_.refuse(line,
                       fmt::format("leaf {} has no spine though others do: it could not be reached", in_quotes(leaf)));
      if (spines.contains(leaf)) source_.refuse(line, fmt::format("{} is both a leaf and a spine", in_quotes(leaf)));
      topology::Switch one{.name = leaf};
      if (!spine.empty()) one.parents = {spine};
      if (spines.empty() && needs_top) one.parents = {top};
      topology_.switches.push_back(std::move(one));
    }
    for (const std::string& spine : spines)
      topology_.switches.push_back(
          {.name = spine, .level = 2, .parents = needs_top ? std::vector{top} : std::vector<std::string>{}});
    if (needs_top) topology_.switches.push_back({.name = top, .level = spines.empty() ? 2 : 3});
  }

  Source& source_;
  const HostDefaults& defaults_;
  int number_ = 0;
  std::vector<std::string> columns_;
  std::map<std::string, std::pair<std::string, int>> spine_of_;  // of a leaf, with the line
  std::map<std::string, int> line_of_;                           // of a node
  size_t num_with_leaf_ = 0;
  topology::Topology topology_;
};

}  // namespace

topology::Topology read_csv(Source& source, const HostDefaults& defaults) { return CsvReader(source, defaults).run(); }

}  // namespace lane::place
