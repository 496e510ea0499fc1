#include "lane/plan/verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <unordered_map>

#include "lane/base/random.h"

namespace lane::plan {
namespace {

constexpr int kNothing = -1;

// All values that occur in a replay, each once: equal numbers mean equal expressions. Rank r's contribution is value r.
class Values {
 public:
  explicit Values(int num_ranks) : words_((static_cast<size_t>(num_ranks) + 63) / 64) {
    for (int rank = 0; rank < num_ranks; ++rank) {
      bits_.resize(bits_.size() + words_);
      bits_[static_cast<size_t>(rank) * words_ + static_cast<size_t>(rank) / 64] |= uint64_t{1} << (rank % 64);
      facts_.push_back({.num_contributions = 1, .lowest_rank = rank});
      orders_.push_back(mix64(static_cast<uint64_t>(rank) + 1));
    }
  }

  const Replay::Fact& fact(int value) const { return facts_[value]; }
  uint64_t order(int value) const { return orders_[value]; }  // a hash of the expression, the same in every replay

  // A rank that contributed to both, or -1.
  int common(int a, int b) const {
    const uint64_t *x = bits(a), *y = bits(b);
    for (size_t word = 0; word < words_; ++word)
      if ((x[word] & y[word]) != 0) return static_cast<int>(word) * 64 + std::countr_zero(x[word] & y[word]);
    return -1;
  }

  bool covers(int large, int small) const {
    const uint64_t *x = bits(large), *y = bits(small);
    for (size_t word = 0; word < words_; ++word)
      if ((y[word] & ~x[word]) != 0) return false;
    return true;
  }

  // a + b, the one with the lowest rank first. They have no rank in common.
  int sum(int a, int b) {
    if (facts_[a].lowest_rank > facts_[b].lowest_rank) std::swap(a, b);
    const auto [known, is_new] =
        sums_.try_emplace(static_cast<uint64_t>(a) << 32 | static_cast<uint32_t>(b), static_cast<int>(facts_.size()));
    if (!is_new) return known->second;
    bits_.resize(bits_.size() + words_);
    uint64_t* both = bits_.data() + bits_.size() - words_;
    for (size_t word = 0; word < words_; ++word) both[word] = bits(a)[word] | bits(b)[word];
    facts_.push_back({.num_contributions = facts_[a].num_contributions + facts_[b].num_contributions,
                      .lowest_rank = facts_[a].lowest_rank});
    orders_.push_back(mix64(mix64(orders_[a]) ^ orders_[b]));
    return known->second;
  }

 private:
  const uint64_t* bits(int value) const { return bits_.data() + static_cast<size_t>(value) * words_; }

  size_t words_;
  std::vector<uint64_t> bits_;  // words_ for each value: the set of ranks that contributed
  std::vector<Replay::Fact> facts_;
  std::vector<uint64_t> orders_;
  std::unordered_map<uint64_t, int> sums_;
};

bool sends(Action action) { return action == Action::kSend || action == Action::kMulticast; }

int phase(Action action) { return sends(action) ? 0 : action == Action::kReduce ? 2 : 1; }

// One message is neighbouring steps of a round with the same peer and the same way.
bool same_message(const Step& a, const Step& b) {
  return phase(a.action) == phase(b.action) && a.peer == b.peer && a.by_multicast == b.by_multicast &&
         (a.action == Action::kMulticast) == (b.action == Action::kMulticast);
}

class Replayer {
 public:
  Replayer(const Schedule& schedule, Collective collective, const Layout& layout, int root)
      : s_(schedule),
        collective_(collective),
        layout_(layout),
        root_(root),
        n_(schedule.num_ranks()),
        num_chunks_(schedule.num_chunks),
        values_(n_) {}

  Replay run() {
    result_.facts.resize(n_);
    for (int rank = 0; rank < n_; ++rank) result_.facts[rank].resize(s_.program[rank].size());
    check_form();
    if (!result_.flaw.empty()) return std::move(result_);
    start();
    for (int round = 0; round < s_.num_rounds() && result_.flaw.empty(); ++round) {
      for (int rank = 0; rank < n_; ++rank) send(rank, round);
      for (int rank = 0; rank < n_ && result_.flaw.empty(); ++rank) receive(rank, round);
    }
    if (result_.flaw.empty()) check_end();
    return std::move(result_);
  }

 private:
  struct Message {
    int from;
    bool by_multicast;
    size_t begin, end;    // of the sender's steps
    int next = kNothing;  // message of the same sender
  };

