#pragma once
#include <sched.h>

#include <chrono>
#include <string>

#include "lane/base/error.h"

namespace lane {

// One turn of a spin loop: busy for the first few hundred turns, then it lets other threads of this core run.
// Ranks may outnumber cores, so a spin that never yields would keep the very peer it waits for off the CPU.
inline void spin_turn(int turn) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
  if (turn > 256) sched_yield();
}

// Spins until `ready()`. `describe()` runs only on failure and says who waited for what.
template <class Ready, class Describe>
void wait_until(Ready&& ready, std::chrono::nanoseconds limit, Describe&& describe) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + limit;
  for (int turn = 0; !ready(); ++turn) {
    spin_turn(turn);
    if (turn % 256 == 255 && Clock::now() > deadline)  // a clock read costs more than a poll
      throw Error(ErrorCode::kTimeout, describe());
    if (turn == 1 << 20) turn = 1 << 10;
  }
}

}  // namespace lane
