#include "lane/plan/simulate.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>

#include "lane/base/error.h"
#include "lane/plan/task_graph.h"

namespace lane::plan {
namespace {

constexpr double kSecondsPerPs = 1e-12;
constexpr Picoseconds kLongest = Picoseconds{1} << 60;  // 13 days
double seconds(Picoseconds ps) { return static_cast<double>(ps) * kSecondsPerPs; }

class Engine {
 public:
  Engine(const Workload& workload, const TaskGraph& graph)
      : workload_(workload),
        graph_(graph),
        state_(graph.tasks.size()),
        share_(rates(workload.capacities)),
        ranks_(workload.num_ranks()),
        link_bytes_(workload.capacities.size(), 0) {
    link_dependencies();
  }

  void run() {
    for (int rank = 0; rank < workload_.num_ranks(); ++rank) make_ready(rank);
    carry_on();
    set_rates();
    while (!events_.empty()) {
      if (is_void(events_.top())) {
        events_.pop();
        continue;
      }
      now_ = events_.top().at;
      while (!events_.empty() && events_.top().at == now_) {
        const Event event = events_.top();
        events_.pop();
        if (is_void(event)) continue;
        ++num_events_;
        handle(event);
        carry_on();
      }
      set_rates();
    }
    for (size_t i = 0; i < state_.size(); ++i)
      ensure(state_[i].done >= 0 || state_[i].waits_for == kNobodySends, "what ranks wait for is sent");
    for (RankClock& clock : ranks_) clock.advance(now_);
  }

  Picoseconds makespan() const { return now_; }
  int64_t num_events() const { return num_events_; }
  Picoseconds done(int task) const { return state_[task].done; }
  const std::vector<double>& link_bytes() const { return link_bytes_; }
  RankTime time_of(int rank) const {
    const RankClock& clock = ranks_[rank];
    return {seconds(clock.spent[2]), seconds(clock.spent[1]), seconds(clock.spent[0])};
  }
  std::vector<PathPart> critical_path() const;

 private:
  static constexpr int kNobodySends = -1;

  struct State {
    Picoseconds ready = 0, start = 0, left = -1, done = -1;
    int waits_for = 0;  // milestones; kNobodySends: of a message that no program comes to
    int cause = -1;     // the task whose milestone was the last it waited for
    Milestone cause_milestone = Milestone::kDone;
  };

  enum class Kind : uint8_t { kStart, kLeft, kDone };
  struct Event {
    Picoseconds at;
    Kind kind;
    int id;             // of a task; of kLeft: of a flow
    uint32_t turn = 0;  // of kLeft: see is_void()
    bool operator>(const Event& other) const {
      return std::tie(at, kind, id, turn) > std::tie(other.at, other.kind, other.id, other.turn);
    }
  };

  struct Flow {
    int task = -1;
    double bytes_left = 0, bytes_per_ps = 0;
    Picoseconds updated = 0;
    uint32_t turn = 0;
  };

  // What a rank is doing: computing goes before communication, that before idling.
  struct RankClock {
    Picoseconds since = 0, spent[3] = {0, 0, 0};  // idle, communication, computing
    int num_messages = 0, num_computations = 0;
    void advance(Picoseconds now) {
      spent[num_computations > 0 ? 2 : num_messages > 0 ? 1 : 0] += now - since;
      since = now;
    }
  };

  static std::vector<double> rates(std::vector<double> capacities) {
    for (double& capacity : capacities) capacity *= kSecondsPerPs;
    return capacities;
  }

  // Dependents of each task in one array: those of its kLeft first.
  void link_dependencies() {
    first_.assign(2 * state_.size() + 1, 0);
    const auto slot = [](const Dependency& one) {
      return 2 * static_cast<size_t>(one.before) + (one.milestone == Milestone::kDone);
    };
    for (const Dependency& one : graph_.dependencies) {
      ++first_[slot(one) + 1];
      ++state_[one.after].waits_for;
    }
    for (size_t i = 1; i < first_.size(); ++i) first_[i] += first_[i - 1];
    dependents_.resize(graph_.dependencies.size());
    std::vector<int> next(first_.begin(), first_.end() - 1);
    for (const Dependency& one : graph_.dependencies) dependents_[next[slot(one)]++] = one.after;
    for (size_t i = workload_.num_ranks(); i < state_.size(); ++i)
      if (state_[i].waits_for == 0) state_[i].waits_for = kNobodySends;
  }

