#include "lane/plan/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <optional>

#include "lane/base/random.h"

namespace lane::plan {
namespace {

struct Value {
  std::vector<uint64_t> ranks;  // bit set of contributions; empty: nothing is here
  uint64_t expression = 0;      // hash of the order of combination
  int round = -1;               // in which it came to be

  bool here() const { return !ranks.empty(); }
  int count() const {
    int sum = 0;
    for (const uint64_t word : ranks) sum += std::popcount(word);
    return sum;
  }
};

struct Message {
  Value value;
  int chunk, round;
};

class Replayer {
 public:
  Replayer(const Schedule& schedule, Collective collective, int root)
      : s_(schedule), collective_(collective), root_(root), n_(schedule.num_ranks()) {}

  Replay run() {
    result_.num_contributions.resize(n_);
    for (int rank = 0; rank < n_; ++rank) result_.num_contributions[rank].resize(s_.program[rank].size());
    check_form();
    if (!result_.flaw.empty()) return std::move(result_);
    start();
    for (bool moved = true; moved && result_.flaw.empty();) {
      moved = false;
      for (int rank = 0; rank < n_ && result_.flaw.empty(); ++rank)
        while (result_.flaw.empty() && next_[rank] < s_.program[rank].size() && advance(rank)) {
          ++next_[rank];
          moved = true;
        }
    }
    if (result_.flaw.empty()) check_end();
    return std::move(result_);
  }

 private:
  template <class... Args>
  void flaw(fmt::format_string<Args...> format, Args&&... args) {
    if (result_.flaw.empty()) result_.flaw = fmt::format(format, std::forward<Args>(args)...);
  }

  bool chunk_is_whole_rank() const {
    return collective_ != Collective::kAllReduce && collective_ != Collective::kBroadcast;
  }

  void check_form() {
    if (n_ < 1) return flaw("it has no ranks");
    if (chunk_is_whole_rank() && s_.num_chunks != n_) return flaw("{} chunks for {} ranks", s_.num_chunks, n_);
    for (int rank = 0; rank < n_; ++rank) {
      int round = 0;
      for (const Step& step : s_.program[rank]) {
        const bool needs_peer = step.action != Action::kReduce;
        if (needs_peer && (step.peer < 0 || step.peer >= n_ || step.peer == rank))
          return flaw("rank {} has no peer {}", rank, step.peer);
        if (step.chunk < 0 || step.chunk >= s_.num_chunks) return flaw("there is no chunk {}", step.chunk);
        if (step.round < round) return flaw("rank {} goes back from round {} to {}", rank, round, step.round);
        round = step.round;
      }
    }
  }

  Value own(int rank) const {
    Value value{std::vector<uint64_t>((static_cast<size_t>(n_) + 63) / 64), mix64(static_cast<uint64_t>(rank)), -1};
    value.ranks[static_cast<size_t>(rank) / 64] |= uint64_t{1} << (rank % 64);
    return value;
  }

  void start() {
    next_.assign(n_, 0);
    chunks_.assign(n_, std::vector<Value>(s_.num_chunks));
    links_.assign(static_cast<size_t>(n_) * n_, std::nullopt);
    aside_.assign(n_, {});
    for (int rank = 0; rank < n_; ++rank)
      for (int chunk = 0; chunk < s_.num_chunks; ++chunk) {
        const bool has = collective_ == Collective::kAllReduce || collective_ == Collective::kReduceScatter ||
                         (collective_ == Collective::kBroadcast ? rank == root_ : rank == chunk);
        if (has) chunks_[rank][chunk] = own(rank);
      }
  }

  std::optional<Message>& link(int from, int to) { return links_[static_cast<size_t>(from) * n_ + to]; }

  // a + b as an expression; false if a rank contributed to both.
  bool add(Value& a, const Value& b, int rank, int chunk) {
    for (size_t word = 0; word < a.ranks.size(); ++word) {
      if (const uint64_t twice = a.ranks[word] & b.ranks[word]; twice != 0) {
        flaw("rank {} adds the contribution of rank {} to chunk {} twice", rank,
             word * 64 + static_cast<size_t>(std::countr_zero(twice)), chunk);
        return false;
      }
      a.ranks[word] |= b.ranks[word];
    }
    a.expression = mix64(mix64(a.expression) ^ b.expression);
    return true;
  }

