#pragma once
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <vector>

#include "lane/base/error.h"
#include "lane/base/file.h"

extern char** environ;

namespace lane {

// A child process whose standard output and error are read here. Its end is the end of all who inherited them, so
// wait() proves that no process is left behind.
class Spawned {
 public:
  Spawned(const std::vector<std::string>& command, const std::vector<std::string>& variables = {},
          const std::string& input = "") {
    int out[2], in[2];
    if (::pipe2(out, O_CLOEXEC) != 0 || ::pipe2(in, O_CLOEXEC) != 0) throw_system_error("making a pipe");
    output_ = Fd(out[0]);
    const Fd out_end(out[1]), in_end(in[0]), in_start(in[1]);
    if (::write(in_start.get(), input.data(), input.size()) < 0) throw_system_error("writing into a pipe");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in_end.get(), STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out_end.get(), STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out_end.get(), STDERR_FILENO);
    std::vector<std::string> arguments = command, environment = variables;
    for (char** variable = environ; *variable; ++variable) environment.emplace_back(*variable);
    const int error = posix_spawnp(&pid_, arguments[0].c_str(), &actions, nullptr, pointers(arguments).data(),
                                   pointers(environment).data());
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw Error(ErrorCode::kSystem, "spawning " + command[0]);
  }
  ~Spawned() {
    if (pid_ > 0) ::kill(pid_, SIGKILL), ::waitpid(pid_, nullptr, 0);
  }
  Spawned(Spawned&& other) noexcept
      : pid_(std::exchange(other.pid_, 0)), output_(std::move(other.output_)), text_(std::move(other.text_)) {}

  int pid() const { return pid_; }
  const std::string& text() const { return text_; }

  // Reads on until `wanted` has been written. False if it was not within the limit.
  bool read_until(const std::string& wanted, std::chrono::milliseconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (text_.find(wanted) == std::string::npos)
      if (!read_some(deadline)) return false;
    return true;
  }

  struct Result {
    bool ended = false;  // it and everybody it started
    int status = -1;     // as a shell shows it
    std::string text;
    double seconds = 0;
  };
  Result wait(std::chrono::milliseconds limit = std::chrono::seconds(30)) {
    const auto start = std::chrono::steady_clock::now();
    while (read_some(start + limit)) continue;
    Result result{.ended = ended_, .text = text_};
    if (ended_) {
      int status = 0;
      ::waitpid(std::exchange(pid_, 0), &status, 0);
      result.status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return result;
  }

 private:
  static std::vector<char*> pointers(std::vector<std::string>& strings) {
    std::vector<char*> result;
    for (std::string& string : strings) result.push_back(string.data());
    result.push_back(nullptr);
    return result;
  }
  bool read_some(std::chrono::steady_clock::time_point deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd poll{output_.get(), POLLIN, 0};
    if (left <= 0 || ::poll(&poll, 1, static_cast<int>(left)) <= 0) return false;
    char buffer[4096];
    const ssize_t got = ::read(output_.get(), buffer, sizeof(buffer));
    if (got > 0) text_.append(buffer, static_cast<size_t>(got));
    ended_ = got == 0;
    return got > 0;
  }

  pid_t pid_ = 0;
  Fd output_;
  std::string text_;
  bool ended_ = false;
};

}  // namespace lane
