#include "cli/commands.h"

namespace lane::cli {

void add_bench_nccl(CLI::App&, Program&) {}

}  // namespace lane::cli