  // The end of a flow that has had another rate since.
  bool is_void(const Event& event) const { return event.kind == Kind::kLeft && flows_[event.id].turn != event.turn; }

  void handle(const Event& event) {
    if (event.kind == Kind::kStart) {
      start(event.id);
    } else if (event.kind == Kind::kDone) {
      reach(event.id, Milestone::kDone);
    } else {
      const int task = flows_[event.id].task;
      ++flows_[event.id].turn;
      share_.remove(event.id);
      reach(task, Milestone::kLeft);
    }
  }

  void make_ready(int id) {
    const Task& task = graph_.tasks[id];
    state_[id].ready = now_;
    if (task.parcel != nullptr) enter(task.rank, &RankClock::num_messages, +1);
    if (task.wait_ps > 0)
      events_.push({now_ + task.wait_ps, Kind::kStart, id});
    else
      start(id);
  }

  void start(int id) {
    const Task& task = graph_.tasks[id];
    state_[id].start = now_;
    if (task.parcel == nullptr) {
      if (task.compute_ps == 0) return reach(id, Milestone::kDone);
      enter(task.rank, &RankClock::num_computations, +1);
      events_.push({now_ + task.compute_ps, Kind::kDone, id});
      return;
    }
    for (const int to : task.parcel->to) enter(to, &RankClock::num_messages, +1);
    for (const Hop& hop : task.parcel->hops) link_bytes_[hop.link] += task.parcel->bytes * hop.count;
    if (task.parcel->bytes <= 0) return reach(id, Milestone::kLeft);
    const auto flow = static_cast<size_t>(share_.add(task.parcel->hops));
    if (flow >= flows_.size()) flows_.resize(flow + 1);
    const uint32_t turn = flows_[flow].turn;
    flows_[flow] = {.task = id, .bytes_left = task.parcel->bytes, .updated = now_, .turn = turn};
  }

  // Who waits for a milestone goes on in carry_on(), so that chains of any length need no stack.
  void reach(int id, Milestone milestone) {
    const Task& task = graph_.tasks[id];
    if (task.parcel == nullptr) {
      if (task.compute_ps > 0) enter(task.rank, &RankClock::num_computations, -1);
      state_[id].done = now_;
    } else if (milestone == Milestone::kLeft) {
      enter(task.rank, &RankClock::num_messages, -1);
      state_[id].left = now_;
      if (task.latency_ps > 0)
        events_.push({now_ + task.latency_ps, Kind::kDone, id});
      else
        reach(id, Milestone::kDone);
    } else {
      for (const int to : task.parcel->to) enter(to, &RankClock::num_messages, -1);
      state_[id].done = now_;
    }
    reached_.push_back({id, milestone});
  }

  void carry_on() {
    while (!reached_.empty()) {
      const auto [id, milestone] = reached_.back();
      reached_.pop_back();
      const size_t slot = 2 * static_cast<size_t>(id) + (milestone == Milestone::kDone);
      for (int i = first_[slot]; i < first_[slot + 1]; ++i) {
        State& waiting = state_[dependents_[i]];
        if (--waiting.waits_for > 0) continue;
        waiting.cause = id;
        waiting.cause_milestone = milestone;
        make_ready(dependents_[i]);
      }
    }
  }

