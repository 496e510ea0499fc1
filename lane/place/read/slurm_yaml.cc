#include <fmt/format.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <initializer_list>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {
namespace {

int line_of(const YAML::Node& node) { return node.Mark().line + 1; }

class YamlReader {
 public:
  YamlReader(Source& source, const ImportOptions& options) : source_(source), options_(options) {}

  topology::Topology run() {
    const YAML::Node document = YAML::Load(source_.text);
    if (!document.IsSequence()) source_.refuse(1, "expected a list of topologies: - topology: NAME");
    const YAML::Node chosen = choose(document);
    topology::Topology topology;
    topology.name = text(chosen, "topology");
    const char* kinds[] = {"tree", "block", "flat"};
    const auto kind = std::find_if(std::begin(kinds), std::end(kinds), [&](const char* key) { return chosen[key]; });
    if (kind == std::end(kinds) || std::count_if(std::begin(kinds), std::end(kinds),
                                                 [&](const char* key) { return static_cast<bool>(chosen[key]); }) != 1)
      source_.refuse(line_of(chosen), fmt::format("topology {}: expected one of tree, block and flat (ring and torus3d "
                                                  "are not read)",
                                                  in_quotes(topology.name)));
    const std::string name = *kind;
    if (name == "tree") read_tree(chosen["tree"], topology);
    if (name == "block") read_block(chosen["block"], topology);
    if (name == "flat") read_flat(line_of(chosen), topology);
    return topology;
  }

 private:
  YAML::Node choose(const YAML::Node& document) const {
    YAML::Node chosen, by_default, first;
    for (const YAML::Node& one : document) {
      check_keys(one, {"topology", "cluster_default", "tree", "block", "flat", "ring", "torus3d"});
      const std::string name = text(one, "topology");
      if (!first.IsDefined() || first.IsNull()) first.reset(one);
      const YAML::Node flag = one["cluster_default"];
      if ((by_default.IsNull()) && flag && flag.IsScalar() && lower(flag.Scalar()) == "true") by_default.reset(one);
      if (chosen.IsNull() && !options_.topology.empty() && name == options_.topology) chosen.reset(one);
    }
    if (first.IsNull()) source_.refuse(1, "the list of topologies is empty");
    if (!options_.topology.empty()) {
      if (chosen.IsNull())
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("{}: no topology is called {}", source_.where, in_quotes(options_.topology)));
      return chosen;
    }
    return by_default.IsNull() ? first : by_default;
  }

  void check_keys(const YAML::Node& node, std::initializer_list<std::string_view> keys) const {
    if (!node.IsMap()) source_.refuse(line_of(node), fmt::format("expected {}: ...", *keys.begin()));
    for (const auto& item : node) {
      const std::string key = item.first.IsScalar() ? item.first.Scalar() : "";
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        source_.refuse(line_of(item.first),
                       fmt::format("{} is not known here; there are {}", in_quotes(key), fmt::join(keys, ", ")));
    }
  }

  std::string text(const YAML::Node& node, const char* key) const {
    const YAML::Node value = node[key];
    if (!value || !value.IsScalar() || value.Scalar().empty())
      source_.refuse(line_of(node), fmt::format("{}: expected a name", key));
    return value.Scalar();
  }

  YAML::Node list(const YAML::Node& node, const char* key) const {
    const YAML::Node value = node[key];
    if (!value || !value.IsSequence()) source_.refuse(line_of(node), fmt::format("{}: expected a list", key));
    return value;
  }

  // "n[01-04]", or a list of such.
  std::vector<std::string> names(const YAML::Node& node, const char* key) const {
    const YAML::Node value = node[key];
    if (!value) return {};
    if (value.IsScalar()) return source_.expand(value.Scalar(), line_of(value));
    if (!value.IsSequence()) source_.refuse(line_of(value), fmt::format("{}: expected a host list", key));
    std::vector<std::string> all;
    for (const YAML::Node& item : value) {
      if (!item.IsScalar()) source_.refuse(line_of(item), fmt::format("{}: expected a host list", key));
      for (std::string& name : source_.expand(item.Scalar(), line_of(item))) all.push_back(std::move(name));
      if (all.size() > kMaxHosts) source_.refuse(line_of(item), "too many names");
    }
    return all;
  }

  void read_tree(const YAML::Node& tree, topology::Topology& topology) const {
    check_keys(tree, {"switches"});
    std::vector<SwitchEntry> entries;
    for (const YAML::Node& one : list(tree, "switches")) {
      check_keys(one, {"switch", "children", "nodes"});
      entries.push_back({text(one, "switch"), line_of(one), names(one, "nodes"), names(one, "children")});
    }
    add_tree(source_, entries, topology);
  }

  void read_block(const YAML::Node& block, topology::Topology& topology) const {
    check_keys(block, {"block_sizes", "blocks"});
    std::vector<int64_t> sizes;
    if (block["block_sizes"])
      for (const YAML::Node& size : list(block, "block_sizes"))
        sizes.push_back(
            source_.number(size.IsScalar() ? size.Scalar() : "", line_of(size), "block_sizes", 1, kMaxHosts));
    std::vector<SwitchEntry> entries;
    for (const YAML::Node& one : list(block, "blocks")) {
      check_keys(one, {"block", "nodes"});
      entries.push_back({text(one, "block"), line_of(one), names(one, "nodes"), {}});
    }
    add_blocks(source_, entries, sizes, topology);
  }

  void read_flat(int line, topology::Topology& topology) {
    if (options_.nodes.empty()) source_.refuse(line, "a flat topology names no nodes; give them with --nodes n[01-16]");
    for (const std::string& name : source_.expand(options_.nodes, 0)) topology.hosts.push_back({.name = name});
    source_.notes.push_back("the topology is flat: all hosts were taken to hang on one switch");
  }

  Source& source_;
  const ImportOptions& options_;
};

}  // namespace

topology::Topology read_slurm_yaml(Source& source, const ImportOptions& options) {
  constexpr size_t kLimit = size_t{1} << 26;
  if (source.text.size() > kLimit) source.refuse(0, "larger than 64 MiB");
  try {
    return YamlReader(source, options).run();
  } catch (const YAML::Exception& error) {
    source.refuse(std::max(error.mark.line + 1, 0), "not valid YAML: " + error.msg);
  }
}

}  // namespace lane::place
