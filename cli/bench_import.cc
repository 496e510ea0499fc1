#include "cli/commands.h"

namespace lane::cli {

void add_bench_import(CLI::App&, Program&) {}

}  // namespace lane::cli