  void set_rates() {
    for (const int id : share_.solve()) {
      Flow& flow = flows_[id];
      flow.bytes_left -= flow.bytes_per_ps * static_cast<double>(now_ - flow.updated);
      flow.bytes_per_ps = share_.rate(id);
      flow.updated = now_;
      const double takes = std::ceil(std::max(0.0, flow.bytes_left) / flow.bytes_per_ps);
      if (!(takes < static_cast<double>(kLongest)))
        throw Error(ErrorCode::kInvalidArgument, "a message takes longer than 10 days: check sizes and rates");
      events_.push({now_ + static_cast<Picoseconds>(takes), Kind::kLeft, id, ++flow.turn});
    }
  }

  void enter(int rank, int RankClock::*count, int change) {
    RankClock& clock = ranks_[rank];
    clock.advance(now_);
    clock.*count += change;
  }

  const Workload& workload_;
  const TaskGraph& graph_;
  std::vector<State> state_;
  std::vector<int> first_, dependents_;
  std::vector<std::pair<int, Milestone>> reached_;
  FairShare share_;
  std::vector<Flow> flows_;
  std::vector<RankClock> ranks_;
  std::vector<double> link_bytes_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  Picoseconds now_ = 0;
  int64_t num_events_ = 0;
};

std::vector<PathPart> Engine::critical_path() const {
  std::vector<PathPart> parts;
  for (const std::string& label : workload_.labels) parts.push_back({.label = label});
  int id = 0;
  for (int i = 1; i < static_cast<int>(state_.size()); ++i)
    if (state_[i].done > state_[id].done) id = i;
  for (Milestone milestone = Milestone::kDone; id >= 0;) {
    const Task& task = graph_.tasks[id];
    const State& state = state_[id];
    if (task.parcel != nullptr) {
      PathPart& part = parts[task.label];
      double slowest = std::numeric_limits<double>::infinity();
      for (const Hop& hop : task.parcel->hops) slowest = std::min(slowest, workload_.capacities[hop.link]);
      const double took = seconds(state.left - state.start);
      double alone = task.parcel->bytes / slowest;
      if (took - alone < 2 * kSecondsPerPs) alone = took;  // rounding
      ++part.count;
      part.wait_s += seconds(state.start - state.ready);
      part.transfer_s += alone;
      part.sharing_s += took - alone;
      if (milestone == Milestone::kDone) part.latency_s += seconds(state.done - state.left);
    } else if (task.compute_ps > 0) {
      ++parts[task.label].count;
      parts[task.label].compute_s += seconds(task.compute_ps);
    }
    milestone = state.cause_milestone;
    id = state.cause;
  }
  std::erase_if(parts, [](const PathPart& part) { return part.count == 0; });
  std::stable_sort(parts.begin(), parts.end(),
                   [](const PathPart& a, const PathPart& b) { return a.total_s() > b.total_s(); });
  return parts;
}

}  // namespace

Simulation simulate(const Workload& workload, const SimulateOptions& options) {
  Folded folded;
  if (options.fold) folded = fold(workload);
  const Workload& run = options.fold ? folded.workload : workload;
  const TaskGraph graph = unroll(run, options.record_spans);
  Engine engine(run, graph);
  engine.run();

  Simulation result;
  result.makespan_s = seconds(engine.makespan());
  result.critical_path = engine.critical_path();
  result.num_tasks = static_cast<int64_t>(graph.tasks.size());
  result.num_events = engine.num_events();
  std::vector<int> lowest(run.num_ranks(), -1);
  for (int rank = 0; rank < workload.num_ranks(); ++rank) {
    const int one = options.fold ? folded.class_of_rank[rank] : rank;
    if (lowest[one] < 0) lowest[one] = rank;
    result.ranks.push_back(engine.time_of(one));
    result.alike.push_back(lowest[one]);
  }
  for (size_t link = 0; link < workload.capacities.size(); ++link)
    result.link_bytes.push_back(engine.link_bytes()[options.fold ? folded.class_of_link[link] : link]);
  for (const TaskGraph::OpSpan& span : graph.spans)
    result.spans.push_back({lowest[span.rank], span.label, span.is_exchange, seconds(engine.done(span.begin)),
                            seconds(engine.done(span.end))});
  return result;
}

}  // namespace lane::plan
