#include "cli/commands.h"

namespace lane::cli {

void add_plan(CLI::App& app, Program& program) {
  CLI::App* plan = app.add_subcommand(
      "plan", "What would happen: the time of a decode step and a prefill on any cluster, schedules of collectives");
  plan->require_subcommand(0, 1);  // its own options make the budget
  add_plan_budget(*plan, program);
  add_plan_step(*plan, program);
  add_plan_schedule(*plan, program);
  add_plan_simulate(*plan, program);
  add_plan_validate(*plan, program);
}

}  // namespace lane::cli
