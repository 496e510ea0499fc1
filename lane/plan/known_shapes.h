#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lane/plan/parallel.h"

namespace lane::plan {

// Public models by name ("llama-3-70b"), for questions that need no checkpoint. From their published config.json files.
std::optional<ModelShape> known_shape(std::string_view name);
std::vector<std::string> known_shape_names();

}  // namespace lane::plan
