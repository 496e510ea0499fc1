#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "lane/base/error.h"
#include "lane/base/json.h"
#include "lane/base/log.h"
#include "lane/comm/launch.h"
#include "lane/comm/launch/children.h"
#include "lane/comm/launch/link.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;

// Beyond this much input that rank 0 does not read, nothing more is taken; then an interrupt waits behind it, but the
// end of the stream is still seen.
constexpr size_t kMaxInput = 64 << 20;

std::string wait_for_job(LaunchReceiver& receiver) {
  const auto deadline = Clock::now() + std::chrono::seconds(30);
  for (;;) {
    if (const auto word = receiver.next()) {
      if (word->first == LaunchWord::kJob) return word->second;
      break;
    }
    pollfd poll{STDIN_FILENO, POLLIN, 0};
    ::poll(&poll, 1, 1000);
    if (Clock::now() > deadline || (poll.revents != 0 && !receiver.read())) break;
  }
  throw Error(ErrorCode::kInvalidArgument,
              "lane launch --local is what lane launch starts on each host: it reads what to do from standard input, "
              "and nothing of that kind came");
}

}  // namespace

int launch_host_ranks() {
  const Signals signals;
  LaunchReceiver receiver(STDIN_FILENO);
  const Json job = parse_json(wait_for_job(receiver), "what lane launch sent");
  const std::string host = job.at("name");
  const std::string directory = job.at("directory");
  if (!directory.empty() && ::chdir(directory.c_str()) != 0)
    throw_system_error(fmt::format("going to directory {} on host {} (--dir says which)", directory, host));
  const int size = job.at("size"), first_rank = job.at("first_rank"), num_ranks = job.at("num_ranks");
  const bool emulated = job.at("emulated");
  std::vector<std::string> command = job.at("arguments");
  command.insert(command.begin(), program_invocation_name);

  int input[2];
  if (::pipe2(input, O_CLOEXEC) != 0) throw_system_error("making a pipe for standard input");
  Fd input_end(input[0]), input_start(input[1]);
  ::fcntl(input_start.get(), F_SETFL, O_NONBLOCK);
  Children ranks;
  for (int i = 0; i < num_ranks; ++i) {
    const int rank = first_rank + i;
    // Emulated hosts share this one's cores, which the ranks divide by their number here.
    auto variables = rank_variables(rank, size, emulated ? rank : i, emulated ? size : num_ranks, job.at("job"));
    for (const auto& [name, value] : job.at("settings").items())
      variables.push_back(name + "=" + value.get<std::string>());
    ranks.start({.name = fmt::format("rank {}", rank),
                 .arguments = command,
                 .variables = environment_with(variables),
                 .input = rank == 0 ? input_end.get() : Children::kNoInput,
                 .takes_signals = rank == 0});
  }
  input_end = Fd();

  std::string for_rank_0;
  bool input_ended = false, launcher_is_gone = false;
  Supervision supervision;
  while (supervision.go_on(ranks)) {
    pollfd polls[3] = {
        {signals.fd(), POLLIN, 0},
        {launcher_is_gone ? -1 : STDIN_FILENO, static_cast<short>(for_rank_0.size() < kMaxInput ? POLLIN : 0), 0},
        {for_rank_0.empty() ? -1 : input_start.get(), POLLOUT, 0}};
    ::poll(polls, 3, 100);
    while (signals.next()) continue;  // interrupts come from the launcher
    const bool may_read = polls[1].revents & POLLIN;
    if ((polls[1].revents != 0 && !may_read) || (may_read && !receiver.read())) {
      launcher_is_gone = true;
      ranks.kill_all();
    }
    while (const auto word = receiver.next()) {
      if (word->first == LaunchWord::kInput) for_rank_0 += word->second;
      if (word->first == LaunchWord::kInputEnd) input_ended = true;
      if (word->first == LaunchWord::kInterrupt && first_rank == 0) ranks.signal(0, SIGINT);
    }
    if (input_start) write_some(input_start.get(), for_rank_0);
    if (input_ended && for_rank_0.empty()) input_start = Fd();
  }
  if (ranks.first_failure() != 0 && !ranks.any_reported() && !launcher_is_gone)
    log(LogLevel::kError, fmt::format("all ranks on host {} that failed were killed, the first by signal {}", host,
                                      ranks.first_failure() - 128));
  return ranks.first_failure();
}

}  // namespace lane
