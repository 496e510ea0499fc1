// The subcommands. Each add_ function declares its flags on `app` and stores in `run` what main() calls when that
// subcommand was chosen; it returns the exit status.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "lane/base/trace.h"

namespace lane::cli {

struct Program {
  std::vector<std::string> arguments;  // as given, the program's name left out: ranks are started with the same
  std::function<int()> run;
  int64_t start_ns = now_ns();
  int error_status = 1;  // kExitError, unless the command's own statuses say something else by it
};

inline constexpr int kExitOk = 0, kExitError = 1, kExitUsage = 2, kExitInterrupted = 130;

void add_generate(CLI::App& app, Program& program);
void add_run_batch(CLI::App& app, Program& program);
void add_bench(CLI::App& app, Program& program);
void add_bench_allreduce(CLI::App& bench, Program& program);
void add_bench_import(CLI::App& bench, Program& program);
void add_bench_latency(CLI::App& bench, Program& program);
void add_bench_nccl(CLI::App& bench, Program& program);
void add_bench_throughput(CLI::App& bench, Program& program);
void add_doctor(CLI::App& app, Program& program);
void add_launch(CLI::App& app, Program& program);
void add_tune(CLI::App& app, Program& program);
void add_tune_nccl(CLI::App& tune, Program& program);
void add_tokenize(CLI::App& app, Program& program);
void add_place(CLI::App& app, Program& program);
void add_plan(CLI::App& app, Program& program);
void add_plan_budget(CLI::App& plan, Program& program);
void add_plan_schedule(CLI::App& plan, Program& program);
void add_plan_simulate(CLI::App& plan, Program& program);
void add_plan_step(CLI::App& plan, Program& program);
void add_plan_validate(CLI::App& plan, Program& program);
void add_env(CLI::App& app, Program& program);

}  // namespace lane::cli
