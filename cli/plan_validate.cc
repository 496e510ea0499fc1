#include <fmt/format.h>

#include "cli/commands.h"
#include "lane/base/json.h"
#include "lane/plan/validation.h"

namespace lane::cli {
namespace {

int run(bool json) {
  const std::vector<plan::CheckSection> sections = plan::validate_plan();
  if (json) {
    Json all = {{"schema", 1}, {"sections", Json::array()}};
    for (const plan::CheckSection& section : sections) {
      Json checks = Json::array();
      for (const plan::Check& check : section.checks)
        checks.push_back({{"what", check.what},
                          {"result", check.result},
                          {"goal", check.goal},
                          {"reached", check.reached},
                          {"numbers", check.numbers}});
      all["sections"].push_back({{"id", section.id}, {"title", section.title}, {"checks", checks}});
    }
    fmt::print("{}\n", all.dump(1));
    return kExitOk;
  }
  fmt::print(
      "# How far the planner is off\n\n"
      "What `lane plan` predicts, held against what was measured or published. Made by `lane plan validate`; a test "
      "makes it again and\ncompares. [planning.md](../planning.md) explains the methods, "
      "[plan_validation.json](results/plan_validation.json) has the numbers.\n");
  for (const plan::CheckSection& section : sections) {
    fmt::print("\n## {}\n\n{}\n\n| what | result | goal | reached |\n| --- | --- | --- | --- |\n", section.title,
               section.text);
    for (const plan::Check& check : section.checks)
      fmt::print("| {} | {} | {} | {} |\n", check.what, check.result, check.goal,
                 check.goal.empty() ? ""
                 : check.reached    ? "yes"
                                    : "**no**");
  }
  return kExitOk;
}

}  // namespace

void add_plan_validate(CLI::App& plan, Program& program) {
  CLI::App* command = plan.add_subcommand(
      "validate", "How far predictions are off from what was measured: the page docs/performance/plan_validation.md");
  command->group("");  // for those who work on Lane
  auto json = std::make_shared<bool>(false);
  command->add_flag("--json", *json, "One JSON document");
  command->callback([&program, json] { program.run = [json] { return run(*json); }; });
}

}  // namespace lane::cli
