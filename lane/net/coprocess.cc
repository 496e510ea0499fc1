#include "lane/net/coprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "lane/base/error.h"
#include "lane/base/json.h"

namespace lane::net {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kGoodbye{2000};  // for a library to take its leave of the others

// The environment of this process, with `own` in place of variables of the same name.
std::vector<std::string> environment_with(const std::vector<std::string>& own) {
  std::vector<std::string> all = own;
  for (char** variable = environ; *variable; ++variable) {
    const std::string_view text = *variable;
    const auto is_it = [&](const std::string& mine) { return text.starts_with(mine.substr(0, mine.find('=') + 1)); };
    if (std::none_of(own.begin(), own.end(), is_it)) all.emplace_back(text);
  }
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& string : strings) result.push_back(string.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

Coprocess::Coprocess(std::vector<std::string> command, const std::vector<std::string>& variables)
    : name_(command[0]), errors_(::memfd_create("standard error", MFD_CLOEXEC)) {
  int to_child[2], from_child[2];
  if (::pipe2(to_child, O_CLOEXEC) != 0) throw_system_error("a pipe to " + name_);
  Fd child_in(to_child[0]);
  input_ = Fd(to_child[1]);
  if (::pipe2(from_child, O_CLOEXEC) != 0) throw_system_error("a pipe from " + name_);
  output_ = Fd(from_child[0]);
  const Fd child_out(from_child[1]);
  std::vector<std::string> environment = environment_with(variables);
  const std::vector<char*> argv = pointers(command), envp = pointers(environment);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) throw_system_error("starting " + name_);
  if (pid_ > 0) return;
  // Between fork and exec: only calls that are allowed there. An interrupt at the keyboard is the owner's business.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
  ::signal(SIGINT, SIG_IGN);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::dup2(child_in.get(), STDIN_FILENO);
  ::dup2(child_out.get(), STDOUT_FILENO);
  if (errors_) ::dup2(errors_.get(), STDERR_FILENO);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

Coprocess::~Coprocess() {
  if (pid_ <= 0) return;
  input_ = {};
  const auto deadline = Clock::now() + kGoodbye;
  while (::waitpid(pid_, nullptr, WNOHANG) == 0) {
    if (Clock::now() > deadline) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
      break;
    }
    std::this_thread::sleep_for(milliseconds(2));
  }
}

void Coprocess::write_line(const std::string& line) {
  const std::string text = line + "\n";
  std::string_view left = text;
  // A pipe without a reader raises a signal on this thread; it is to be an error instead.
  sigset_t broken_pipe, before;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
  bool ok = true;
  while (!left.empty() && ok) {
    const ssize_t wrote = ::write(input_.get(), left.data(), left.size());
    if (wrote > 0) left.remove_prefix(static_cast<size_t>(wrote));
    ok = wrote > 0 || (wrote < 0 && errno == EINTR);
  }
  const timespec now{0, 0};
  if (!ok) ::sigtimedwait(&broken_pipe, nullptr, &now);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!ok) throw Error(ErrorCode::kPeerLost, name_ + " has ended" + last_words());
}

std::string Coprocess::read_line(milliseconds limit) {
  const auto deadline = Clock::now() + limit;
  for (;;) {
    const size_t end = read_.find('\n');
    if (end != std::string::npos) {
      std::string line = read_.substr(0, end);
      read_.erase(0, end + 1);
      return line;
    }
    const auto left = std::chrono::duration_cast<milliseconds>(deadline - Clock::now());
    pollfd ready{output_.get(), POLLIN, 0};
    if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(std::min<int64_t>(left.count(), 60'000))) < 0) {
      if (left.count() > 0 && errno == EINTR) continue;
      throw Error(ErrorCode::kTimeout, fmt::format("{} did not answer within {:.3g} s{}", name_,
                                                   static_cast<double>(limit.count()) * 1e-3, last_words()));
    }
    if (ready.revents == 0) continue;
    char bytes[4096];
    const ssize_t got = ::read(output_.get(), bytes, sizeof(bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw Error(ErrorCode::kPeerLost, name_ + " has ended" + last_words());
    read_.append(bytes, static_cast<size_t>(got));
  }
}

// The last line with a letter in it: libraries like rulers around what they say.
std::string Coprocess::last_words() const {
  if (!errors_) return "";
  char bytes[8192];
  struct stat status {};
  ::fstat(errors_.get(), &status);
  const ssize_t got =
      ::pread(errors_.get(), bytes, sizeof(bytes), std::max<off_t>(0, status.st_size - off_t{sizeof(bytes)}));
  std::string_view text(bytes, static_cast<size_t>(std::max<ssize_t>(got, 0)));
  while (!text.empty()) {
    const size_t before = text.find_last_of('\n');
    const std::string_view line = before == std::string_view::npos ? text : text.substr(before + 1);
    if (std::any_of(line.begin(), line.end(), [](unsigned char c) { return std::isalpha(c) != 0; }))
      return ": " + in_quotes(line);
    text = before == std::string_view::npos ? "" : text.substr(0, before);
  }
  return "";
}

}  // namespace lane::net
