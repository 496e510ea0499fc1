#include "cli/commands.h"

namespace lane::cli {

void add_plan_budget(CLI::App&, Program&) {}

}  // namespace lane::cli
