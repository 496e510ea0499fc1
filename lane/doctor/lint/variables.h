#pragma once
#include <cstdint>
#include <span>
#include <string_view>

// The variables that NCCL reads: those of its user guide (env.rst), and the names alone of those that only its source
// has, as of 2.30.7 (June 2026).
namespace lane::doctor {

inline constexpr int kNewestKnownNccl = 23007;
inline constexpr int64_t kAny = INT64_MAX;

enum class ValueKind : uint8_t { kText, kNumber, kWord };

struct KnownVariable {
  std::string_view name;
  int since = 0;  // of NCCL, 22400 for 2.24; 0: always, or not documented
  ValueKind kind = ValueKind::kText;
  int64_t low = 0, high = kAny;  // of numbers
  std::string_view words = {};   // "a|b", whatever the case
  int old_since = 0;             // deprecated, or removed if `is_gone`; 0: it is not
  bool is_gone = false;
  const char* instead = "";
};

std::span<const KnownVariable> known_variables();  // sorted by name
const KnownVariable* find_known(std::string_view name);

}  // namespace lane::doctor
