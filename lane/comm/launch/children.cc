#include "lane/comm/launch/children.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/base/settings.h"

namespace lane {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

// Between fork and exec: only calls that are allowed there.
[[noreturn]] void become(const Children::Program& program, pid_t parent, char* const* argv, char* const* envp) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before the line above
  for (const int number : {SIGINT, SIGTERM}) ::signal(number, program.takes_signals ? SIG_DFL : SIG_IGN);
  int input = program.input;
  if (input == Children::kNoInput) input = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (input >= 0) ::dup2(input, STDIN_FILENO);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (program.path.empty())
    ::execve("/proc/self/exe", argv, envp);
  else
    ::execvpe(program.path.c_str(), argv, envp);
  for (const std::string_view text :
       {std::string_view("lane: this program does not run: "),
        program.path.empty() ? std::string_view("/proc/self/exe") : std::string_view(program.path),
        std::string_view("\n")})
    if (::write(STDERR_FILENO, text.data(), text.size()) < 0) break;
  ::_exit(127);
}

}  // namespace

Children::~Children() {
  kill_all();
  for (Child& child : children_)
    if (child.pid > 0) ::waitpid(child.pid, nullptr, 0);
}

void Children::start(Program program) {
  const std::vector<char*> argv = pointers(program.arguments), envp = pointers(program.variables);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) throw_system_error("starting " + program.name);
  if (pid == 0) become(program, parent, argv.data(), envp.data());
  children_.push_back({program.name, pid});
}

void Children::kill_all() {
  for (Child& child : children_)
    if (child.pid > 0) child.killed_here = true, ::kill(child.pid, SIGKILL);
}

void Children::kill_stopped() {
  for (Child& child : children_)
    if (child.pid > 0 && child.stopped) child.killed_here = true, ::kill(child.pid, SIGKILL);
}

void Children::signal(size_t which, int number) {
  if (children_[which].pid > 0) ::kill(children_[which].pid, number);
}

void Children::collect() {
  for (Child& child : children_) {
    int status;
    while (child.pid > 0 && ::waitpid(child.pid, &status, WNOHANG | WUNTRACED | WCONTINUED) == child.pid) {
      child.stopped = WIFSTOPPED(status);
      if (WIFSTOPPED(status) || WIFCONTINUED(status)) continue;
      child.pid = 0;
      child.exit_status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
      if (child.exit_status == 0) continue;
      // A launcher on another host passes on how its rank was killed; 255 is a remote shell's own failure.
      const bool killed = WIFSIGNALED(status) || (child.exit_status > 128 && child.exit_status < 255);
      if (!WIFSIGNALED(status)) any_reported_ = true;
      const bool is_first = first_failure_ == 0;
      if (is_first) failed_at_ = Clock::now();
      const bool at_once = Clock::now() - failed_at_ < std::chrono::milliseconds(500) && first_failure_ < 128;
      if (is_first || (killed && at_once && !child.killed_here)) first_failure_ = child.exit_status;
    }
  }
}

std::string Children::running() const {
  std::string list;
  for (const Child& child : children_)
    if (child.pid > 0) list += fmt::format("{}{} (pid {})", list.empty() ? "" : ", ", child.name, child.pid);
  return list;
}

std::vector<std::string> environment_with(std::vector<std::string> own) {
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

std::vector<std::string> rank_variables(int rank, int size, int local_rank, int local_size, const std::string& job) {
  return {fmt::format("RANK={}", rank), fmt::format("WORLD_SIZE={}", size), fmt::format("LOCAL_RANK={}", local_rank),
          fmt::format("LOCAL_WORLD_SIZE={}", local_size), "LANE_JOB=" + job};
}

std::string random_job_name() {
  uint64_t bits[2];
  if (::getrandom(bits, sizeof(bits), 0) != sizeof(bits)) throw_system_error("drawing a name for the job");
  return fmt::format("{:016x}{:016x}", bits[0], bits[1]);
}

Signals::Signals() {
  sigemptyset(&set_);
  for (const int number : {SIGCHLD, SIGINT, SIGTERM, SIGPIPE}) sigaddset(&set_, number);
  ::sigprocmask(SIG_BLOCK, &set_, &before_);
  fd_ = Fd(::signalfd(-1, &set_, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd_) throw_system_error("waiting for signals");
}

Signals::~Signals() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

std::optional<signalfd_siginfo> Signals::next() const {
  signalfd_siginfo info;
  if (::read(fd_.get(), &info, sizeof(info)) != sizeof(info)) return std::nullopt;
  return info;
}

bool Supervision::go_on(Children& children) {
  children.collect();
  if (children.running().empty()) return false;
  if (children.first_failure() == 0) return true;
  if (!kill_at_) kill_at_ = Clock::now() + timeout_setting() + std::chrono::seconds(2);
  children.kill_stopped();
  if (Clock::now() > *kill_at_ && !killed_) {
    log(LogLevel::kError, "killed, because it did not end after another one failed: " + children.running());
    children.kill_all();
    killed_ = true;
  }
  return true;
}

Supervision::Interrupt Supervision::interrupt() {
  if (interrupted_at_)
    return Clock::now() - *interrupted_at_ > std::chrono::milliseconds(500) ? Interrupt::kSecond : Interrupt::kEcho;
  interrupted_at_ = Clock::now();
  return Interrupt::kFirst;
}

}  // namespace lane
