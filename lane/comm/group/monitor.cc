#include "lane/comm/group/monitor.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/comm/bootstrap/door.h"

namespace lane {

Monitor::Monitor(Board& board, std::vector<Fd> connections, std::unique_ptr<Door> door,
                 std::chrono::milliseconds period)
    : board_(board),
      connections_(std::move(connections)),
      door_(std::move(door)),
      period_(period),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!stop_) throw_system_error("making an event to stop the monitor with");
  board_.beat();
  sigset_t all, before;  // signals are the program's, not this thread's
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Monitor::~Monitor() {
  const uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof(one)) < 0) std::terminate();  // an event counter takes a one
  thread_.join();
}

void Monitor::run() {
  std::vector<pollfd> polls;
  std::vector<int> ranks;
  for (;;) {
    polls.assign(1, {stop_.get(), POLLIN, 0});
    ranks.clear();
    for (int rank = 0; rank < static_cast<int>(connections_.size()); ++rank)
      if (connections_[rank]) {
        polls.push_back({connections_[rank].get(), POLLRDHUP, 0});
        ranks.push_back(rank);
      }
    if (door_) door_->add_polls(polls);
    const int events = ::poll(polls.data(), polls.size(), static_cast<int>(period_.count()));
    board_.beat();
    if (events <= 0) continue;
    if (polls[0].revents != 0) return;
    for (size_t i = 0; i < ranks.size(); ++i)
      if (polls[i + 1].revents != 0) watch(ranks[i]);
    if (door_) try {
        door_->serve();
      } catch (const Error& error) {
        log(LogLevel::kWarn, std::string("late comers are no longer answered: ") + error.what());
        door_.reset();
      }
  }
}

void Monitor::watch(int rank) {
  connections_[rank] = Fd();
  if (!board_.has_left(rank))
    board_.post_failure(ErrorCode::kPeerLost, board_.name_of(rank) + " died " + board_.activity_of(rank));
}

}  // namespace lane
