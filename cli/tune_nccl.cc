#include "cli/commands.h"

namespace lane::cli {

void add_tune_nccl(CLI::App&, Program&) {}

}  // namespace lane::cli
