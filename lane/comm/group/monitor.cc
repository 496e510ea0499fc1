#include "lane/comm/group/monitor.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/log.h"
#include "lane/comm/bootstrap/door.h"
#include "lane/comm/bootstrap/tcp_door.h"

namespace lane {
namespace {

// How often a leader looks for a failure that another rank of its host posted: nothing tells it.
constexpr std::chrono::milliseconds kLook{5};

}  // namespace

Monitor::Monitor(Board& board, Meeting& meeting, std::chrono::milliseconds period)
    : board_(board),
      connections_(std::move(meeting.connections)),
      door_(std::move(meeting.door)),
      tcp_door_(std::move(meeting.tcp_door)),
      period_(period),
      node_of_(meeting.layout.node_of),
      node_(node_of_[board.rank()]),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!stop_) throw_system_error("making an event to stop the monitor with");
  for (int rank = static_cast<int>(node_of_.size()) - 1; rank >= 0; --rank) {
    if (node_of_[rank] >= static_cast<int>(leaders_.size())) leaders_.resize(node_of_[rank] + 1);
    leaders_[node_of_[rank]] = rank;
  }
  for (int node = 0; node < static_cast<int>(meeting.relays.size()); ++node)
    if (meeting.relays[node]) relays_.try_emplace(node, std::move(meeting.relays[node]));
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
  std::vector<int> ranks, nodes;
  for (;;) {
    polls.assign(1, {stop_.get(), POLLIN, 0});
    ranks.clear();
    nodes.clear();
    for (int rank = 0; rank < static_cast<int>(connections_.size()); ++rank)
      if (connections_[rank]) {
        polls.push_back({connections_[rank].get(), POLLRDHUP, 0});
        ranks.push_back(rank);
      }
    for (const auto& [node, relay] : relays_) {
      const int events = POLLIN | (relay.wants_to_send() ? POLLOUT : 0);
      polls.push_back({relay.socket(), static_cast<short>(events), 0});
      nodes.push_back(node);
    }
    if (door_) door_->add_polls(polls);
    if (tcp_door_) tcp_door_->add_polls(polls);
    const auto pause = relays_.empty() ? period_ : std::min(period_, kLook);
    const int events = ::poll(polls.data(), polls.size(), static_cast<int>(pause.count()));
    board_.beat();
    const bool stops = events > 0 && polls[0].revents != 0;
    if (events > 0) {
      const pollfd* poll = polls.data() + 1;
      for (const int rank : ranks)
        if ((poll++)->revents != 0) watch(rank);
      for (const int node : nodes)
        if ((poll++)->revents != 0) listen_to(node);
      if (!stops) serve_doors();
    }
    pass_failure();
    // That a rank left is told at once: its peers wait only briefly for the reason when their connection to it ends.
    if (stops || Clock::now() >= next_tell_ || num_left() != num_left_told_) tell(stops);
    if (!stops) continue;
    for (auto& [node, relay] : relays_) relay.close();
    return;
  }
}

void Monitor::serve_doors() {
  try {
    if (door_) door_->serve();
    if (tcp_door_) tcp_door_->serve();
  } catch (const Error& error) {
    log(LogLevel::kWarn, std::string("late comers are no longer answered: ") + error.what());
    door_.reset();
    tcp_door_.reset();
  }
}

void Monitor::watch(int rank) {
  connections_[rank] = Fd();
  if (!board_.has_left(rank))
    board_.post_failure(ErrorCode::kPeerLost, board_.name_of(rank) + " died " + board_.activity_of(rank));
}

void Monitor::listen_to(int node) {
  Relay& relay = relays_.at(node);
  relay.flush();
  const Relay::News news = relay.receive();
  merge(news, node);
  if (news.ended.empty()) return;
  const int leader = leaders_[node];
  if (!board_.has_left(leader))
    board_.post_failure(ErrorCode::kPeerLost, fmt::format("{} died {}, or its host did ({})", board_.name_of(leader),
                                                          board_.activity_of(leader), news.ended));
  relays_.erase(node);
}

// A leader speaks for the ranks of its host alone; rank 0 speaks for all others.
void Monitor::merge(const Relay::News& news, int from_node) {
  for (const auto& [rank, status] : news.statuses) {
    if (rank < 0 || rank >= static_cast<int>(node_of_.size()) || node_of_[rank] == node_) continue;
    if (board_.rank() == 0 && node_of_[rank] != from_node) continue;
    board_.set_status(rank, status);
  }
  for (const Error& failure : news.failures) board_.post_failure(failure.code(), failure.what());
}

void Monitor::tell(bool is_last) {
  if (relays_.empty()) return;
  next_tell_ = Clock::now() + period_;
  num_left_told_ = num_left();
  std::vector<Relay::RankStatus> statuses;
  for (int rank = 0; rank < static_cast<int>(node_of_.size()); ++rank)
    if (board_.rank() == 0 || node_of_[rank] == node_) {
      Board::Status status = board_.status(rank);
      // Nobody hears of it from here on: it must not look stopped.
      if (is_last && rank != board_.rank()) status.beat_age_ns = -1;
      statuses.push_back({rank, status});
    }
  for (auto& [node, relay] : relays_) relay.send_statuses(statuses, is_last);
}

int Monitor::num_left() const {
  if (relays_.empty()) return 0;
  int count = 0;
  for (int rank = 0; rank < static_cast<int>(node_of_.size()); ++rank) count += board_.has_left(rank);
  return count;
}

void Monitor::pass_failure() {
  if (failure_passed_ || relays_.empty() || !board_.failed()) return;
  failure_passed_ = true;
  const Error failure = board_.failure();
  for (auto& [node, relay] : relays_) relay.send_failure(failure);
}

}  // namespace lane
