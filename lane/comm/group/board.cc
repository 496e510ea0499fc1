#include "lane/comm/group/board.h"

#include <fmt/format.h>
#include <signal.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "lane/base/trace.h"
#include "lane/base/units.h"

namespace lane {

int64_t Board::bytes(int num_ranks) {
  return static_cast<int64_t>(sizeof(Header)) + num_ranks * static_cast<int64_t>(sizeof(Slot));
}

Board::Board(std::shared_ptr<GroupMemory> memory, int rank, std::vector<int> pids, std::vector<std::string> hosts)
    : memory_(std::move(memory)),
      header_(static_cast<Header*>(memory_->board())),
      slots_(reinterpret_cast<Slot*>(header_ + 1)),
      rank_(rank),
      pids_(std::move(pids)),
      hosts_(std::move(hosts)) {}

std::string Board::name_of(int rank) const {
  if (pids_.empty()) return fmt::format("rank {}", rank);
  if (hosts_.empty()) return fmt::format("rank {} (pid {})", rank, pids_[rank]);
  return fmt::format("rank {} (pid {} on {})", rank, pids_[rank], hosts_[rank]);
}

void Board::post_failure(ErrorCode code, const std::string& reason) noexcept {
  uint32_t none = kNone;
  if (!header_->failure.compare_exchange_strong(none, kWriting)) return;
  header_->code = code;
  const size_t length = std::min(reason.size(), sizeof(header_->reason) - 1);
  std::memcpy(header_->reason, reason.data(), length);
  header_->reason[length] = '\0';
  header_->failure.store(kPosted, std::memory_order_release);
}

Error Board::failure() const {
  // A rank killed while it writes the reason leaves none.
  const int64_t deadline = now_ns() + 100'000'000;
  while (header_->failure.load(std::memory_order_acquire) != kPosted) {
    if (now_ns() > deadline) return {ErrorCode::kPeerLost, "a rank failed and died before it could say why"};
    const timespec pause{0, 1'000'000};
    ::nanosleep(&pause, nullptr);
  }
  return {header_->code, header_->reason};
}

void Board::set_doing(OperationKind kind, uint64_t number) noexcept {
  slot(rank_).doing.store(static_cast<uint64_t>(kind) << 56 | number, std::memory_order_relaxed);
}
void Board::set_waiting_for(int peer) noexcept { slot(rank_).waiting_for.store(peer + 1, std::memory_order_relaxed); }
void Board::set_left() noexcept { slot(rank_).left.store(1, std::memory_order_release); }
void Board::beat() noexcept { slot(rank_).beat_ns.store(now_ns(), std::memory_order_relaxed); }

Board::Status Board::status(int rank) const noexcept {
  const Slot& from = slot(rank);
  const int64_t beat_ns = from.beat_ns.load(std::memory_order_relaxed);
  return {.beat_age_ns = beat_ns == 0 ? -1 : std::max<int64_t>(0, now_ns() - beat_ns),
          .doing = from.doing.load(std::memory_order_relaxed),
          .waiting_for = from.waiting_for.load(std::memory_order_relaxed),
          .left = from.left.load(std::memory_order_acquire)};
}

void Board::set_status(int rank, const Status& status) noexcept {
  Slot& to = slot(rank);
  to.beat_ns.store(status.beat_age_ns < 0 ? 0 : now_ns() - status.beat_age_ns, std::memory_order_relaxed);
  to.doing.store(status.doing, std::memory_order_relaxed);
  to.waiting_for.store(status.waiting_for, std::memory_order_relaxed);
  to.left.store(status.left, std::memory_order_release);
}

bool Board::is_running(int rank, std::chrono::nanoseconds limit) const noexcept {
  const int64_t beat_ns = slot(rank).beat_ns.load(std::memory_order_relaxed);
  return beat_ns != 0 && now_ns() - beat_ns <= limit.count();
}

std::string Board::suspect(int peer, std::chrono::nanoseconds limit) const {
  if (slot(peer).beat_ns.load(std::memory_order_relaxed) != 0 && !is_running(peer, limit)) {
    if (!hosts_.empty() && hosts_[peer] != hosts_[rank_])
      return fmt::format("rank {} (pid {} on {}, stopped or cut off?)", peer, pids_[peer], hosts_[peer]);
    const bool gone = !pids_.empty() && ::kill(pids_[peer], 0) != 0 && errno == ESRCH;
    return fmt::format("rank {} (pid {}, {})", peer, pids_[peer], gone ? "gone" : "stopped?");
  }
  std::string text = fmt::format("{}, which is {}", name_of(peer), activity_of(peer));
  // Everybody may be waiting for one that is not the one we wait for.
  const int next = slot(peer).waiting_for.load(std::memory_order_relaxed) - 1;
  if (next >= 0 && next != rank_ && next != peer) text += fmt::format(" and waits for {}", name_of(next));
  return text + ",";
}

std::string Board::activity_of(int rank) const {
  const uint64_t doing = slot(rank).doing.load(std::memory_order_relaxed);
  const auto kind = static_cast<OperationKind>(doing >> 56);
  const uint64_t number = doing & ((uint64_t{1} << 56) - 1);
  if (kind != OperationKind::kNone) return fmt::format("in {} #{}", lane::name_of(kind), number);
  return number == 0 ? "before its first collective" : fmt::format("after #{}", number);
}

}  // namespace lane