  template <class... Args>
  void flaw(fmt::format_string<Args...> format, Args&&... args) {
    if (result_.flaw.empty()) result_.flaw = fmt::format(format, std::forward<Args>(args)...);
  }

  void check_form() {
    if (n_ < 1) return flaw("it has no ranks");
    if (layout_.num_ranks() != n_) return flaw("{} ranks on a layout for {}", n_, layout_.num_ranks());
    const bool of_ranks = collective_ == Collective::kReduceScatter || collective_ == Collective::kAllGather ||
                          collective_ == Collective::kGather;
    if (of_ranks && num_chunks_ != n_) return flaw("{} chunks for {} ranks", num_chunks_, n_);
    if (collective_ == Collective::kAllToAll && num_chunks_ != n_ * n_)
      return flaw("{} chunks for {} ranks, which exchange {}", num_chunks_, n_, n_ * n_);
    for (int rank = 0; rank < n_; ++rank) {
      int round = 0, latest = 0;
      for (const Step& step : s_.program[rank]) {
        const bool needs_peer = step.action != Action::kReduce && step.action != Action::kMulticast;
        if (needs_peer ? step.peer < 0 || step.peer >= n_ || step.peer == rank : step.peer != -1)
          return flaw("rank {} has no peer {}", rank, step.peer);
        if (step.chunk < 0 || step.chunk >= num_chunks_) return flaw("there is no chunk {}", step.chunk);
        if (step.by_multicast && phase(step.action) != 1) return flaw("rank {} marks what it does not receive", rank);
        if (step.round < round) return flaw("rank {} goes back from round {} to {}", rank, round, step.round);
        if (step.round > round) latest = 0;
        if (phase(step.action) < latest)
          return flaw("rank {} does not send first, then receive, then add up in round {}", rank, step.round);
        round = step.round;
        latest = phase(step.action);
      }
    }
  }

  void start() {
    nodes_ = layout_.ranks_by_node();
    next_.assign(n_, 0);
    sent_.resize(n_);
    for (int rank = 0; rank < n_; ++rank) sent_[rank].resize(s_.program[rank].size());
    inbox_.resize(n_);
    chunks_.assign(static_cast<size_t>(n_) * num_chunks_, kNothing);
    for (int rank = 0; rank < n_; ++rank)
      for (int chunk = 0; chunk < num_chunks_; ++chunk)
        if (starts_with(rank, chunk)) at(rank, chunk) = rank;
    first_.assign(2 * static_cast<size_t>(n_), kNothing);
    last_.assign(2 * static_cast<size_t>(n_), kNothing);
    num_collected_.assign(2 * static_cast<size_t>(n_), 0);
    num_reduced_.assign(2 * static_cast<size_t>(n_), 0);
    got_.assign(num_chunks_, Got::kNothingYet);
    aside_.resize(num_chunks_);
  }

  bool starts_with(int rank, int chunk) const {
    switch (collective_) {
      case Collective::kAllReduce:
      case Collective::kReduceScatter:
        return true;
      case Collective::kAllGather:
      case Collective::kGather:
        return rank == chunk;
      case Collective::kBroadcast:
        return rank == root_;
      case Collective::kAllToAll:
        return rank == chunk / n_;
    }
    return false;
  }

  int& at(int rank, int chunk) { return chunks_[static_cast<size_t>(rank) * num_chunks_ + chunk]; }

  size_t way_of(int from, bool by_multicast) const {
    return static_cast<size_t>(from) + (by_multicast ? static_cast<size_t>(n_) : 0);
  }

  // Puts what the rank sends in this round into the inboxes, as it is now.
  void send(int rank, int round) {
    const auto& program = s_.program[rank];
    for (size_t& i = next_[rank]; i < program.size() && program[i].round == round && sends(program[i].action);) {
      const size_t begin = i;
      for (; i < program.size() && program[i].round == round && same_message(program[begin], program[i]); ++i) {
        const int value = at(rank, program[i].chunk);
        if (value == kNothing) return flaw("rank {} sends chunk {} before it has it", rank, program[i].chunk);
        sent_[rank][i] = value;
        result_.facts[rank][i] = values_.fact(value);
      }
      if (program[begin].action == Action::kSend) {
        inbox_[program[begin].peer].push_back({rank, false, begin, i});
      } else {
        for (const int other : nodes_[layout_.node_of[rank]])
          if (other != rank) inbox_[other].push_back({rank, true, begin, i});
      }
    }
  }

