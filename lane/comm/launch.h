#pragma once
#include <optional>
#include <string>
#include <vector>

namespace lane {

// The ranks that some launcher started this process among: torchrun (RANK, WORLD_SIZE, LOCAL_RANK, ...), Open MPI
// (OMPI_COMM_WORLD_*), MPICH and PMI (PMI_*), Slurm (SLURM_*), or Lane itself. Empty when there is none.
// Throws Error{kInvalidArgument} when the variables contradict each other and Error{kUnsupported} when they speak of
// several hosts.
struct LaunchedRank {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  std::string launcher;  // "lane", "torchrun", "Open MPI", "PMI", "Slurm"
  std::string job;       // the same on all ranks of this start, different for every other
};
std::optional<LaunchedRank> launched_rank();

// Starts this program again, with the same arguments (those of main() after the program's name), as `num_ranks` ranks
// of one job on this machine, and waits for them. Rank 0 keeps standard input; all share standard output and error.
// When a rank fails, the others get the time of LANE_TIMEOUT_MS and two seconds to report and leave, then they are
// killed, stopped ones at once; none survives this process. Nothing is printed unless no rank could say it.
//
// Interrupts (SIGINT, SIGTERM) reach rank 0 alone: all ranks stay in the terminal's process group, so that Ctrl-Z and
// fg hold for the whole job, but the others start with both signals ignored; what is sent to this process only is
// passed on to rank 0. A second one, half a second later or more, kills all ranks at once.
//
// Call it before this process has other threads. Returns the exit status for main(): 0 when all ranks returned 0, else
// that of the first rank that failed (128 + signal if killed).
int run_local_ranks(int num_ranks, const std::vector<std::string>& arguments);

}  // namespace lane
