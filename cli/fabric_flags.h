#pragma once
#include <CLI/CLI.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lane/plan/cost.h"

namespace lane::cli {

// The flags that say what ranks are joined by; the same for everything that `lane plan` prices.
struct FabricFlags {
  std::string preset = "cpu", tuning;
  int nodes = 1, ranks_per_node = 4;
  std::vector<int> ranks_by_node;
  std::optional<double> local_latency_us, local_gb_per_s, local_message_us;
  std::optional<double> remote_latency_us, remote_gb_per_s, remote_message_us;

  void add_to(CLI::App& app);
  // Checks what the parser cannot. `max_ranks`: more than that are refused, as too many for `what`.
  plan::Fabric finish(int max_ranks, const std::string& what) const;
};

std::string plural(int count, const char* word);          // "1 rank", "3 ranks"
std::string words_for(const plan::Layout& layout);        // "8 ranks on 2 nodes of 4"
std::string words_for_links(const plan::Fabric& fabric);  // "1 µs and 8 GB/s a rank inside a node, ..."

}  // namespace lane::cli
