#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "lane/plan/schedule.h"

namespace lane::plan {

struct DrawingText {
  std::string title = {}, subtitle = {};
  std::vector<std::string> captions = {};  // of the rounds; may be empty
  std::string chunk_size = {};             // "16 KiB"; for the legend
};

// An SVG: a lane for each rank, grouped by node, the rounds from left to right, an arrow for each message (for one by
// multicast, as many as it has receivers). On the arrows are the numbers of the chunks as far as there is room for
// them; pointing at an arrow shows all of it. It brings its own background, a dark one where the reader prefers that.
std::string draw(const Schedule& schedule, const Layout& layout, const DrawingText& text = {});

}  // namespace lane::plan
