#include "cli/commands.h"

namespace lane::cli {

void add_doctor(CLI::App&, Program&) {}

}  // namespace lane::cli
