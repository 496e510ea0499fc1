#include <fmt/format.h>

#include <charconv>

#include "lane/base/error.h"
#include "lane/base/settings.h"
#include "lane/comm/launch.h"
#include "lane/comm/launch/link.h"
#include "lane/comm/launch/slurm.h"

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

// How many of the ranks are on this host, and on how many hosts they are, as far as the launcher says.
void set_hosts(const Launcher& launcher, LaunchedRank& result) {
  auto local_size = integer(launcher.local_size);
  if (result.launcher == "Slurm") {
    result.num_hosts = integer("SLURM_STEP_NUM_NODES").value_or(0);
    if (const auto text = launcher_variable("SLURM_STEP_TASKS_PER_NODE")) {
      const std::vector<int> tasks = expand_tasks_per_node(*text);
      result.num_hosts = static_cast<int>(tasks.size());
      const int node = integer("SLURM_NODEID").value_or(0);
      if (node >= result.num_hosts)
        throw Error(ErrorCode::kInvalidArgument,
                    fmt::format("SLURM_NODEID={} and SLURM_STEP_TASKS_PER_NODE={} contradict each other", node, *text));
      local_size = tasks[node];
    }
  } else if (result.launcher == "torchrun") {
    result.num_hosts = integer("GROUP_WORLD_SIZE").value_or(0);
  }
  result.local_rank = integer(launcher.local_rank).value_or(result.num_hosts > 1 ? 0 : result.rank);
  // With several hosts, no less than what fits this rank; the ranks themselves find out who shares a host.
  result.local_size = local_size.value_or(result.num_hosts > 1 ? result.local_rank + 1 : result.size);
}

std::string at_port(const std::string& host, const std::string& job) {
  // Not MASTER_PORT: torchrun listens there itself. Ranks of one job come to the same one without asking.
  const int port = port_of(job);
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

// mpirun's own address: "1234.0;tcp://127.0.0.1,10.0.0.1:43211". Rank 0 is there unless told otherwise.
std::string mpirun_host() {
  std::string uri = launcher_variable("OMPI_MCA_orte_hnp_uri").value_or("");
  const size_t start = uri.find("tcp://");
  if (start == std::string::npos) return "";
  uri = uri.substr(start + 6, uri.find(';', start) - start - 6);
  uri = uri.substr(0, uri.rfind(':'));
  for (size_t at = 0; at <= uri.size();) {
    const size_t comma = std::min(uri.find(',', at), uri.size());
    const std::string host = uri.substr(at, comma - at);
    if (!host.empty() && !host.starts_with("127.")) return host;
    at = comma + 1;
  }
  return "";
}

// Where the ranks meet if they are on several hosts; empty if they are on one.
std::string rendezvous_of(const LaunchedRank& seat) {
  if (const std::string said = setting("LANE_RENDEZVOUS"); !said.empty()) return said;
  const bool emulates_hosts = !setting("LANE_HOST").empty();
  if (seat.local_size == seat.size && seat.num_hosts <= 1 && !emulates_hosts) return "";
  if (const auto address = launcher_variable("MASTER_ADDR")) return at_port(*address, seat.job);
  if (seat.local_size == seat.size && seat.num_hosts <= 1) return at_port("127.0.0.1", seat.job);
  if (seat.launcher == "Slurm")
    for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_NODELIST"})
      if (const auto hosts = launcher_variable(name)) return at_port(expand_hostlist(*hosts).front(), seat.job);
  if (seat.launcher == "Open MPI")
    if (const std::string host = mpirun_host(); !host.empty()) return at_port(host, seat.job);
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} started {} ranks on several hosts, but nothing says where they meet: set LANE_RENDEZVOUS "
                          "to host:port of the host of rank 0, with any port that is free there, on all ranks",
                          seat.launcher, seat.size));
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
    set_hosts(launcher, result);
    if (result.local_size < 1 || result.local_size > *size || result.local_rank >= result.local_size)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{} says local rank {} of {} for rank {} of {}, which cannot be", name, result.local_rank,
                              result.local_size, *rank, *size));
    result.job = job_of(result.launcher);
    if (result.job.empty() && *size > 1)
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{}={} of {}={}, but nothing names the job: set LANE_JOB to the same new name on all ranks, "
                      "or MASTER_ADDR and MASTER_PORT",
                      launcher.rank, *rank, launcher.size, *size));
    if (*size > 1) result.rendezvous = rendezvous_of(result);
    return result;
  }
  return std::nullopt;
}

JoinOptions join_options(const LaunchedRank& rank) {
  return {.rank = rank.rank,
          .size = rank.size,
          .job = rank.job,
          .rendezvous = rank.rendezvous,
          .local_rank = rank.local_rank};
}

}  // namespace lane
