#include "lane/plan/step_graph.h"

#include <algorithm>
#include <deque>
#include <map>
#include <tuple>

#include "lane/base/error.h"

namespace lane::plan {
namespace {

// As in step.cc: what ranks offer for each sequence; operations of a layer, here those before each of its all-reduces.
constexpr int64_t kSampleBytes = 64, kTokenBytes = 4;
constexpr int kAttentionOperations = 5, kMlpOperations = 4, kEmbeddingOperations = 1, kHeadOperations = 4;

// What a rank of a stage computes, the busiest by its slices: its group waits for it twice a layer.
class Compute {
 public:
  explicit Compute(const StepJob& job) : job_(job) {
    const ModelShape& shape = job.shape;
    for (int i = 0; i < job.plan.tensor; ++i) {
      const RankSlices slices = slices_of(job.plan, shape, i);
      const auto most = [](int64_t& value, int64_t other) { value = std::max(value, other); };
      most(heads_, slices.heads.size());
      most(kv_heads_, slices.kv_heads.size());
      most(attention_weights_, shape.hidden_size * shape.head_dim * 2 * (slices.heads.size() + slices.kv_heads.size()));
      most(mlp_weights_, 3 * shape.hidden_size * slices.intermediate.size());
      most(head_weights_, shape.hidden_size * slices.vocab.size());
    }
  }

  double attention_s(const Pass& pass) const {
    const auto kv_bytes = static_cast<double>(2 * kv_heads_ * job_.shape.head_dim * job_.kv_bytes * pass.kv_tokens);
    const double flop = 4.0 * static_cast<double>(heads_ * job_.shape.head_dim) * pass.pairs;  // scores, values
    return matmul_s(attention_weights_, pass.tokens) + roofline_s(kv_bytes, flop) + start_s(kAttentionOperations);
  }
  double mlp_s(const Pass& pass) const { return matmul_s(mlp_weights_, pass.tokens) + start_s(kMlpOperations); }
  double embedding_s() const { return start_s(kEmbeddingOperations); }
  double head_s(const Pass& pass) const {
    return pass.sequences == 0 ? 0 : matmul_s(head_weights_, pass.sequences) + start_s(kHeadOperations);
  }

 private:
  double roofline_s(double bytes, double flop) const {
    return std::max(bytes / job_.speed.read_bytes_per_s, flop / job_.speed.flop_per_s);
  }
  double matmul_s(int64_t weights, int64_t rows) const {
    const auto count = static_cast<double>(weights);
    return roofline_s(count * job_.weight_bytes, 2 * count * static_cast<double>(rows));
  }
  double start_s(int operations) const { return operations * job_.speed.operation_s; }

  const StepJob& job_;
  int64_t heads_ = 0, kv_heads_ = 0, attention_weights_ = 0, mlp_weights_ = 0, head_weights_ = 0;
};

// A collective on all groups of some stages, each by the algorithm that suits its fabric.
class Collectives {
 public:
  Collectives(const StepJob& job, const Network& network, const FabricOf& fabric_of)
      : job_(job), network_(network), fabric_of_(fabric_of) {}

  struct Made {
    Exchange exchange;
    std::vector<double> seconds;  // by stage: of its slowest group
    std::string algorithm;        // of the slowest of the last stage
  };

  Made make(const std::string& name, Collective collective, int64_t bytes, int first_stage, double partial_scale) {
    const int num_stages = job_.plan.pipeline;
    Made made{.exchange = {.name = name, .eager_bytes = job_.eager_bytes},
              .seconds = std::vector<double>(num_stages, 0)};
    std::vector<Choice> choices;
    for (int group = 0; group < job_.plan.replicas * num_stages; ++group) {
      const int stage = group % num_stages;
      if (stage < first_stage) continue;
      const std::vector<int>& ranks = ranks_of(group);
      const Fabric& fabric = fabrics_[group];
      auto choice = std::find_if(choices.begin(), choices.end(),
                                 [&](const Choice& one) { return are_alike(*one.fabric, fabric); });
      if (choice == choices.end())
        choice = choices.insert(choices.end(), choose(collective, bytes, fabric, partial_scale));
      add_group(made.exchange, choice->pattern, ranks, network_);
      if (stage == num_stages - 1 && choice->seconds >= made.seconds[stage]) made.algorithm = choice->algorithm;
      made.seconds[stage] = std::max(made.seconds[stage], choice->seconds);
    }
    return made;
  }