  void receive(int rank, int round) {
    const auto& program = s_.program[rank];
    auto& inbox = inbox_[rank];
    for (int m = 0; m < static_cast<int>(inbox.size()); ++m) {
      const size_t w = way_of(inbox[m].from, inbox[m].by_multicast);
      (first_[w] == kNothing ? first_[w] : inbox[last_[w]].next) = m;
      last_[w] = m;
    }
    const size_t begin = next_[rank];
    size_t num_taken = 0;
    size_t i = begin;
    while (i < program.size() && program[i].round == round && phase(program[i].action) == 1 && result_.flaw.empty()) {
      const Step& step = program[i];
      int& head = first_[way_of(step.peer, step.by_multicast)];
      if (head == kNothing)
        flaw("rank {} waits for ever for chunk {} of rank {} in round {}{}", rank, step.chunk, step.peer, round,
             step.by_multicast ? " by multicast" : "");
      else
        i = take(rank, i, inbox[head]);
      if (head != kNothing) head = inbox[head].next;
      ++num_taken;
    }
    for (; i < program.size() && program[i].round == round && result_.flaw.empty(); ++i) reduce(rank, i);
    if (num_taken < inbox.size() && result_.flaw.empty()) check_left_over(rank, round);
    for (size_t j = begin; j < i; ++j) {
      if (got_[program[j].chunk] == Got::kAside)
        flaw("rank {} sets chunk {} aside in round {} and does not add it up", rank, program[j].chunk, round);
      got_[program[j].chunk] = Got::kNothingYet;
    }
    for (const Message& message : inbox) {
      const size_t way = way_of(message.from, message.by_multicast);
      first_[way] = kNothing;
      num_collected_[way] = num_reduced_[way] = 0;
    }
    inbox.clear();
    next_[rank] = i;
  }

  // Executes the steps from i on that are one message, and returns the step after them.
  size_t take(int rank, size_t i, const Message& message) {
    const auto& program = s_.program[rank];
    const auto& theirs = s_.program[message.from];
    const size_t begin = i;
    for (size_t j = message.begin; j < message.end; ++j, ++i) {
      const bool more =
          i < program.size() && program[i].round == program[begin].round && same_message(program[begin], program[i]);
      if (!more || program[i].chunk != theirs[j].chunk) {
        flaw("rank {} expects {} of rank {} in round {}, but chunk {} comes", rank,
             more ? fmt::format("chunk {}", program[i].chunk) : "nothing more", message.from, program[begin].round,
             theirs[j].chunk);
        return i;
      }
      receive_chunk(rank, i, sent_[message.from][j]);
    }
    if (i < program.size() && program[i].round == program[begin].round && same_message(program[begin], program[i]))
      flaw("rank {} waits for ever for chunk {} in the message of rank {} of round {}", rank, program[i].chunk,
           message.from, program[i].round);
    return i;
  }

  void receive_chunk(int rank, size_t i, int value) {
    const Step& step = s_.program[rank][i];
    Replay::Fact& fact = result_.facts[rank][i];
    Got& got = got_[step.chunk];
    int& mine = at(rank, step.chunk);
    if (got != Got::kNothingYet && !(got == Got::kAside && step.action == Action::kCollect))
      return flaw("rank {} gets chunk {} twice in round {}", rank, step.chunk, step.round);
    if (step.action == Action::kCollect) {
      got = Got::kAside;
      const size_t way = way_of(step.peer, step.by_multicast);
      aside_[step.chunk].push_back({value, way, num_collected_[way]++});
      fact = values_.fact(value);
      return;
    }
    got = Got::kDone;
    if (step.action == Action::kRecvReduce) {
      if (mine == kNothing) return flaw("rank {} adds to chunk {} before it has one", rank, step.chunk);
      const bool message_first = values_.fact(value).lowest_rank < values_.fact(mine).lowest_rank;
      if (!add(mine, value, rank, step.chunk)) return;
      fact = values_.fact(mine);
      fact.message_first = message_first;
      return;
    }
    if (mine != kNothing && !values_.covers(value, mine))
      return flaw("rank {} overwrites contributions to chunk {} that only it has", rank, step.chunk);
    mine = value;
    fact = values_.fact(mine);
  }

  // False if a rank contributed to both.
  bool add(int& to, int value, int rank, int chunk) {
    if (const int twice = values_.common(to, value); twice >= 0)
      return flaw("rank {} adds the contribution of rank {} to chunk {} twice", rank, twice, chunk), false;
    to = values_.sum(to, value);
    return true;
  }

