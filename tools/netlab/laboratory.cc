#include "tools/netlab/laboratory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "tools/netlab/host.h"
#include "tools/netlab/manager.h"

namespace lane::netlab {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kGrace = std::chrono::seconds(5);  // between asking the commands to end and ending them

std::string unguessable_name() {
  uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits) throw_system_error("asking for random numbers");
  return fmt::format("@netlab-{:016x}", bits);
}

sigset_t signals_we_handle() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGCHLD, SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// The first process of the laboratory; never returns.
[[noreturn]] void be_manager(const RunOptions& options, int lifeline, int signals) {
  int status = kExitFailed;
  try {
    // Two ways to learn of the parent's end: the signal, and the lifeline should it have ended before this line.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pollfd parent{lifeline, POLLIN, 0};
    if (::poll(&parent, 1, 0) != 0) ::_exit(kExitFailed);
    status = manage(options, lifeline, signals);
  } catch (const Error& error) {
    fmt::print(stderr, "netlab: {}\n", error.what());
    if (error.code() == ErrorCode::kUnsupported) status = kExitNotAllowed;
  } catch (const std::exception& error) {
    fmt::print(stderr, "netlab: unexpected: {}\n", error.what());
  }
  std::fflush(nullptr);
  ::_exit(status);
}

// Waits for the manager, hands on signals, keeps the time.
int supervise(pid_t manager, int signals, std::chrono::nanoseconds timeout) {
  auto deadline = Clock::now() + timeout;
  bool late = false, stopping = false;
  for (;;) {
    int status = 0;
    if (::waitpid(manager, &status, WNOHANG) == manager) {
      if (late) return kExitTimeout;
      if (WIFEXITED(status)) return WEXITSTATUS(status);
      return stopping ? 128 + SIGTERM : kExitFailed;
    }
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) {
      late = !stopping;
      if (late) fmt::print(stderr, "netlab: the time limit is reached; ending the laboratory (see --timeout)\n");
      ::kill(manager, SIGKILL);
      deadline = Clock::now() + kGrace;  // the kernel needs milliseconds to end the rest
      continue;
    }
    pollfd signal{signals, POLLIN, 0};
    ::poll(&signal, 1, static_cast<int>(std::min<int64_t>(left.count(), 1000)));
    signalfd_siginfo info{};
    if (::read(signals, &info, sizeof info) != sizeof info || info.ssi_signo == SIGCHLD) continue;
    ::kill(manager, static_cast<int>(info.ssi_signo));
    if (!stopping) deadline = std::min(deadline, Clock::now() + kGrace);
    stopping = true;
  }
}

}  // namespace

int run_laboratory(const RunOptions& given) {
  RunOptions options = given;
  if (options.socket.empty()) options.socket = unguessable_name();
  const sigset_t mask = signals_we_handle();
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, &mask, &before);
  const Fd signals(::signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  int ends[2] = {-1, -1};
  if (!signals || ::pipe2(ends, O_CLOEXEC) != 0) throw_system_error("preparing a laboratory");
  Fd lifeline(ends[0]), held(ends[1]);
  const Fd own_processes(::open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
  become_able();
  std::fflush(nullptr);
  const pid_t manager = ::fork();
  // Only this child was to be in the new namespace. A user may not go back; nothing of ours then starts another
  // process.
  if (manager > 0) [[maybe_unused]]
    const int back = ::setns(own_processes.get(), CLONE_NEWPID);
  if (manager < 0) throw_system_error("starting a laboratory");
  if (manager == 0) {
    held = Fd();
    be_manager(options, lifeline.get(), signals.get());
  }
  const int status = supervise(manager, signals.get(), options.timeout);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return status;
}

}  // namespace lane::netlab
