#include <fmt/format.h>

#include <charconv>

#include "lane/base/error.h"
#include "lane/base/settings.h"
#include "lane/comm/launch.h"

namespace lane {
namespace {

// Which variables a launcher sets. Null: it has none for this.
struct Launcher {
  const char* name;
  const char* rank;
  const char* size;
  const char* local_rank;
  const char* local_size;
};

// The first whose rank and size are set counts. Open MPI and MPICH come before Slurm, inside whose jobs they run; only
// `srun` sets a step, a batch script by itself is not a rank.
constexpr Launcher kLaunchers[] = {
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
     "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"PMI", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", nullptr},
};

std::optional<int> integer(const char* name) {
  const auto text = name ? launcher_variable(name) : std::nullopt;
  if (!text) return std::nullopt;
  int value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc{} || end != text->data() + text->size() || value < 0)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("{}={}: expected a whole number, 0 or more", name, *text));
  return value;
}

// All variables that are set, joined: equal on the ranks of one start.
std::string joined(std::initializer_list<const char*> names) {
  std::string text;
  for (const char* name : names)
    if (const auto value = launcher_variable(name)) text += (text.empty() ? "" : "/") + *value;
  return text;
}

std::string job_of(const std::string& launcher) {
  if (launcher == "lane") return setting("LANE_JOB");
  if (launcher == "torchrun") {
    // torchrun numbers its restarts: the ranks of a new attempt do not meet what is left of the last.
    const std::string id = joined({"TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT"});
    return id.empty() ? "" : "torchrun/" + id;
  }
  std::string id;
  if (launcher == "Slurm") id = joined({"SLURM_JOB_ID", "SLURM_STEP_ID"});
  if (launcher == "Open MPI") id = joined({"PMIX_NAMESPACE"});
  if (launcher == "Open MPI" && id.empty()) id = joined({"OMPI_MCA_ess_base_jobid", "OMPI_MCA_orte_hnp_uri"});
  if (launcher == "PMI") id = joined({"PMIX_NAMESPACE", "PMI_JOBID", "PMI_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID"});
  if (id.empty()) return setting("LANE_JOB");
  return launcher + "/" + id;
}

}  // namespace

std::optional<LaunchedRank> launched_rank() {
  for (const Launcher& launcher : kLaunchers) {
    const std::string name = launcher.name;
    if (name == "Slurm" && !launcher_variable("SLURM_STEP_ID")) continue;
    const auto rank = integer(launcher.rank), size = integer(launcher.size);
    if (!rank && !size) continue;
    if (!rank || !size)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} is set but {} is not: a rank needs both", rank ? launcher.rank : launcher.size,
                              rank ? launcher.size : launcher.rank));
    if (*size < 1 || *rank >= *size)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}={} and {}={} contradict each other", launcher.rank, *rank, launcher.size, *size));
    if (name == "Slurm" && *size == 1) continue;  // a shell inside `srun --pty` is no rank

    LaunchedRank result;
    result.rank = *rank;
    result.size = *size;
    result.launcher = name;
    if (name == "torchrun" && !setting("LANE_JOB").empty()) result.launcher = "lane";
    result.local_rank = integer(launcher.local_rank).value_or(*rank);
    result.local_size = integer(launcher.local_size).value_or(*size);
    if (result.local_size < 1 || result.local_size > *size || result.local_rank >= result.local_size)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} says local rank {} of {} for rank {} of {}, which cannot be", name, result.local_rank,
                              result.local_size, *rank, *size));
    const int num_nodes = integer("SLURM_STEP_NUM_NODES").value_or(1);
    if (result.local_size < *size || (name == "Slurm" && num_nodes > 1))
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("{} started {} ranks on several hosts: this version joins the ranks of one host only",
                              name, *size));
    result.job = job_of(result.launcher);
    if (result.job.empty() && *size > 1)
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{}={} of {}={}, but nothing names the job: set LANE_JOB to the same new name on all ranks, "
                      "or MASTER_ADDR and MASTER_PORT",
                      launcher.rank, *rank, launcher.size, *size));
    return result;
  }
  return std::nullopt;
}

}  // namespace lane
