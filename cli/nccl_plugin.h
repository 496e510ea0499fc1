#pragma once
#include <string>

namespace lane::cli {

// Where liblane-nccl-tuner.so is: beside an installed program, or where it was built; else its bare name, for which
// NCCL looks as the linker does.
std::string nccl_plugin_path();

}  // namespace lane::cli
