#include "lane/plan/known_shapes.h"

namespace lane::plan {
namespace {

struct Known {
  const char* name;
  ModelShape shape;
};

constexpr Known kKnown[] = {
    // vocabulary, hidden, intermediate; layers, heads, KV heads, head size
    {"llama-3-8b", {128256, 4096, 14336, 32, 32, 8, 128}},      {"llama-3-70b", {128256, 8192, 28672, 80, 64, 8, 128}},
    {"llama-3-405b", {128256, 16384, 53248, 126, 128, 8, 128}}, {"llama-2-7b", {32000, 4096, 11008, 32, 32, 32, 128}},
    {"llama-2-70b", {32000, 8192, 28672, 80, 64, 8, 128}},      {"mistral-7b", {32000, 4096, 14336, 32, 32, 8, 128}},
    {"qwen2.5-7b", {152064, 3584, 18944, 28, 28, 4, 128}},      {"qwen2.5-72b", {152064, 8192, 29568, 80, 64, 8, 128}},
    {"qwen3-8b", {151936, 4096, 12288, 36, 32, 8, 128}},        {"qwen3-32b", {151936, 5120, 25600, 64, 64, 8, 128}},
};

}  // namespace

std::optional<ModelShape> known_shape(std::string_view name) {
  for (const Known& known : kKnown)
    if (name == known.name) return known.shape;
  return std::nullopt;
}

std::vector<std::string> known_shape_names() {
  std::vector<std::string> names;
  for (const Known& known : kKnown) names.emplace_back(known.name);
  return names;
}

}  // namespace lane::plan
