#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace lane::plan {

// Where a figure comes from, best first.
enum class Basis : uint8_t {
  kMeasured,      // this hardware, this number of ranks, this size: read from a table
  kInterpolated,  // between sizes, or between numbers of ranks, of such tables
  kExtrapolated,  // a model with constants that were measured elsewhere
  kDatasheet,     // a vendor's peak, times the share of it that was measured elsewhere
};
constexpr std::string_view name_of(Basis basis) {
  constexpr std::string_view kNames[] = {"measured", "interpolated", "extrapolated", "datasheet"};
  return kNames[static_cast<int>(basis)];
}

// A time, how sure one may be of it, and why. docs/planning.md says which validation error each interval is.
struct Estimate {
  double seconds = 0, low_s = 0, high_s = 0;
  Basis basis = Basis::kMeasured;
  std::string source = {};

  Estimate times(double count) const { return {seconds * count, low_s * count, high_s * count, basis, source}; }
};

// One after the other. Errors of a model go the same way everywhere in a step, so that the bounds are added and not
// their squares. The sum is as good as the worst of its parts.
inline Estimate operator+(const Estimate& a, const Estimate& b) {
  if (b.seconds == 0 && b.high_s == 0) return a;
  if (a.seconds == 0 && a.high_s == 0) return b;
  return {a.seconds + b.seconds, a.low_s + b.low_s, a.high_s + b.high_s, std::max(a.basis, b.basis),
          a.source == b.source ? a.source : a.source + "; " + b.source};
}

}  // namespace lane::plan
