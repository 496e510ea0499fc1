#pragma once
#include <cstdint>
#include <string>

namespace lane::cli {

// A bar on standard error for work that takes long: "loading  [=====>    ]  52 %  1.2 GB/s  3 s left". It shows only on
// a terminal, draws at most ten times a second, and clears itself away at the end.
class ProgressBar {
 public:
  enum class Unit { kBytes, kItems };
  ProgressBar(std::string label, Unit unit, bool wanted);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(int64_t done, int64_t total, const std::string& note = {});
  void clear();

 private:
  std::string label_;
  Unit unit_;
  bool shown_ = false, wanted_;
  int64_t start_ns_, last_draw_ns_ = 0;
};

}  // namespace lane::cli