  void reduce(int rank, size_t i) {
    const Step& step = s_.program[rank][i];
    if (got_[step.chunk] != Got::kAside)
      return flaw("rank {} adds up chunk {} in round {}, of which nothing was set aside", rank, step.chunk, step.round);
    got_[step.chunk] = Got::kDone;
    int& mine = at(rank, step.chunk);
    if (mine == kNothing) return flaw("rank {} adds to chunk {} before it has one", rank, step.chunk);
    // What was set aside of a message is taken from it in the order in which it came.
    auto& aside = aside_[step.chunk];
    terms_.assign(1, mine);
    for (const auto& [value, way, place] : aside) {
      terms_.push_back(value);
      if (place != num_reduced_[way]++)
        return flaw("rank {} adds up chunk {} in round {} before another that rank {} sent first", rank, step.chunk,
                    step.round, static_cast<int>(way) % n_);
    }
    aside.clear();
    std::sort(terms_.begin(), terms_.end(),
              [&](int a, int b) { return values_.fact(a).lowest_rank < values_.fact(b).lowest_rank; });
    int total = terms_.front();
    for (size_t term = 1; term < terms_.size(); ++term)
      if (!add(total, terms_[term], rank, step.chunk)) return;
    mine = total;
    result_.facts[rank][i] = values_.fact(mine);
  }

  void check_left_over(int rank, int round) {
    for (const Message& message : inbox_[rank]) {
      const int head = first_[way_of(message.from, message.by_multicast)];
      if (head == kNothing) continue;
      return flaw("rank {} never takes chunk {} that rank {} sends in round {}", rank,
                  s_.program[message.from][inbox_[rank][head].begin].chunk, message.from, round);
    }
  }

  void check_end() {
    const bool sums = collective_ == Collective::kAllReduce || collective_ == Collective::kReduceScatter;
    for (int chunk = 0; chunk < num_chunks_; ++chunk) {
      int first = kNothing;
      for (int rank = 0; rank < n_; ++rank) {
        if (!ends_with(rank, chunk)) continue;
        const int value = at(rank, chunk);
        if (value == kNothing) return flaw("rank {} ends without chunk {}", rank, chunk);
        if (sums && values_.fact(value).num_contributions != n_)
          return flaw("rank {} ends with {} of {} contributions to chunk {}", rank,
                      values_.fact(value).num_contributions, n_, chunk);
        if (!sums && value != source_of(chunk)) return flaw("rank {} ends with another's chunk {}", rank, chunk);
        if (first == kNothing) first = value;
        if (value != first) return flaw("rank {} adds chunk {} up in another order than others", rank, chunk);
      }
    }
    if (collective_ != Collective::kAllReduce) return;
    result_.order = values_.order(at(0, 0));
    for (int chunk = 1; chunk < num_chunks_; ++chunk)
      if (at(0, chunk) != at(0, 0)) result_.order = 0;
  }

  bool ends_with(int rank, int chunk) const {
    switch (collective_) {
      case Collective::kAllReduce:
      case Collective::kAllGather:
      case Collective::kBroadcast:
        return true;
      case Collective::kReduceScatter:
        return rank == chunk;
      case Collective::kGather:
        return rank == root_;
      case Collective::kAllToAll:
        return rank == chunk % n_;
    }
    return false;
  }

  int source_of(int chunk) const {
    if (collective_ == Collective::kBroadcast) return root_;
    return collective_ == Collective::kAllToAll ? chunk / n_ : chunk;
  }

  struct Aside {
    int value;
    size_t way;
    int place;  // among what was set aside of what came this way
  };
  enum class Got : uint8_t { kNothingYet, kAside, kDone };

  const Schedule& s_;
  const Collective collective_;
  const Layout& layout_;
  const int root_, n_, num_chunks_;
  Values values_;
  Replay result_;
  std::vector<std::vector<int>> nodes_;
  std::vector<int> chunks_;                  // value of [rank][chunk]
  std::vector<size_t> next_;                 // step of each rank
  std::vector<std::vector<int>> sent_;       // value of [rank][step]
  std::vector<std::vector<Message>> inbox_;  // of this round
  // Of the rank that is receiving, in this round:
  std::vector<int> first_, last_;                 // by way: messages not yet taken
  std::vector<int> num_collected_, num_reduced_;  // by way
  std::vector<Got> got_;                          // by chunk
  std::vector<std::vector<Aside>> aside_;         // by chunk
  std::vector<int> terms_;
};

}  // namespace

Replay replay(const Schedule& schedule, Collective collective, const Layout& layout, int root) {
  return Replayer(schedule, collective, layout, root).run();
}

}  // namespace lane::plan