 private:
  struct Choice {
    const Fabric* fabric;
    std::string algorithm;
    Exchange pattern;
    double seconds;
  };

  static bool are_alike(const Fabric& a, const Fabric& b) {
    return a.layout == b.layout && a.local == b.local && a.remote == b.remote && a.rack_of_node == b.rack_of_node &&
           a.uplink == b.uplink;
  }

  const std::vector<int>& ranks_of(int group) {
    while (static_cast<int>(groups_.size()) <= group) {
      std::vector<int>& ranks = groups_.emplace_back();
      const int first = (static_cast<int>(groups_.size()) - 1) * job_.plan.tensor;
      for (int i = 0; i < job_.plan.tensor; ++i) ranks.push_back(first + i);
    }
    for (size_t i = fabrics_.size(); i < groups_.size(); ++i) fabrics_.push_back(fabric_of_(groups_[i]));
    return groups_[group];
  }

  Choice choose(Collective collective, int64_t bytes, const Fabric& fabric, double partial_scale) const {
    std::vector<std::string> names;
    if (collective == Collective::kAllReduce && !job_.algorithm.empty()) names = {job_.algorithm};
    if (names.empty()) names = schedule_names(collective, fabric.layout);
    Choice best{.fabric = &fabric, .seconds = std::numeric_limits<double>::infinity()};
    Schedule schedule;
    for (const std::string& name : names) {
      // A topology does not say whether multicast can be used; who knows can name it.
      if (job_.algorithm.empty() && name.find("multicast") != std::string::npos) continue;
      Schedule one = make_schedule(name, collective, fabric.layout);
      const double seconds = cost(one, collective, fabric, partial_scale).at(bytes);
      if (seconds >= best.seconds) continue;
      best.seconds = seconds;
      best.algorithm = name;
      schedule = std::move(one);
    }
    best.pattern = exchange_of(schedule, collective, fabric.layout, static_cast<double>(bytes), partial_scale);
    return best;
  }

  const StepJob& job_;
  const Network& network_;
  const FabricOf& fabric_of_;
  std::vector<std::vector<int>> groups_;
  std::deque<Fabric> fabrics_;
};

class Builder {
 public:
  Builder(const StepJob& job, const Network& network, const FabricOf& fabric_of)
      : job_(job), network_(network), compute_(job), collectives_(job, network, fabric_of) {
    graph_.workload = idle_workload(network);
    const ParallelPlan& plan = job.plan;
    graph_.workload.programs.assign(plan.pipeline, {});
    for (int rank = 0; rank < plan.num_ranks(); ++rank)
      graph_.workload.program_of[rank] = rank / plan.tensor % plan.pipeline;
    for (int step = 0; step < job.num_steps; ++step)
      for (size_t b = 0; b < job.passes.size(); ++b) add_pass(job.passes[b], step, static_cast<int>(b));
    price_bubble();
    if (job.plan.tensor > 1) {
      const Pass& pass = job.passes.front();
      const int last = plan.pipeline - 1;
      const auto [begin, end] = even_part(job.shape.num_layers, plan.pipeline, last);
      const auto add = [&](int exchange, Collective collective, int64_t count, int64_t bytes) {
        const Priced& priced = priced_.at(exchange);
        graph_.collectives.push_back({.name = std::string(name_of(collective)),
                                      .algorithm = priced.algorithm,
                                      .count = static_cast<int>(count),
                                      .bytes = bytes,
                                      .seconds = priced.seconds[last]});
      };
      add(all_reduce(pass), Collective::kAllReduce, 2 * (end - begin) + (last == 0), hidden_bytes(pass));
      if (pass.sequences > 0) add(samples(pass), Collective::kAllGather, 1, sample_bytes(pass));
    }
  }

