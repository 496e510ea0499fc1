#pragma once
#include <sys/signalfd.h>
#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lane/base/file.h"

namespace lane {

// Processes that this one started; those that still run die with it.
class Children {
 public:
  struct Program {
    std::string name;                    // "rank 3": for messages
    std::string path;                    // empty: this program itself
    std::vector<std::string> arguments;  // with the program's name
    std::vector<std::string> variables;  // "NAME=value", all of them
    int input = -1;                      // standard input; -1: this process's, kNoInput: nothing to read
    bool takes_signals = false;          // else it starts with SIGINT and SIGTERM ignored
  };
  static constexpr int kNoInput = -2;

  Children() = default;
  Children(const Children&) = delete;
  ~Children();

  void start(Program program);
  void kill_all();
  void kill_stopped();  // these cannot leave by themselves
  void signal(size_t which, int number);

  // Takes note of those that have ended or were stopped. Of several that fail at about the same time, one that was
  // killed (not from here) is the cause: the others could still report and return.
  void collect();
  std::string running() const;  // "rank 0 (pid 4711), rank 1 (pid 4712)"; empty if all have ended
  bool runs(size_t which) const { return children_[which].pid > 0; }
  int exit_status(size_t which) const {
    return children_[which].exit_status;
  }  // of one that ended, as a shell shows it
  int first_failure() const { return first_failure_; }
  bool any_reported() const { return any_reported_; }  // one failed without being killed, so it could say why

 private:
  struct Child {
    std::string name;
    pid_t pid;  // 0: it has ended
    bool stopped = false, killed_here = false;
    int exit_status = 0;
  };
  std::vector<Child> children_;
  int first_failure_ = 0;
  std::chrono::steady_clock::time_point failed_at_{};
  bool any_reported_ = false;
};

// This process's variables with `own` in place of their old values.
std::vector<std::string> environment_with(std::vector<std::string> own);
// The variables that make a process a rank.
std::vector<std::string> rank_variables(int rank, int size, int local_rank, int local_size, const std::string& job);
std::string random_job_name();

// SIGCHLD, SIGINT and SIGTERM are taken one by one from here instead of interrupting, and writing to a pipe that nobody
// reads is an error instead of the end.
class Signals {
 public:
  Signals();
  ~Signals();
  int fd() const { return fd_.get(); }  // readable when there is one
  std::optional<signalfd_siginfo> next() const;

 private:
  sigset_t set_, before_;
  Fd fd_;
};

// What a launcher does about its children from time to time: after a failure it waits for the others to report and
// leave, then kills them.
class Supervision {
 public:
  // Call after every wait. False once all children have ended.
  bool go_on(Children& children);
  // One Ctrl-C may come twice, from the terminal and from a process; half a second later it is another one.
  enum class Interrupt { kFirst, kEcho, kSecond };
  Interrupt interrupt();
  bool interrupted() const { return interrupted_at_.has_value(); }

 private:
  std::optional<std::chrono::steady_clock::time_point> kill_at_, interrupted_at_;
  bool killed_ = false;
};

}  // namespace lane
