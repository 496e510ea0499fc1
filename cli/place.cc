#include "cli/commands.h"

namespace lane::cli {

void add_place(CLI::App&, Program&) {}

}  // namespace lane::cli
