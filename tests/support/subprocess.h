// Runs a program to its end, as a person at a shell would, with a time limit.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace lane::test {

struct Outcome {
  int status = -1;  // exit status; 128 + signal if killed
  std::string out, err;
};

struct RunOptions {
  std::string input;                               // standard input
  std::map<std::string, std::string> environment;  // on top of this process's
  std::chrono::milliseconds limit = std::chrono::seconds(60);
  bool sees_gpus = false;  // most tests expect what CPUs do, also where there are GPUs
  // Called with the process id and what has come on standard error so far, a few times a millisecond until it returns
  // false.
  std::function<bool(int pid, const std::string& err)> watch;
};

// Throws std::runtime_error (and kills the program) when the limit passes.
Outcome run(const std::vector<std::string>& command, const RunOptions& options = {});

}  // namespace lane::test
