#include "cli/shape_flags.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/model/config.h"
#include "lane/plan/known_shapes.h"

namespace lane::cli {
namespace {

// "/models/Llama-3-8B/" and "/models/Llama-3-8B/config.json" are both "Llama-3-8B".
std::string name_of_path(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  std::filesystem::path named(path);
  if (named.filename() == "config.json" && named.has_parent_path()) named = named.parent_path();
  return named.filename().empty() ? path : named.filename().string();
}

}  // namespace

void ShapeFlags::add_to(CLI::App& command) {
  CLI::Option* by_name = command.add_option(
      "--model,-m", model,
      fmt::format("A public model ({}), or a folder with config.json", fmt::join(plan::known_shape_names(), ", ")));
  if (!model.empty()) by_name->capture_default_str();
  command.add_option("--config", config, "A model's config.json")->excludes(by_name);
}

std::pair<std::string, plan::ModelShape> ShapeFlags::finish() const {
  constexpr int64_t kConfigLimit = int64_t{1} << 24;
  if (!config.empty()) return {name_of_path(config), parse_model_config(read_file(config, kConfigLimit), config).shape};
  if (const auto known = plan::known_shape(model)) return {model, *known};
  std::error_code unreadable;
  if (!model.empty() && std::filesystem::is_directory(model, unreadable))
    return {name_of_path(model), load_model_config(model).shape};
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("--model {}: expected a folder with config.json or one of {}; or give --config FILE",
                          model.empty() ? "is missing" : model, fmt::join(plan::known_shape_names(), ", ")));
}

}  // namespace lane::cli
