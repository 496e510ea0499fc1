#include <fmt/format.h>

#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {
namespace {

struct Line {
  int number = 0;
  std::map<std::string, std::string> values;  // by key in lower case
};

// "SwitchName=leaf1 Nodes=n[01-16]": keys without regard to case; values may stand in quotes.
Line split(const Source& source, int number, std::string_view text) {
  Line line{number, {}};
  for (text = trimmed(text); !text.empty(); text = trimmed(text)) {
    const size_t equals = text.find('=');
    const std::string key = lower(text.substr(0, equals));
    if (equals == std::string_view::npos || key.find_first_of(" \t") != std::string::npos)
      source.refuse(number, fmt::format("{}: expected KEY=VALUE", in_quotes(text)));
    text.remove_prefix(equals + 1);
    const bool is_quoted = text.starts_with('"');
    if (is_quoted) text.remove_prefix(1);
    const size_t end = std::min(text.find_first_of(is_quoted ? "\"" : " \t"), text.size());
    if (is_quoted && end == text.size()) source.refuse(number, "a '\"' is missing at the end");
    const bool is_new = line.values.try_emplace(key, std::string(text.substr(0, end))).second;
    if (!is_new) source.refuse(number, fmt::format("{} is given twice", in_quotes(key)));
    text.remove_prefix(std::min(end + (is_quoted ? 1 : 0), text.size()));
  }
  return line;
}

// A line that ends in '\' goes on in the next; '#' starts a comment.
std::vector<Line> split_lines(const Source& source) {
  std::vector<Line> lines;
  std::string joined;
  int number = 0, first = 0;
  for (std::string_view text : lines_of(source.text)) {
    ++number;
    text = trimmed(text.substr(0, text.find('#')));
    if (joined.empty()) first = number;
    const bool goes_on = text.ends_with('\\');
    if (goes_on) text.remove_suffix(1);
    joined += text;
    if (goes_on) continue;
    if (!trimmed(joined).empty()) lines.push_back(split(source, first, joined));
    joined.clear();
  }
  if (!trimmed(joined).empty()) lines.push_back(split(source, first, joined));
  return lines;
}

}  // namespace

topology::Topology read_slurm_conf(Source& source) {
  std::vector<SwitchEntry> switches, blocks;
  std::vector<int64_t> sizes;
  for (const Line& line : split_lines(source)) {
    SwitchEntry entry{.line = line.number};
    bool is_block = false;
    for (const auto& [key, value] : line.values) {
      if (key == "switchname" || key == "blockname") {
        is_block = key == "blockname";
        entry.name = value;
        if (!is_host_name(value)) source.refuse(line.number, fmt::format("{} is no name", in_quotes(value)));
      } else if (key == "nodes") {
        entry.nodes = source.expand(value, line.number);
      } else if (key == "switches") {
        entry.switches = source.expand(value, line.number);
      } else if (key == "blocksizes") {
        for (std::string_view rest = value; !rest.empty();) {
          const size_t end = std::min(rest.find(','), rest.size());
          sizes.push_back(source.number(rest.substr(0, end), line.number, "BlockSizes", 1, kMaxHosts));
          rest.remove_prefix(std::min(end + 1, rest.size()));
        }
      } else if (key != "linkspeed") {  // in no unit: Slurm ignores it too
        source.refuse(line.number, fmt::format("{} is not known; there are SwitchName, Nodes, Switches, LinkSpeed, "
                                               "BlockName and BlockSizes",
                                               in_quotes(key)));
      }
    }
    if (line.values.contains("blocksizes") && line.values.size() == 1) continue;
    if (entry.name.empty()) source.refuse(line.number, "SwitchName or BlockName is missing");
    if (is_block && !entry.switches.empty()) source.refuse(line.number, "a block has nodes, not switches");
    (is_block ? blocks : switches).push_back(std::move(entry));
  }
  if (!switches.empty() && !blocks.empty())
    source.refuse(blocks[0].line, "switches and blocks in one file; Slurm takes the lines of one plugin");
  topology::Topology topology;
  if (blocks.empty()) {
    add_tree(source, switches, topology);
  } else {
    add_blocks(source, blocks, sizes, topology);
  }
  return topology;
}

}  // namespace lane::place
