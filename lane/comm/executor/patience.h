#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>

#include "lane/base/trace.h"
#include "lane/base/wait.h"

namespace lane {

// How a wait goes on that did not end at once. At first it keeps its core busy: one that is given away while anything
// else runs comes back a time slice later. Where ranks share cores it gives up after a few µs, because the peer may
// need just that core. Over a network it then sleeps until something arrives. Over shared memory, where nothing wakes
// it, it offers its core for a while (on a free one this costs a fraction of a microsecond a turn) and then sleeps a
// sixteenth of the time already waited, so that an idle group costs next to nothing and no wait is stretched by much.
class Patience {
 public:
  Patience(std::chrono::nanoseconds limit, bool own_core, bool over_network)
      : limit_ns_(limit.count()),
        spin_ns_(spin_ns(own_core, over_network)),
        turns_per_look_(over_network && !own_core ? 1 : 32),
        over_network_(over_network) {}

  // Something moved: the deadline counts from now.
  void start_again() {
    turn_ = 0;
    start_ns_ = 0;
    first_seen_[0] = first_seen_[1] = 0;
  }

  // True when it is time to look for reasons to end the wait, and to sleep.
  bool turn() {
    if (++turn_ % turns_per_look_ != 0) {
      spin_turn(is_yielding_ ? kYieldingTurn : kBusyTurn);
      return false;
    }
    const int64_t now = now_ns();
    if (start_ns_ == 0) {
      start_ns_ = looked_ns_ = now;
      deadline_ns_ = now + limit_ns_;
      is_yielding_ = false;
      pause_ns_ = 0;
    }
    // A process that was stopped itself must not blame its peers for the time it did not run.
    if (now - looked_ns_ > kOwnStop) deadline_ns_ += now - looked_ns_;
    looked_ns_ = now;
    const int64_t waited = now - start_ns_;
    if (waited < spin_ns_) return false;
    is_yielding_ = !over_network_ && waited <= kPatientAfter;
    if (!is_yielding_) turn_ = turns_per_look_ - 1;  // one look at the links after each sleep
    pause_ns_ = waited <= kPatientAfter ? 0 : std::min<int64_t>(waited / 16, kLongestPause);
    return true;
  }

  // Long enough to ask why. A wait for a network sleeps at once, and most such waits end by what they wait for.
  bool is_long() const { return looked_ns_ - start_ns_ > (over_network_ ? kPatientAfter : 0); }
  bool is_over() const { return looked_ns_ > deadline_ns_; }
  double waited_s() const { return static_cast<double>(looked_ns_ - start_ns_) * 1e-9; }
  // How long to sleep where nothing wakes the sleeper; zero: offer the core only.
  std::chrono::nanoseconds pause() const { return std::chrono::nanoseconds(pause_ns_); }

  // How long a sign has been seen in this wait; zero the first time.
  enum Sign { kLeft, kBroken };
  std::chrono::nanoseconds seen_for(Sign sign) {
    if (first_seen_[sign] == 0) first_seen_[sign] = looked_ns_;
    return std::chrono::nanoseconds(looked_ns_ - first_seen_[sign]);
  }

 private:
  static constexpr int64_t spin_ns(bool own_core, bool over_network) {
    if (!own_core) return over_network ? 0 : 2'000;
    return over_network ? 100'000 : 300'000;
  }

  static constexpr int kBusyTurn = 0, kYieldingTurn = 1000;  // for spin_turn()
  static constexpr int64_t kPatientAfter = 2'000'000, kLongestPause = 1'000'000, kOwnStop = 500'000'000;
  int64_t limit_ns_, spin_ns_;
  int turns_per_look_;
  bool over_network_;
  bool is_yielding_ = false;
  int turn_ = 0;
  int64_t start_ns_ = 0, looked_ns_ = 0, deadline_ns_ = 0, pause_ns_ = 0;
  int64_t first_seen_[2] = {};
};

}  // namespace lane
