#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "lane/base/dtype.h"
#include "lane/comm/communicator.h"

namespace lane::cli {

// A flag with a list: --name a,b,c. The last one given counts.
void add_list(CLI::App& app, const std::string& name, std::vector<std::string>& into, const std::string& help);

// Flags of the commands that measure what a group of ranks does.
struct GroupFlags {
  int num_ranks = 0;  // 0: as many as a launcher started, else 2
  std::string sizes;  // "8,1K,64M" or "8:64M:2"
  std::vector<std::string> dtypes;
  bool no_progress = false;
  bool own_cores = true;  // binds each rank to a core. With GPUs not: libraries' threads would share it

  void add_to(CLI::App& app);
  std::vector<int64_t> size_list() const;  // ascending; Error{kInvalidArgument} that teaches
  std::vector<DType> dtype_list() const;
};

// Runs `body` on the ranks that --ranks or a launcher ask for: starts them, or joins those that were started. Returns
// the exit status for main().
int run_on_ranks(const GroupFlags& flags, const Program& program,
                 const std::function<int(Communicator& group, bool own_core)>& body);

}  // namespace lane::cli
