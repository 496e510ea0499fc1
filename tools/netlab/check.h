#pragma once
#include <string>

#include "tools/netlab/laboratory.h"

namespace lane::netlab {

// Measures the paths of `options.topology` from its first host: to the last host of its rack, and to the last host of
// all. Prints asked against measured, as a table or as JSON. Returns an exit status.
int check(RunOptions options, bool json);

// What `check` runs in every host; `plan` is its own.
int run_check_in_host(const std::string& plan);

}  // namespace lane::netlab
