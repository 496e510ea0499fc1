// What the rules about settings share. A rule looks at the variables in force and says what it found.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lane/doctor/doctor.h"

namespace lane::doctor {

// A variable as it is in force, and where that is said.
struct Variable {
  std::string name, value, source;
};

struct Lint {
  const std::vector<EnvironmentSource>& sources;
  std::vector<Variable> variables;  // in force, by name
  int nccl_version = 0;             // 22809; 0: not known
  const inventory::Inventory* inventory = nullptr;

  const Variable* find(std::string_view name) const;
  bool is(std::string_view name, std::string_view value) const;  // set to exactly that
  std::optional<int64_t> number(std::string_view name) const;    // set to a whole number
  const topology::Host* host() const;                            // null: not known
  // NCCL is of this version or a later one; false if it is not known which.
  bool at_least(int version) const { return nccl_version >= version; }
  bool before(int version) const { return nccl_version != 0 && nccl_version < version; }
};

struct Rule {
  std::string_view id;
  std::vector<Finding> (*run)(const Lint&);
};

std::span<const Rule> rules();

// By theme, in lane/doctor/lint/.
std::span<const Rule> name_rules();    // names and values by the table of known variables
std::span<const Rule> nccl_rules();    // what values of NCCL's variables do
std::span<const Rule> device_rules();  // variables that name devices, against the devices there are
std::span<const Rule> other_rules();   // UCX, NVSHMEM, libfabric

std::string version_words(int version);  // "2.28.9"

// The nearest of `names` that is at most a third of its letters away; empty: none is.
std::string nearest_name(std::string_view name, std::span<const std::string_view> names);

std::vector<std::string_view> split(std::string_view text, char separator);
bool same_letters(std::string_view a, std::string_view b);  // whatever their case

std::string words_for(const Variable& variable);  // "NCCL_ALGO=auto", fit for a terminal
Finding about(Verdict verdict, const Variable& variable, std::string what, std::string fix = {},
              std::string cost_why = {});

}  // namespace lane::doctor
