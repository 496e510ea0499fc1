#include "lane/comm/launch.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <cerrno>

#include "lane/base/log.h"
#include "lane/comm/launch/children.h"

namespace lane {

int run_local_ranks(int num_ranks, const std::vector<std::string>& arguments) {
  const Signals signals;
  Children ranks;
  const std::string job = random_job_name();
  std::vector<std::string> command = arguments;
  command.insert(command.begin(), program_invocation_name);
  for (int rank = 0; rank < num_ranks; ++rank)
    ranks.start({.name = fmt::format("rank {}", rank),
                 .arguments = command,
                 .variables = environment_with(rank_variables(rank, num_ranks, rank, num_ranks, job)),
                 .input = rank == 0 ? -1 : Children::kNoInput,
                 .takes_signals = rank == 0});

  Supervision supervision;
  while (supervision.go_on(ranks)) {
    pollfd poll{signals.fd(), POLLIN, 0};
    ::poll(&poll, 1, 100);
    while (const auto info = signals.next()) {
      const int number = static_cast<int>(info->ssi_signo);
      if (number != SIGINT && number != SIGTERM) continue;
      const auto which = supervision.interrupt();
      // The terminal sent it to rank 0 as well; a process sent it here alone.
      if (which == Supervision::Interrupt::kFirst && info->ssi_code <= 0) ranks.signal(0, number);
      if (which == Supervision::Interrupt::kSecond) ranks.kill_all();
    }
  }
  if (ranks.first_failure() != 0 && !ranks.any_reported() && !supervision.interrupted())
    log(LogLevel::kError,
        fmt::format("all ranks that failed were killed, the first by signal {}", ranks.first_failure() - 128));
  return ranks.first_failure();
}

}  // namespace lane
