#include "cli/demo_model.h"

#include <filesystem>

#include "lane/base/error.h"

namespace lane::cli {

std::string demo_model_folder() {
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored);
  const auto is_model = [&](const fs::path& folder) { return fs::exists(folder / "config.json", ignored); };
  if (const fs::path installed = program.parent_path().parent_path() / "share/lane/models/demo"; is_model(installed))
    return installed.string();
  for (fs::path above = program.parent_path(); above.has_relative_path(); above = above.parent_path())
    if (is_model(above / "models/demo")) return (above / "models/demo").string();
  throw Error(ErrorCode::kInvalidArgument,
              "the demo model was not found beside " + program.string() + "; name a Hugging Face folder with --model");
}

}  // namespace lane::cli
