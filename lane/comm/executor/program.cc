#include "lane/comm/executor/program.h"

#include <algorithm>

#include "lane/base/error.h"
#include "lane/base/random.h"
#include "lane/plan/verify.h"

namespace lane {
namespace {

using plan::Action;
using plan::Collective;
using plan::Step;

bool is_send(Action action) { return action == Action::kSend || action == Action::kMulticast; }

class Compiler {
 public:
  Compiler(const plan::Schedule& schedule, Collective collective, const plan::Layout& layout, int root, int rank)
      : replay_(plan::replay(schedule, collective, layout, root)),
        steps_(schedule.program[rank]),
        collective_(collective),
        n_(schedule.num_ranks()),
        rank_(rank),
        places_(schedule.num_chunks, Place::kInput),
        lowest_(schedule.num_chunks, rank) {
    ensure(replay_.flaw.empty(), "schedule " + schedule.name + ": " + replay_.flaw);
    program_.num_chunks = schedule.num_chunks;
    program_.scratch_of.assign(schedule.num_chunks, -1);
    program_.sums = reduces();
    program_.partial_in_output = collective == Collective::kAllReduce;
    program_.algorithm = static_cast<uint16_t>(hash_name(schedule.name));
  }

  Program run() {
    for (size_t at = 0; at < steps_.size();) {
      size_t end = at;
      while (end < steps_.size() && steps_[end].round == steps_[at].round) ++end;
      add_round(at, end);
      at = end;
    }
    return std::move(program_);
  }

 private:
  bool reduces() const { return collective_ == Collective::kAllReduce || collective_ == Collective::kReduceScatter; }
  bool is_partial(int count) const { return reduces() && count > 1 && count < n_; }

  Place place_after(int chunk, int count) {
    const bool passes_through = collective_ == Collective::kAllToAll && chunk % n_ != rank_;
    if (!is_partial(count) && !passes_through) return Place::kOutput;
    if (program_.scratch_of[chunk] < 0) program_.scratch_of[chunk] = program_.num_scratch++;
    return Place::kScratch;
  }

  // The next part of a message belongs to the one before it if that was its neighbour.
  void add_round(size_t begin, size_t end) {
    Program::Round& round = program_.rounds.emplace_back(Program::Round{.number = steps_[begin].round});
    for (size_t i = begin; i < end; ++i) {
      const Step& step = steps_[i];
      const plan::Replay::Fact& fact = replay_.facts[rank_][i];
      const bool joins = i > begin && steps_[i - 1].peer == step.peer && steps_[i - 1].action != Action::kReduce &&
                         is_send(steps_[i - 1].action) == is_send(step.action) &&
                         steps_[i - 1].by_multicast == step.by_multicast &&
                         (steps_[i - 1].action == Action::kMulticast) == (step.action == Action::kMulticast);
      if (is_send(step.action))
        add_send(round, step, fact, joins);
      else if (step.action == Action::kReduce)
        add_sum(round, step, fact, i);
      else
        add_receive(round, step, fact, joins);
    }
    // What a round sends is what was there before it.
    for (Program::Inbox& inbox : round.inboxes)
      for (Program::Message& message : inbox.messages)
        for (Program::Part& part : message.parts) part.sent_as = sends_of(round, part.chunk);
    for (Program::Sum& sum : round.sums) sum.sent_as = sends_of(round, sum.chunk);
  }

  static std::vector<std::pair<int, int>> sends_of(const Program::Round& round, int chunk) {
    std::vector<std::pair<int, int>> found;
    for (size_t s = 0; s < round.sends.size(); ++s)
      for (size_t p = 0; p < round.sends[s].message.parts.size(); ++p)
        if (round.sends[s].message.parts[p].chunk == chunk)
          found.emplace_back(static_cast<int>(s), static_cast<int>(p));
    return found;
  }

  void add_send(Program::Round& round, const Step& step, const plan::Replay::Fact& fact, bool joins) {
    const bool multicast = step.action == Action::kMulticast;
    if (!joins) round.sends.push_back({multicast ? rank_ : step.peer, multicast ? n_ + rank_ : step.peer, {}});
    const Place place = places_[step.chunk];
    round.sends.back().message.parts.push_back(
        {step.chunk, Action::kSend, is_partial(fact.num_contributions), false, false, place, place});
  }

  void add_receive(Program::Round& round, const Step& step, const plan::Replay::Fact& fact, bool joins) {
    const int link = step.by_multicast ? n_ + step.peer : step.peer;
    Program::Inbox& inbox = inbox_of(round, step.peer, link);
    if (!joins) inbox.messages.emplace_back();
    Place& place = places_[step.chunk];
    Program::Part part{step.chunk, step.action, is_partial(fact.num_contributions), false, fact.message_first,
                       place,      place};
    if (step.action == Action::kRecvReduce) {
      part.partial = is_partial(fact.num_contributions - counts(step.chunk));
      part.completes = fact.num_contributions == n_;
    }
    if (step.action == Action::kCollect) {
      collected_.push_back({step.chunk, static_cast<int>(&inbox - round.inboxes.data()), fact.lowest_rank});
    } else {
      place = part.to = place_after(step.chunk, fact.num_contributions);
      set_count(step.chunk, fact);
    }
    inbox.messages.back().parts.push_back(std::move(part));
  }

  void add_sum(Program::Round& round, const Step& step, const plan::Replay::Fact& fact, size_t) {
    std::vector<std::pair<int, int>> order{{lowest_[step.chunk], Program::Sum::kMine}};  // (lowest rank, inbox)
    for (const Collected& one : collected_)
      if (one.chunk == step.chunk) order.emplace_back(one.lowest_rank, one.inbox);
    std::erase_if(collected_, [&](const Collected& one) { return one.chunk == step.chunk; });
    std::sort(order.begin(), order.end());
    Place& place = places_[step.chunk];
    Program::Sum sum{step.chunk, is_partial(fact.num_contributions), fact.num_contributions == n_, place, place, {}};
    for (const auto& [lowest, inbox] : order) sum.operands.push_back(inbox);
    place = sum.to = place_after(step.chunk, fact.num_contributions);
    set_count(step.chunk, fact);
    round.sums.push_back(std::move(sum));
  }

  static Program::Inbox& inbox_of(Program::Round& round, int peer, int link) {
    for (Program::Inbox& inbox : round.inboxes)
      if (inbox.link == link) return inbox;
    return round.inboxes.emplace_back(Program::Inbox{peer, link, {}});
  }

  int counts(int chunk) const { return counts_.empty() ? 1 : counts_[chunk]; }
  void set_count(int chunk, const plan::Replay::Fact& fact) {
    if (counts_.empty()) counts_.assign(places_.size(), 1);
    counts_[chunk] = fact.num_contributions;
    lowest_[chunk] = fact.lowest_rank;
  }

  struct Collected {
    int chunk, inbox, lowest_rank;
  };

  plan::Replay replay_;
  const std::vector<Step>& steps_;
  Collective collective_;
  int n_, rank_;
  std::vector<Place> places_;
  std::vector<int> lowest_, counts_;  // of what I have of each chunk
  std::vector<Collected> collected_;
  Program program_;
};

}  // namespace

Program compile(const plan::Schedule& schedule, Collective collective, const plan::Layout& layout, int root, int rank) {
  return Compiler(schedule, collective, layout, root, rank).run();
}

}  // namespace lane
