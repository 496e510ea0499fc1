#include "lane/comm/launch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <string_view>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

std::string random_job_name() {
  uint64_t bits[2];
  if (::getrandom(bits, sizeof(bits), 0) != sizeof(bits)) throw_system_error("drawing a name for the job");
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

// This process's variables with those that make a rank in place of their old values.
std::vector<std::string> environment_of(int rank, int num_ranks, const std::string& job) {
  std::vector<std::string> own = {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", num_ranks),
                                  fmt::format("LOCAL_RANK={}", rank), fmt::format("LOCAL_WORLD_SIZE={}", num_ranks),
                                  "LANE_JOB=" + job};
  const size_t num_own = own.size();
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view text = *variable;
    bool replaced = false;
    for (size_t i = 0; i < num_own; ++i)
      if (text.starts_with(std::string_view(own[i]).substr(0, own[i].find('=') + 1))) replaced = true;
    if (!replaced) own.emplace_back(text);
  }
  return own;
}

// The ranks as child processes; those that still run die with it.
class Ranks {
 public:
  ~Ranks() {
    kill_all();
    for (Child& child : children_)
      if (child.pid > 0) ::waitpid(child.pid, nullptr, 0);
  }

  void start(int num_ranks, std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), program_invocation_name);
    const std::string job = random_job_name();
    const std::vector<char*> argv = pointers(arguments);
    const pid_t parent = ::getpid();
    for (int rank = 0; rank < num_ranks; ++rank) {
      std::vector<std::string> variables = environment_of(rank, num_ranks, job);
      const std::vector<char*> envp = pointers(variables);
      const pid_t pid = ::fork();
      if (pid < 0) throw_system_error(fmt::format("starting rank {}", rank));
      if (pid == 0) become(rank, parent, argv.data(), envp.data());
      children_.push_back({pid, false});
    }
  }

  void kill_all() {
    for (const Child& child : children_)
      if (child.pid > 0) ::kill(child.pid, SIGKILL);
  }
  void signal_rank_0(int number) {
    if (children_[0].pid > 0) ::kill(children_[0].pid, number);
  }

  // Takes note of ranks that have ended or were stopped. Of several that ended at once, one that was killed is the
  // cause: the others could still report and return.
  void collect() {
    const bool known = first_failure_ != 0;
    for (Child& child : children_) {
      int status;
      while (child.pid > 0 && ::waitpid(child.pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == child.pid) {
        child.stopped = WIFSTOPPED(status);
        if (WIFSTOPPED(status) || WIFCONTINUED(status)) continue;
        child.pid = 0;
        const bool killed = WIFSIGNALED(status);
        const int exit_status = killed ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        if (exit_status != 0 && !killed) any_reported_ = true;
        if (exit_status != 0 && (first_failure_ == 0 || (killed && !known))) first_failure_ = exit_status;
      }
    }
  }
  // A stopped rank cannot leave by itself.
  void kill_stopped() {
    for (const Child& child : children_)
      if (child.pid > 0 && child.stopped) ::kill(child.pid, SIGKILL);
  }
  std::string running() const {
    std::string list;
    for (size_t rank = 0; rank < children_.size(); ++rank)
      if (children_[rank].pid > 0)
        list += fmt::format("{}rank {} (pid {})", list.empty() ? "" : ", ", rank, children_[rank].pid);
    return list;
  }
  int first_failure() const { return first_failure_; }
  bool any_reported() const { return any_reported_; }

 private:
  struct Child {
    pid_t pid;  // 0: it has ended
    bool stopped;
  };

  // Between fork and exec: only calls that are allowed there.
  [[noreturn]] static void become(int rank, pid_t parent, char* const* argv, char* const* envp) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);  // it died before the line above
    if (rank > 0) {
      ::signal(SIGINT, SIG_IGN);
      ::signal(SIGTERM, SIG_IGN);
      const int null = ::open("/dev/null", O_RDONLY);
      if (null >= 0) ::dup2(null, STDIN_FILENO);
      if (null > STDIN_FILENO) ::close(null);
    }
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve("/proc/self/exe", argv, envp);
    constexpr char kText[] = "a rank could not be started: /proc/self/exe does not run\n";
    if (::write(STDERR_FILENO, kText, sizeof(kText) - 1) < 0) ::_exit(127);
    ::_exit(127);
  }

  std::vector<Child> children_;
  int first_failure_ = 0;
  bool any_reported_ = false;  // a rank failed without being killed, so it could say why
};

// Signals that this process takes one by one instead of being interrupted by them.
class BlockedSignals {
 public:
  BlockedSignals() {
    sigemptyset(&set_);
    for (const int number : {SIGCHLD, SIGINT, SIGTERM}) sigaddset(&set_, number);
    ::sigprocmask(SIG_BLOCK, &set_, &before_);
  }
  ~BlockedSignals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

  // False when none came in time.
  bool next(milliseconds limit, siginfo_t* info) const {
    const timespec wait{limit.count() / 1000, limit.count() % 1000 * 1'000'000};
    return ::sigtimedwait(&set_, info, &wait) > 0;
  }

 private:
  sigset_t set_, before_;
};

}  // namespace

int run_local_ranks(int num_ranks, const std::vector<std::string>& arguments) {
  const milliseconds patience = timeout_setting() + std::chrono::seconds(2);
  const BlockedSignals signals;
  Ranks ranks;
  ranks.start(num_ranks, arguments);

  std::optional<Clock::time_point> kill_at, interrupted_at;
  bool killed = false;
  for (; !ranks.running().empty(); ranks.collect()) {
    if (ranks.first_failure() != 0 && !kill_at) kill_at = Clock::now() + patience;
    if (kill_at) ranks.kill_stopped();
    if (kill_at && Clock::now() > *kill_at && !killed) {
      log(LogLevel::kError, "killed, because it did not end after another rank failed: " + ranks.running());
      ranks.kill_all();
      killed = true;
    }
    siginfo_t info;
    if (!signals.next(milliseconds(100), &info) || info.si_signo == SIGCHLD) continue;
    if (!interrupted_at) {
      interrupted_at = Clock::now();
      // The terminal sent it to rank 0 as well; a process sent it here alone.
      if (info.si_code <= 0) ranks.signal_rank_0(info.si_signo);
    } else if (Clock::now() - *interrupted_at > milliseconds(500)) {
      ranks.kill_all();
    }
  }
  if (ranks.first_failure() != 0 && !ranks.any_reported() && !interrupted_at)
    log(LogLevel::kError,
        fmt::format("all ranks that failed were killed, the first by signal {}", ranks.first_failure() - 128));
  return ranks.first_failure();
}

}  // namespace lane
