#pragma once
#include <optional>
#include <string>
#include <vector>

#include "lane/comm/communicator.h"

namespace lane {

// The ranks that some launcher started this process among: torchrun (RANK, WORLD_SIZE, LOCAL_RANK, ...), Open MPI
// (OMPI_COMM_WORLD_*), MPICH and PMI (PMI_*), Slurm (SLURM_*), or Lane itself. Empty when there is none.
// Throws Error{kInvalidArgument} when the variables contradict each other, or when the ranks are on several hosts and
// nothing says where they meet.
struct LaunchedRank {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  int num_hosts = 0;       // 0: not known
  std::string launcher;    // "lane", "torchrun", "Open MPI", "PMI", "Slurm"
  std::string job;         // the same on all ranks of this start, different for every other
  std::string rendezvous;  // "host:port" where rank 0 listens; empty when all ranks are on this host
};
std::optional<LaunchedRank> launched_rank();

// How it joins the others: Communicator::join(join_options(*launched_rank())).
JoinOptions join_options(const LaunchedRank& rank);

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

// A job on several hosts: this program is started there through a remote shell, one per host, called as
// `remote_shell... HOST COMMAND`, and starts the ranks of its host. The job's secret, the settings and the arguments go
// through its standard input, never over a command line. Without a remote shell all run here, as if each entry were a
// host of its own (LANE_HOST).
//
// Standard input goes to rank 0, on the first host; all that is written comes here. Failures, interrupts and the exit
// status are as with run_local_ranks(); a remote side whose standard input ends kills its ranks, so that nothing
// outlives this process. Call it before this process has other threads.
struct HostsToLaunch {
  struct Host {
    std::string name;
    int num_ranks = 1;
  };
  std::vector<Host> hosts;
  std::vector<std::string> remote_shell;  // empty: none
  int port = 0;                           // of the rendezvous on the first host; 0: one derived from the job's name
  std::string directory;                  // to work in, on all hosts
  std::vector<std::string> arguments;     // of the ranks, the program's name left out
};
// "a:2,b:2" or "a,b"; the lines of a host file are "a", "a:2" or "a slots=2", with comments after #. Both throw
// Error{kInvalidArgument}.
std::vector<HostsToLaunch::Host> parse_hosts(const std::string& list);
std::vector<HostsToLaunch::Host> parse_host_file(const std::string& content, const std::string& name);
int launch_on_hosts(const HostsToLaunch& job);

// The remote side: starts the ranks that launch_on_hosts() describes on standard input.
int launch_host_ranks();

}  // namespace lane
