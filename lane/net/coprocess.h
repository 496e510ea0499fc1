#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "lane/base/file.h"

namespace lane::net {

// A child process that is asked line by line. It dies with its owner, and with this process.
class Coprocess {
 public:
  // `variables`: NAME=value, on top of this process's.
  Coprocess(std::vector<std::string> command, const std::vector<std::string>& variables);
  ~Coprocess();  // ends it: first by an end of input, then by a signal
  Coprocess(const Coprocess&) = delete;
  Coprocess& operator=(const Coprocess&) = delete;

  void write_line(const std::string& line);
  // Throws Error{kTimeout} when the time is over, kPeerLost when it has ended; both quote the last that it wrote on
  // standard error.
  std::string read_line(std::chrono::milliseconds limit);

 private:
  std::string last_words() const;

  std::string name_;
  Fd input_, output_, errors_;  // errors_: a file without a name
  std::string read_;
  int pid_ = 0;
};

}  // namespace lane::net