  StepGraph graph_;

 private:
  struct Priced {
    std::vector<double> seconds;  // by stage
    std::string algorithm;
  };

  int64_t hidden_bytes(const Pass& pass) const { return pass.tokens * job_.shape.hidden_size * job_.activation_bytes; }
  int64_t sample_bytes(const Pass& pass) const { return pass.sequences * kSampleBytes * job_.plan.tensor; }

  // Index of an exchange that is made when first needed.
  template <class Make>
  int exchange(const std::string& name, int64_t bytes, const Make& make) {
    const auto [known, is_new] =
        exchanges_.try_emplace({name, bytes}, static_cast<int>(graph_.workload.exchanges.size()));
    if (is_new) {
      graph_.workload.label(name);
      graph_.workload.exchanges.emplace_back();
      make(known->second);
    }
    return known->second;
  }

  int collective(const std::string& name, Collective kind, int64_t bytes, int first_stage, double partial_scale) {
    return exchange(name, bytes, [&](int index) {
      Collectives::Made made = collectives_.make(name, kind, bytes, first_stage, partial_scale);
      graph_.workload.exchanges[index] = std::move(made.exchange);
      priced_[index] = {std::move(made.seconds), std::move(made.algorithm)};
    });
  }
  int all_reduce(const Pass& pass) {
    return collective("all-reduce", Collective::kAllReduce, hidden_bytes(pass), 0, job_.partial_scale);
  }
  int samples(const Pass& pass) {
    return collective("samples", Collective::kAllGather, sample_bytes(pass), job_.plan.pipeline - 1, 1);
  }

  // Rank i of `stage` to rank i of another, in all replicas.
  int handover(const std::string& name, int stage, int to_stage, int64_t bytes) {
    return exchange(name + std::to_string(stage), bytes, [&](int index) {
      Exchange& made = graph_.workload.exchanges[index];
      made = {.name = name, .holds_sender = false, .eager_bytes = job_.eager_bytes};
      graph_.workload.label(name);
      double slowest = 0;
      const auto [replicas, stages, tensor] = std::tie(job_.plan.replicas, job_.plan.pipeline, job_.plan.tensor);
      const Exchange pattern{.parcels = {{.from = 0, .to = {1}, .bytes = static_cast<double>(bytes)}}};
      for (int replica = 0; replica < replicas; ++replica) {
        std::map<int, double> load_s;  // of links: the ranks of a stage send together
        for (int i = 0; i < tensor; ++i) {
          const int from = (replica * stages + stage) * tensor + i, to = from + (to_stage - stage) * tensor;
          add_group(made, pattern, std::vector{from, to}, network_);
          const Parcel& parcel = made.parcels.back();
          for (const Hop& hop : parcel.hops) {
            double& load = load_s[hop.link];
            load += parcel.bytes / graph_.workload.capacities[hop.link];
            slowest = std::max(slowest, parcel.latency_s + load);
          }
        }
      }
      priced_[index] = {std::vector<double>(stages, slowest), ""};
    });
  }

  void compute(int stage, const std::string& label, double seconds) {
    graph_.workload.programs[stage].push_back({graph_.workload.label(label), -1, seconds});
    spent_ += seconds;
  }
  void communicate(int stage, int index) {
    const Exchange& one = graph_.workload.exchanges[index];
    graph_.workload.programs[stage].push_back({graph_.workload.label(one.name), index, 0});
    if (one.holds_sender) spent_ += priced_.at(index).seconds[stage];
  }

