#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace lane::test {
namespace {

struct Pipe {
  int ends[2];
  Pipe() {
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe: " + std::string(std::strerror(errno)));
  }
  ~Pipe() {
    close_end(0);
    close_end(1);
  }
  void close_end(int end) {
    if (ends[end] >= 0) ::close(ends[end]);
    ends[end] = -1;
  }
};

// Reads what is there; closes the pipe at its end.
void drain(Pipe& pipe, std::string& to) {
  char block[65536];
  const ssize_t got = ::read(pipe.ends[0], block, sizeof block);
  if (got > 0) to.append(block, static_cast<size_t>(got));
  if (got == 0) pipe.close_end(0);
}

}  // namespace

Outcome run(const std::vector<std::string>& command, const RunOptions& options) {
  Pipe in, out, err;
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::dup2(in.ends[0], 0);
    ::dup2(out.ends[1], 1);
    ::dup2(err.ends[1], 2);
    if (!options.sees_gpus) ::setenv("CUDA_VISIBLE_DEVICES", "", 1);
    for (const auto& [name, value] : options.environment) ::setenv(name.c_str(), value.c_str(), 1);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  in.close_end(0);
  out.close_end(1);
  err.close_end(1);
  ::signal(SIGPIPE, SIG_IGN);
  ::fcntl(in.ends[1], F_SETFL, O_NONBLOCK);

  Outcome outcome;
  size_t sent = 0;
  bool watching = static_cast<bool>(options.watch);
  const auto deadline = std::chrono::steady_clock::now() + options.limit;
  while (out.ends[0] >= 0 || err.ends[0] >= 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      ::kill(pid, SIGKILL);
      ::waitpid(pid, nullptr, 0);
      throw std::runtime_error(command[0] + " did not end in time; standard error: " + outcome.err);
    }
    if (sent < options.input.size()) {
      const ssize_t wrote = ::write(in.ends[1], options.input.data() + sent, options.input.size() - sent);
      if (wrote > 0) sent += static_cast<size_t>(wrote);
      if (wrote < 0 && errno != EAGAIN) sent = options.input.size();  // nobody reads any more
    }
    if (sent == options.input.size()) in.close_end(1);
    pollfd ready[2] = {{out.ends[0], POLLIN, 0}, {err.ends[0], POLLIN, 0}};
    ::poll(ready, 2, watching || in.ends[1] >= 0 ? 1 : 100);
    if (ready[0].revents != 0) drain(out, outcome.out);
    if (ready[1].revents != 0) drain(err, outcome.err);
    if (watching) watching = options.watch(pid, outcome.err);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

}  // namespace lane::test
