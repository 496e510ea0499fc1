#include "cli/nccl_plugin.h"

#include <filesystem>

namespace lane::cli {

std::string nccl_plugin_path() {
  namespace fs = std::filesystem;
  constexpr const char* kName = "liblane-nccl-tuner.so";
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  for (const char* folder :
       {"../lib", "../lib64", "../lib/x86_64-linux-gnu", "../lib/aarch64-linux-gnu", "../tools/nccl_tuner"})
    if (const fs::path path = program.parent_path() / folder / kName; fs::exists(path, ignored))
      return fs::weakly_canonical(path, ignored).string();
  return kName;
}

}  // namespace lane::cli