  // False: the rank has to wait.
  bool advance(int rank) {
    const Step& step = s_.program[rank][next_[rank]];
    Value& mine = chunks_[rank][step.chunk];
    int& count = result_.num_contributions[rank][next_[rank]];
    if (step.action == Action::kSend) {
      auto& slot = link(rank, step.peer);
      if (!mine.here()) return flaw("rank {} sends chunk {} before it has it", rank, step.chunk), true;
      if (mine.round >= step.round)
        return flaw("rank {} passes chunk {} on in round {}, which brings it", rank, step.chunk, step.round), true;
      if (slot) return false;
      slot = Message{mine, step.chunk, step.round};
      count = mine.count();
      return true;
    }
    if (step.action == Action::kReduce) {
      reduce(rank, step, mine);
      count = mine.count();
      return true;
    }
    auto& slot = link(step.peer, rank);
    if (step.action == Action::kCollect &&
        std::find(aside_[rank].begin(), aside_[rank].end(), step.peer) != aside_[rank].end())
      return flaw("rank {} sets aside two chunks of rank {} at once", rank, step.peer), true;
    if (!slot) return false;
    if (slot->chunk != step.chunk || slot->round != step.round)
      return flaw("rank {} expects chunk {} of rank {} in round {}, but chunk {} of round {} comes", rank, step.chunk,
                  step.peer, step.round, slot->chunk, slot->round),
             true;
    if (step.action == Action::kCollect) {
      aside_[rank].push_back(step.peer);  // it stays in the link
      count = slot->value.count();
      return true;
    }
    if (std::find(aside_[rank].begin(), aside_[rank].end(), step.peer) != aside_[rank].end())
      return flaw("rank {} receives from rank {} past a chunk set aside", rank, step.peer), true;
    Value value = std::move(slot->value);
    slot.reset();
    if (step.action == Action::kRecvReduce) {
      if (!mine.here()) return flaw("rank {} adds to chunk {} before it has one", rank, step.chunk), true;
      add(value, mine, rank, step.chunk);
    } else if (mine.here() && !covers(value, mine)) {
      return flaw("rank {} overwrites contributions to chunk {} that only it has", rank, step.chunk), true;
    }
    mine = std::move(value);
    mine.round = step.round;
    count = mine.count();
    return true;
  }

  static bool covers(const Value& large, const Value& small) {
    for (size_t word = 0; word < small.ranks.size(); ++word)
      if ((small.ranks[word] & ~large.ranks[word]) != 0) return false;
    return true;
  }

  void reduce(int rank, const Step& step, Value& mine) {
    if (!mine.here()) return flaw("rank {} reduces chunk {} before it has one", rank, step.chunk);
    if (aside_[rank].empty()) return flaw("rank {} reduces chunk {}, but nothing is set aside", rank, step.chunk);
    std::vector<int> sources = aside_[rank];
    aside_[rank].clear();
    sources.push_back(rank);
    std::sort(sources.begin(), sources.end());
    Value sum;
    for (const int source : sources) {
      if (source != rank && link(source, rank)->chunk != step.chunk)
        return flaw("rank {} reduces chunk {} while another is set aside", rank, step.chunk);
      const Value& value = source == rank ? mine : link(source, rank)->value;
      if (!sum.here())
        sum = value;
      else if (!add(sum, value, rank, step.chunk))
        return;
    }
    for (const int source : sources)
      if (source != rank) link(source, rank).reset();
    sum.round = step.round;
    mine = std::move(sum);
  }

  void check_end() {
    for (int rank = 0; rank < n_; ++rank) {
      if (next_[rank] == s_.program[rank].size()) continue;
      const Step& step = s_.program[rank][next_[rank]];
      return flaw("rank {} waits for rank {} for ever, in round {}", rank, step.peer, step.round);
    }
    for (int rank = 0; rank < n_; ++rank)
      if (!aside_[rank].empty()) return flaw("rank {} never reduces what it set aside", rank);
    for (int from = 0; from < n_; ++from)
      for (int to = 0; to < n_; ++to)
        if (link(from, to)) return flaw("rank {} sends to rank {}, which does not receive", from, to);
    for (int chunk = 0; chunk < s_.num_chunks; ++chunk) {
      const Value* first = nullptr;
      for (int rank = 0; rank < n_; ++rank) {
        if (collective_ == Collective::kReduceScatter && rank != chunk) continue;
        if (collective_ == Collective::kGather && rank != root_) continue;
        const Value& value = chunks_[rank][chunk];
        const bool reduces = collective_ == Collective::kAllReduce || collective_ == Collective::kReduceScatter;
        const int owner = collective_ == Collective::kBroadcast ? root_ : chunk;
        if (!value.here() || (reduces ? value.count() != n_ : value.ranks != own(owner).ranks))
          return flaw("rank {} ends with {} of {} contributions to chunk {}", rank, value.count(), reduces ? n_ : 1,
                      chunk);
        if (first == nullptr) first = &value;
        if (value.expression != first->expression)
          return flaw("rank {} adds chunk {} up in another order than others", rank, chunk);
      }
    }
  }

  const Schedule& s_;
  Collective collective_;
  int root_, n_;
  Replay result_;
  std::vector<size_t> next_;                   // step of each rank
  std::vector<std::vector<Value>> chunks_;     // [rank][chunk]
  std::vector<std::optional<Message>> links_;  // [from][to]
  std::vector<std::vector<int>> aside_;        // per rank: peers whose message was collected
};

}  // namespace

Replay replay(const Schedule& schedule, Collective collective, int root) {
  return Replayer(schedule, collective, root).run();
}

}  // namespace lane::plan