  // A pass through all stages, and its time by formula: free_[s] is C(s, b).
  void add_pass(const Pass& pass, int step, int b) {
    const ParallelPlan& plan = job_.plan;
    free_.resize(plan.pipeline, 0);
    busy_.resize(plan.pipeline, 0);
    tokens_back_.resize(job_.passes.size(), 0);
    double arrives = step == 0 ? 0 : tokens_back_[b];
    for (int stage = 0; stage < plan.pipeline; ++stage) {
      spent_ = 0;
      const bool is_last = stage == plan.pipeline - 1;
      if (stage > 0) communicate(stage, handover("to next stage", stage - 1, stage, hidden_bytes(pass)));
      if (stage == 0 && step > 0 && plan.pipeline > 1 && pass.sequences > 0) communicate(0, tokens_back(pass));
      if (stage == 0) {
        compute(stage, "embedding", compute_.embedding_s());
        if (plan.tensor > 1) communicate(stage, all_reduce(pass));
      }
      const Range layers = even_part(job_.shape.num_layers, plan.pipeline, stage);
      for (int64_t layer = layers.begin; layer < layers.end; ++layer) {
        compute(stage, "attention", compute_.attention_s(pass));
        if (plan.tensor > 1) communicate(stage, all_reduce(pass));
        compute(stage, "MLP", compute_.mlp_s(pass));
        if (plan.tensor > 1) communicate(stage, all_reduce(pass));
      }
      if (is_last && pass.sequences > 0) {
        compute(stage, "head", compute_.head_s(pass));
        if (plan.tensor > 1) communicate(stage, samples(pass));
      }
      free_[stage] = std::max(free_[stage], arrives) + spent_;
      busy_[stage] += spent_;
      arrives = free_[stage];
      if (!is_last) {
        const int next = handover("to next stage", stage, stage + 1, hidden_bytes(pass));
        communicate(stage, next);
        arrives += priced_.at(next).seconds[stage];
      } else if (pass.sequences > 0 && plan.pipeline > 1) {
        const int back = tokens_back(pass);
        communicate(stage, back);
        arrives += priced_.at(back).seconds[stage];
      }
    }
    tokens_back_[b] = arrives;
    graph_.priced_s = std::max(graph_.priced_s, arrives);
  }
  int tokens_back(const Pass& pass) {
    return handover("tokens back", job_.plan.pipeline - 1, 0, pass.sequences * kTokenBytes);
  }

  void price_bubble() {
    double busy = 0;
    for (const double seconds : busy_) busy += seconds;
    graph_.bubble = 1 - busy / (static_cast<double>(busy_.size()) * graph_.priced_s);
  }

  const StepJob& job_;
  const Network& network_;
  const Compute compute_;
  Collectives collectives_;
  std::map<std::pair<std::string, int64_t>, int> exchanges_;
  std::map<int, Priced> priced_;
  std::vector<double> free_, busy_, tokens_back_;
  double spent_ = 0;  // of this stage's pass, by formula
};

}  // namespace

std::vector<Pass> decode_passes(int batch, int micro_batches, int64_t context) {
  std::vector<Pass> passes;
  for (int i = 0; i < micro_batches; ++i) {
    const int64_t sequences = even_part(batch, micro_batches, i).size();
    const int64_t kv_tokens = sequences * (context + 1);
    if (sequences > 0) passes.push_back({sequences, sequences, kv_tokens, static_cast<double>(kv_tokens)});
  }
  return passes;
}

std::vector<Pass> prefill_passes(int batch, int64_t prompt_tokens, int64_t chunk_tokens) {
  std::vector<Pass> passes;
  for (int prompt = 0; prompt < batch; ++prompt)
    for (int64_t done = 0; done < prompt_tokens; done += chunk_tokens) {
      const int64_t tokens = std::min(chunk_tokens, prompt_tokens - done);
      const auto count = static_cast<double>(tokens);
      passes.push_back({.tokens = tokens,
                        .sequences = done + tokens == prompt_tokens ? 1 : 0,
                        .kv_tokens = done + tokens,
                        .pairs = count * static_cast<double>(done) + count * (count + 1) / 2});
    }
  return passes;
}

StepGraph step_graph(const StepJob& job, const Network& network, const FabricOf& fabric_of) {
  check(job.plan, job.shape);
  ensure(network.num_ranks() == job.plan.num_ranks(), "the plan's ranks are those of the network");
  ensure(!job.passes.empty() && job.num_steps > 0, "there is something to do");
  return std::move(Builder(job, network, fabric_of).graph_);
}

}  // namespace lane::plan
