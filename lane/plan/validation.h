#pragma once
#include <map>
#include <string>
#include <vector>

namespace lane::plan {

// A prediction held against what was measured or published.
struct Check {
  std::string what, result;
  std::string goal = {};                       // empty: none was set
  bool reached = true;                         // of the goal
  std::map<std::string, double> numbers = {};  // of `result`, by name
};

struct CheckSection {
  std::string id, title, text;
  std::vector<Check> checks;
};

// All that docs/performance/plan_validation.md reports, computed anew from the compiled-in tables.
std::vector<CheckSection> validate_plan();

// Its parts.
CheckSection validate_nccl_model();
CheckSection validate_interpolation();
CheckSection validate_models();
CheckSection validate_algorithms();  // NVRAR, MultiShot, crossings
CheckSection validate_scaling();
CheckSection validate_steps();

}  // namespace lane::plan
