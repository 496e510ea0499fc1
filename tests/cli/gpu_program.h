// The program on a machine with GPUs, for tests that start it.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "lane/base/error.h"
#include "lane/base/file.h"
#include "lane/device/device_info.h"

namespace lane::test {

// Where it was built, or beside this test where both were brought to a machine with GPUs.
inline const std::string kLane =
    file_exists(LANE_BINARY) ? LANE_BINARY
                             : std::filesystem::read_symlink("/proc/self/exe").replace_filename("lane").string();

// Asked in a child, so that this process holds nothing on a GPU.
template <class Ask>
int64_t in_child(Ask&& ask) {
  int ends[2];
  if (::pipe(ends) != 0) return -1;
  const pid_t child = ::fork();
  if (child == 0) {
    int64_t answer = -1;
    try {
      answer = ask();
    } catch (const Error&) {
    }
    ::_exit(::write(ends[1], &answer, sizeof answer) == sizeof answer ? 0 : 1);
  }
  ::close(ends[1]);
  int64_t answer = -1;
  if (::read(ends[0], &answer, sizeof answer) != sizeof answer) answer = -1;
  ::close(ends[0]);
  ::waitpid(child, nullptr, 0);
  return answer;
}
inline int64_t count_gpus() {
  return in_child([] { return static_cast<int64_t>(num_gpus()); });
}

}  // namespace lane::test
