// One rank of a job of processes, for the tests: rank_main SCENARIO NUM_RANKS VICTIM [TIMEOUT_MS]
// Without a launcher it starts its ranks itself, on as many hosts as NUM_RANKS says: 3, or a:2,b:1 for emulated ones,
// through the remote shell that LANE_TEST_RSH names if there is one. In most scenarios the rank VICTIM does something
// in the middle of a run of collectives, and the others must end with a line that names it.
#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "lane/base/log.h"
#include "lane/base/process.h"
#include "lane/comm/communicator.h"
#include "lane/comm/launch.h"

namespace lane {
namespace {

constexpr int kBefore = 50;  // collectives that go well

void say(const std::string& text) {
  const std::string line = text + "\n";  // one write, so that lines of ranks do not mix
  if (::write(STDERR_FILENO, line.data(), line.size()) < 0) ::_exit(3);
}

void all_reduce(Communicator& group, DType dtype, int64_t count) {
  Stream stream;
  const Buffer data(dtype, {1, 1, 1, count});
  group.all_reduce(data.view(), data.view(), ReduceOp::kSum, stream);
}

void checked_all_reduce(Communicator& group, int64_t count) {
  Stream stream;
  std::vector<float> data(static_cast<size_t>(count), static_cast<float>(group.rank() + 1));
  const TensorView all{data.data(), DType::kF32, {1, 1, 1, count}, {}};
  group.all_reduce(all, all, ReduceOp::kSum, stream);
  const int n = group.size();
  for (const float x : data)
    if (x != static_cast<float>(n * (n + 1) / 2)) throw Error(ErrorCode::kBug, fmt::format("wrong sum {}", x));
}

void misbehave(const std::string& scenario, Communicator& group, std::chrono::milliseconds timeout) {
  Stream stream;
  if (scenario == "kill") ::raise(SIGKILL);
  if (scenario == "stop") ::raise(SIGSTOP);
  if (scenario == "throw") throw Error(ErrorCode::kCorruptData, "layer 3 is missing");
  if (scenario == "exit") ::_exit(0);
  if (scenario == "elsewhere") std::this_thread::sleep_for(timeout * 20);  // alive, but not here
  if (scenario == "slow") std::this_thread::sleep_for(timeout * 6 / 10);
  if (scenario == "wrong_size") all_reduce(group, DType::kF32, 77);
  if (scenario == "wrong_dtype") all_reduce(group, DType::kBF16, 2000);
  if (scenario == "wrong_collective") group.barrier(stream);
  if (scenario == "kill_in_message") {
    std::thread([] { ::raise(SIGKILL); }).detach();
    for (;;) all_reduce(group, DType::kF32, 8 << 20);
  }
}

int run(const LaunchedRank& seat, const std::string& scenario, int victim, std::chrono::milliseconds timeout) {
  JoinOptions options = join_options(seat);
  options.timeout = timeout;
  if (scenario == "wrong_algorithm" && seat.rank == victim) options.algorithm = "ring";
  if (scenario == "interrupt" && seat.rank == 0) watch_for_interrupt();
  Communicator group = Communicator::join(options);
  try {
    if (scenario == "interrupt") {
      // Rank 0 decides, as the engine does: the others follow.
      if (seat.rank == 0) say("ready");
      while (group.broadcast_text(interrupted() ? "stop" : "go on", 0) == "go on")
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      say(fmt::format("rank {} ended", seat.rank));
      return 0;
    }
    if (scenario == "endless" || scenario == "few") {
      if (seat.rank == 0) say("rank 0 runs");
      for (int i = 0; scenario == "endless" || i < 8; ++i) checked_all_reduce(group, 5000);
      say(fmt::format("rank {} of {} done", seat.rank, seat.size));
      return 0;
    }
    if (scenario == "wrong_algorithm") all_reduce(group, DType::kF32, 1000);
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < kBefore; ++i) checked_all_reduce(group, i * 100);
      checked_all_reduce(group, 300'000);
      if (seat.rank == victim) {
        if (scenario == "leave") return 0;
        misbehave(scenario, group, timeout);
      }
      if (scenario == "kill_in_message") all_reduce(group, DType::kF32, 8 << 20);
      if (scenario.starts_with("wrong_")) all_reduce(group, DType::kF32, 1000);
    }
  } catch (const Error& error) {
    group.abort(error.what());
    throw;
  }
  char stdin_byte = 0;
  const bool has_input = ::read(STDIN_FILENO, &stdin_byte, 1) == 1;
  say(fmt::format("rank {} of {} done{}", seat.rank, seat.size, has_input ? ", with input" : ""));
  return 0;
}

}  // namespace
}  // namespace lane

int main(int argc, char** argv) {
  using namespace lane;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  int rank = -1;
  try {
    if (!arguments.empty() && arguments[0] == "launch") return launch_host_ranks();
    if (arguments.size() < 3) return 2;
    const auto seat = launched_rank();
    if (!seat && arguments[1].find(':') != std::string::npos) {
      HostsToLaunch job{.hosts = parse_hosts(arguments[1]), .arguments = arguments};
      if (const auto shell = launcher_variable("LANE_TEST_RSH")) job.remote_shell = {*shell};
      return launch_on_hosts(job);
    }
    if (!seat) return run_local_ranks(std::stoi(arguments[1]), arguments);
    rank = seat->rank;
    set_log_prefix(fmt::format("[rank {}] ", rank));
    const int timeout_ms = arguments.size() > 3 ? std::stoi(arguments[3]) : 20'000;
    return run(*seat, arguments[0], std::stoi(arguments[2]), std::chrono::milliseconds(timeout_ms));
  } catch (const Error& error) {
    say(fmt::format("rank {} failed ({}): {}", rank, static_cast<int>(error.code()), error.what()));
    return 1;
  }
}
