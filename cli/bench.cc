#include "cli/commands.h"

namespace lane::cli {

void add_bench(CLI::App& app, Program& program) {
  CLI::App* command = app.add_subcommand(
      "bench", "Measure: latency of one batch, throughput, all-reduce; a cluster's NCCL; read others' results");
  command->require_subcommand(1);
  add_bench_latency(*command, program);
  add_bench_throughput(*command, program);
  add_bench_allreduce(*command, program);
  add_bench_import(*command, program);
  add_bench_nccl(*command, program);
}

}  // namespace lane::cli
