#include <fmt/format.h>

#include "lane/base/json.h"
#include "lane/place/read/source.h"

namespace lane::place {

// "n[01-16]", "n01 slots=8" (Open MPI), "n01:8" (Hydra); '#' starts a comment. Slots are GPUs.
topology::Topology read_hosts(Source& source, const HostDefaults& defaults) {
  topology::Topology topology;
  std::map<std::string, int> line_of;
  int number = 0;
  for (std::string_view line : lines_of(source.text)) {
    ++number;
    line = trimmed(line.substr(0, line.find('#')));
    if (line.empty()) continue;
    const size_t end = std::min(line.find_first_of(" \t:"), line.size());
    const std::string names(line.substr(0, end));
    std::string_view rest = trimmed(line.substr(end));
    int num_gpus = 0;
    if (rest.starts_with(':')) {
      num_gpus = static_cast<int>(source.number(rest.substr(1), number, "the number of slots", 1, kMaxGpusPerHost));
      rest = {};
    }
    while (!rest.empty()) {
      const size_t stop = std::min(rest.find_first_of(" \t"), rest.size());
      const std::string word(rest.substr(0, stop));
      rest = trimmed(rest.substr(stop));
      if (word.starts_with("slots=")) {
        num_gpus = static_cast<int>(source.number(word.substr(6), number, "slots", 1, kMaxGpusPerHost));
      } else if (!word.starts_with("max_slots=") && !word.starts_with("max-slots=")) {
        source.refuse(number, fmt::format("{} is not known; write HOSTS, HOST slots=N or HOST:N", in_quotes(word)));
      }
    }
    for (const std::string& name : source.expand(names, number)) {
      const auto [found, is_new] = line_of.try_emplace(name, number);
      if (!is_new)
        source.refuse(number, fmt::format("host {} comes twice, first in line {}", in_quotes(name), found->second));
      if (line_of.size() > kMaxHosts) source.refuse(number, fmt::format("more than {} hosts", kMaxHosts));
      topology.hosts.push_back({.name = name});
      if (num_gpus > 0) topology.hosts.back().gpus = default_gpus(defaults, num_gpus);
    }
  }
  source.notes.push_back("nothing is known of the switches: all hosts were taken to hang on one");
  return topology;
}

}  // namespace lane::place
