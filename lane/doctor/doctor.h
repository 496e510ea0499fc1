#pragma once
#include <map>
#include <string>
#include <vector>

#include "lane/base/json.h"
#include "lane/inventory/inventory.h"
#include "lane/plan/parallel.h"

// What is wrong with a machine, or with the settings of its communication libraries, and what to do about it. Nothing
// here changes anything.
namespace lane::doctor {

enum class Verdict : uint8_t { kOk, kNote, kWarning, kFatal, kUnknown };  // kNote: worth knowing, nothing to do
std::string_view name_of(Verdict verdict);

struct Evidence {
  std::string source, value;  // a file, call or variable, and what it says
};

struct Finding {
  std::string id;  // "pcie-downgraded": also the heading in docs/doctor.md
  Verdict verdict = Verdict::kOk;
  std::string what;  // one sentence: what was seen and what was expected
  std::vector<Evidence> evidence;
  double cost_us = 0;     // of a decode step of the model asked about; 0: none, or it cannot be told
  std::string cost_why;   // how the cost was reckoned
  std::string fix, undo;  // commands or sentences; nothing runs them
};

// For whom costs are reckoned.
struct Workload {
  std::string model_name;
  plan::ModelShape shape;
  plan::ParallelPlan plan;
  int batch = 1;
};

// All checks, the worst findings first. A check that could not run gives kUnknown with what it would need.
std::vector<Finding> examine(const inventory::Inventory& inventory, const Workload& workload);

// Variables in force, by where they come from, the strongest last: files such as /etc/nccl.conf, then the environment.
struct EnvironmentSource {
  std::string name;  // "/etc/nccl.conf", "environment"
  std::vector<std::pair<std::string, std::string>> variables;
  bool is_file = false;               // an nccl.conf: of a name that is set twice the first counts
  std::vector<std::string> problems;  // of a file: lines that NCCL passes over, "line 3: ..."
};
// `nccl_version`: 22809 for 2.28.9; 0 if unknown, then rules that depend on it say so. `inventory` may be null.
std::vector<Finding> lint_environment(const std::vector<EnvironmentSource>& sources, int nccl_version,
                                      const inventory::Inventory* inventory);
// nccl.conf: NAME=value lines, # comments, as NCCL itself reads it: a line that it would pass over becomes one of
// `problems`. Error{kCorruptData} names file and line if it is no text at all.
EnvironmentSource parse_conf(std::string_view text, const std::string& where);

// Every id that a finding can have; each is a heading of docs/doctor.md.
std::vector<std::string> finding_ids();

// Fatal, warnings, what could not be told, notes, what is well; the dearest first among equals.
void put_worst_first(std::vector<Finding>& findings);

// 22809 from "2.28.9" or "NCCL 2.28.9+cuda12.9"; 0: it is not said.
int nccl_version_of(std::string_view text);

// 0: ok (notes too), 1: warnings, 2: fatal, 3: something could not be told and nothing worse was found.
// strict: what could not be told counts as a warning.
int exit_status(const std::vector<Finding>& findings, bool strict);

Json to_json(const std::vector<Finding>& findings);
std::string to_text(const std::vector<Finding>& findings, bool colour, bool verbose);  // verbose: also what is well

}  // namespace lane::doctor
