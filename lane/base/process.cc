#include "lane/base/process.h"

#include <time.h>

#include <csignal>
#include <cstdint>

namespace lane {
namespace {

volatile std::sig_atomic_t signal_seen = 0;
volatile int64_t seen_ns = 0;

// One Ctrl-C may arrive twice, from the terminal and from the launcher: only one that comes half a second later is the
// second. (clock_gettime may be called in a signal handler.)
void on_signal(int number) {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  const int64_t now_ns = int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  if (signal_seen && now_ns - seen_ns > 500'000'000) {
    std::signal(number, SIG_DFL);
    std::raise(number);
  }
  if (!signal_seen) seen_ns = now_ns;
  signal_seen = 1;
}

}  // namespace

void watch_for_interrupt() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() { return signal_seen != 0; }

}  // namespace lane
