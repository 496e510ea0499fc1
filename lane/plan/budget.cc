#include "lane/plan/budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "lane/base/error.h"
#include "lane/base/units.h"

namespace lane::plan {
namespace {

using topology::GpuRef;

// Operations of a layer: two norms, four matrices, rope and KV write, attention, activation; and of a step beside them.
constexpr double kOperationsPerLayer = 9, kOtherOperations = 5;
// To start one and to let it run empty, in a CUDA graph. Expected: what is left of gpt-fast's 4.59 ms for Llama-3-8B on
// one H200 when the weights have been read; lowest: an empty kernel; highest: AIConfigurator's constant.
constexpr double kOperation = 2e-6, kFastOperation = kKernelStart, kSlowOperation = 3e-6;

// That an all-reduce takes longer when the weights that were read before it have emptied the caches, 8 to 256 KiB:
// those of Lane, NCCL and FlashInfer on 4 H200 ("gemm" against back to back in docs/performance/allreduce_h200.md).
constexpr double kCold = 1.6e-6, kLeastCold = 1.2e-6, kMostCold = 2.6e-6;

// Of a process beside the model (AIConfigurator's system files): NCCL's buffers from four GPUs on, CUDA's own.
constexpr int64_t kCollectiveBuffers = int64_t{392} << 20, kContext = int64_t{551} << 20;

constexpr int64_t kSmallestChunk = 512;  // tokens of a prompt that a stage is given at a time

Estimate at_share(double amount, double peak, const Share& share, const std::string& source) {
  const double s = amount / peak;
  return {s / share.expected, s / share.high, s / share.low, Basis::kDatasheet, source};
}

// The roofline: whichever takes longer, bound by bound.
Estimate longer(const Estimate& a, const Estimate& b) {
  Estimate result = a.seconds >= b.seconds ? a : b;
  result.low_s = std::max(a.low_s, b.low_s);
  result.high_s = std::max(a.high_s, b.high_s);
  return result;
}

Estimate operations(double count) {
  return {count * kOperation, count * kFastOperation, count * kSlowOperation, Basis::kExtrapolated, "2 us each"};
}

std::string bytes_text(int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

// Of a rank, in elements: a layer, and a slice of the vocabulary.
struct RankElements {
  double layer = 0, vocabulary = 0, heads = 0, kv_heads = 0, intermediate = 0;
};

RankElements elements_of(const ParallelPlan& plan, const ModelShape& shape) {
  const RankSlices slices = slices_of({.tensor = plan.tensor}, shape, 0);  // the first has the most of each
  RankElements rank;
  rank.heads = static_cast<double>(slices.heads.size());
  rank.kv_heads = static_cast<double>(slices.kv_heads.size());
  rank.intermediate = static_cast<double>(slices.intermediate.size());
  const double hidden = static_cast<double>(shape.hidden_size);
  rank.layer = hidden * shape.head_dim * (2 * rank.heads + 2 * rank.kv_heads) + 3 * hidden * rank.intermediate;
  rank.vocabulary = static_cast<double>(slices.vocab.size()) * hidden;
  return rank;
}

int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

}  // namespace

// One micro-batch on one stage.
struct Planner::Stage {
  Estimate matmul, attention, all_reduce, cold, other, transfer;
  double num_all_reduces = 0;
  int64_t message_bytes = 0, transfer_bytes = 0;
  CollectiveCost one;  // all-reduce
  CollectiveCost sent;
  Estimate all() const { return matmul + attention + all_reduce + cold + other + transfer; }
};

Planner::Planner(const Reach& reach, const Work& work, const PlannerOptions& options)
    : reach_(reach), work_(work), options_(options), times_(options.collectives) {
  const topology::Topology& topology = reach.topology();
  std::vector<int> hosts(topology.hosts.size());
  std::iota(hosts.begin(), hosts.end(), 0);
  std::stable_sort(hosts.begin(), hosts.end(), [&](int a, int b) { return reach.leaf_group(a) < reach.leaf_group(b); });
  for (const int host : hosts)
    for (size_t gpu = 0; gpu < topology.hosts[host].gpus.size(); ++gpu)
      if (!topology.hosts[host].gpus[gpu].is_busy) gpus_.push_back({host, static_cast<int>(gpu)});
  if (gpus_.empty())
    throw Error(ErrorCode::kInvalidArgument, "topology " + topology.name + " has no free GPU to plan for");
  const topology::Gpu& first = topology.hosts[gpus_.front().host].gpus[gpus_.front().gpu];
  for (const GpuRef gpu : gpus_)
    if (const topology::Gpu& other = topology.hosts[gpu.host].gpus[gpu.gpu]; other.name != first.name)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("topology {}: \"{}\" on {} and \"{}\" on {}: plans are for GPUs of one kind; give the "
                              "others \"is_busy\": true",
                              topology.name, first.name, topology.hosts[gpus_.front().host].name, other.name,
                              topology.hosts[gpu.host].name));
  if (options_.peaks.name.empty()) options_.peaks = gpu_peaks(first.name);
  if (first.memory_bytes > 0) options_.peaks.memory_bytes = first.memory_bytes;
  for (const GpuRef gpu : gpus_)
    if (const int64_t bytes = topology.hosts[gpu.host].gpus[gpu.gpu].memory_bytes; bytes > 0)
      options_.peaks.memory_bytes = std::min(options_.peaks.memory_bytes, bytes);
  if (options_.peaks.memory_bytes == 0)
    throw Error(ErrorCode::kInvalidArgument,
                "topology " + topology.name + ": its GPUs have no memory_bytes; add them, plans are held against them");
}

const Planner::Groups& Planner::groups(int tensor) {
  const auto [found, is_new] = groups_.try_emplace(tensor);
  Groups& groups = found->second;
  if (!is_new) return groups;
  std::map<decltype(GroupShape().key()), int> known;
  const int count = num_gpus() / tensor;
  Tier widest = Tier::kSelf;
  for (int group = 0; group < count; ++group) {
    const auto begin = gpus_.begin() + static_cast<std::ptrdiff_t>(group) * tensor;
    GroupShape shape = shape_of(reach_, {begin, begin + tensor});
    if (known.try_emplace(shape.key(), group).second) {
      groups.shapes.push_back(std::move(shape));
      groups.first_use.push_back(group);
    }
    if (group + 1 == count) break;
    const Tier tier = reach_.tier(*begin, *(begin + tensor));
    if (tier > widest) groups.widening.emplace_back(group, widest = tier);
  }
  return groups;
}

MemoryBudget Planner::memory(const ParallelPlan& plan) const {
  const ModelShape& shape = work_.shape;
  const RankElements rank = elements_of(plan, shape);
  const double layers = ceil_div(shape.num_layers, plan.pipeline);
  // The first stage has the embedding, the last the head; alone it has both, or one that is tied.
  const double ends = plan.pipeline == 1 && !work_.tied_embeddings ? 2 : 1;
  const double tokens = static_cast<double>(work_.input_tokens + work_.output_tokens) * work_.batch;
  const double under_way =
      static_cast<double>(std::min(options_.prefill_tokens, work_.input_tokens * int64_t{work_.batch}));
  MemoryBudget memory;
  memory.weights = static_cast<int64_t>((layers * rank.layer + ends * rank.vocabulary) * work_.weight_bytes);
  memory.kv = static_cast<int64_t>(2 * layers * rank.kv_heads * shape.head_dim * tokens * work_.kv_bytes);
  // Residual, its norm and a layer's output; queries, keys and values; gate and up; the logits in float32.
  const double of_token = 3.0 * static_cast<double>(shape.hidden_size) +
                          shape.head_dim * (rank.heads + 2 * rank.kv_heads) + 2 * rank.intermediate;
  memory.buffers = static_cast<int64_t>(under_way * of_token * work_.activation_bytes +
                                        work_.batch * rank.vocabulary / static_cast<double>(shape.hidden_size) * 4);
  memory.buffers += kContext + (plan.tensor * plan.pipeline > 1 ? kCollectiveBuffers : 0);
  memory.available = options_.peaks.memory_bytes;
  return memory;
}

// Of the different groups that the plan has.
CollectiveCost Planner::slowest_all_reduce(const ParallelPlan& plan, int64_t bytes) {
  CollectiveCost slowest;
  const Groups& all = groups(plan.tensor);
  for (size_t i = 0; i < all.shapes.size() && all.first_use[i] < plan.pipeline * plan.replicas; ++i) {
    const CollectiveCost& cost = times_.all_reduce(all.shapes[i], bytes);
    if (cost.total.seconds > slowest.total.seconds) slowest = cost;
  }
  return slowest;
}

// From the group to the next that are furthest apart. All ranks of a group send their part of the bytes; they have as
// much of a host's NICs as they are of its GPUs.
CollectiveCost Planner::slowest_transfer(const ParallelPlan& plan, int64_t bytes) {
  int from = 0;
  for (const auto& [group, tier] : groups(plan.tensor).widening)
    if (group + 1 < plan.pipeline * plan.replicas) from = group;
  const GpuRef here = gpus_[static_cast<size_t>(from) * plan.tensor];
  const GpuRef there = gpus_[static_cast<size_t>(from + 1) * plan.tensor];
  const double of_host = static_cast<double>(reach_.topology().hosts[here.host].gpus.size());
  const double share = here.host == there.host ? plan.tensor : plan.tensor / of_host;
  return message_time(reach_, here, there, std::llround(static_cast<double>(bytes) / share));
}

Planner::Stage Planner::stage_of(const ParallelPlan& plan, const Piece& piece, int num_layers, bool has_head) {
  const ModelShape& shape = work_.shape;
  const GpuPeaks& peaks = options_.peaks;
  const RankElements rank = elements_of(plan, shape);
  const double layers = num_layers, head = has_head ? rank.vocabulary : 0;
  Stage stage;
  // Of a prompt only the last token goes through the head.
  const double products = layers * rank.layer * piece.tokens + head * piece.sequences;
  stage.matmul = longer(
      at_share((layers * rank.layer + head) * work_.weight_bytes, peaks.read_bytes_per_s, kReadShare, "weights read"),
      at_share(2 * products, peaks.flops_per_s, kProductShare, "products"));
  if (piece.prefill) {
    const double length = static_cast<double>(work_.input_tokens);
    const double flops = 4 * layers * rank.heads * shape.head_dim * piece.tokens * length / 2;
    stage.attention = at_share(flops, peaks.flops_per_s, kAttentionShare, "products");
  } else {
    const double context = static_cast<double>(work_.input_tokens) + static_cast<double>(work_.output_tokens) / 2;
    const double bytes = 2 * layers * rank.kv_heads * shape.head_dim * context * piece.sequences * work_.kv_bytes;
    stage.attention = at_share(bytes, peaks.read_bytes_per_s, kReadShare, "KV read");
  }
  stage.other = operations(kOperationsPerLayer * layers + (has_head ? kOtherOperations : 0));
  const int64_t vector_bytes =
      std::llround(piece.tokens * static_cast<double>(shape.hidden_size) * work_.activation_bytes);
  if (plan.tensor > 1) {
    // And the embedding's; on a last stage by itself as much for the exchange of the candidates for the next token.
    stage.num_all_reduces = 2 * layers + (has_head ? 1 : 0);
    stage.message_bytes = vector_bytes;
    stage.one = slowest_all_reduce(plan, vector_bytes);
    stage.all_reduce = stage.one.total.times(stage.num_all_reduces);
    if (!piece.prefill)
      stage.cold =
          Estimate{kCold, kLeastCold, kMostCold, Basis::kExtrapolated, "cold caches"}.times(stage.num_all_reduces);
  }
  if (plan.pipeline > 1) {
    stage.transfer_bytes = vector_bytes;
    stage.sent = slowest_transfer(plan, vector_bytes);
    stage.transfer = stage.sent.total;
  }
  return stage;
}

// Layers are dealt evenly; where they do not come out even, the last stage, which has the head, has the fewer.
Planner::Stage Planner::slowest_stage(const ParallelPlan& plan, const Piece& piece) {
  const int all = work_.shape.num_layers, least = all / plan.pipeline, most = ceil_div(all, plan.pipeline);
  Stage last = stage_of(plan, piece, least, true);
  if (least == most) return last;
  Stage full = stage_of(plan, piece, most, false);
  return full.all().seconds > last.all().seconds ? full : last;
}

// All terms are proportional to the layers: the sum over the stages is a stage of all of them, and the messages
// between.
Estimate Planner::walk(const ParallelPlan& plan, const Piece& piece) {
  const Stage whole = stage_of(plan, piece, work_.shape.num_layers, true);
  return whole.all() + whole.transfer.times(plan.pipeline - 1);
}

PhaseBudget Planner::phase(const ParallelPlan& plan, const Stage& stage, int micro_batches,
                           const Estimate& total) const {
  PhaseBudget result{.micro_batches = micro_batches,
                     .message_bytes = stage.message_bytes,
                     .num_messages = stage.num_all_reduces * micro_batches,
                     .algorithm = stage.one.algorithm};
  const double m = micro_batches;
  const auto add = [&](std::string name, const Estimate& time, std::string note = {}) {
    result.rows.push_back({std::move(name), time, std::move(note)});
    result.total = result.total + time;
  };
  add("matmul", stage.matmul.times(m), stage.matmul.source);
  add("attention", stage.attention.times(m), stage.attention.source);
  for (int tier = 0; tier < kNumTiers; ++tier) {
    const double seconds = stage.one.by_tier[tier];
    if (seconds <= 0) continue;
    const Estimate& whole = stage.one.total;
    const double share = seconds / whole.seconds;
    const Estimate part{seconds, whole.low_s * share, whole.high_s * share, whole.basis, whole.source};
    add("all-reduce " + std::string(name_of(static_cast<Tier>(tier))), part.times(result.num_messages),
        fmt::format("{:.0f} x {}, {}", result.num_messages, bytes_text(stage.message_bytes), stage.one.algorithm));
  }
  result.communication = stage.one.total.times(result.num_messages);
  if (stage.cold.seconds > 0) add("behind products", stage.cold.times(m), "all-reduces with cold caches, 1.6 us each");
  if (plan.pipeline > 1)
    add("transfers", stage.transfer.times(m),
        fmt::format("{} from stage to stage, {}", bytes_text(stage.transfer_bytes),
                    name_of(static_cast<Tier>(std::max_element(stage.sent.by_tier.begin(), stage.sent.by_tier.end()) -
                                              stage.sent.by_tier.begin()))));
  add("other", stage.other.times(m), "operations, " + stage.other.source);
  // What the slowest stage waits for the others.
  const double waits_s = total.seconds - result.total.seconds;
  if (waits_s > 1e-3 * result.total.seconds) {
    const double share = waits_s / total.seconds;
    add("bubbles", {waits_s, total.low_s * share, total.high_s * share, total.basis, total.source},
        fmt::format("{} micro-batches on {} stages", micro_batches, plan.pipeline));
  }
  return result;
}

PhaseBudget Planner::decode(const ParallelPlan& plan) {
  const int wanted = std::min(options_.micro_batches > 0 ? options_.micro_batches : plan.pipeline, work_.batch);
  const int sequences = ceil_div(work_.batch, wanted), micro_batches = ceil_div(work_.batch, sequences);
  const Piece piece{double(sequences), double(sequences), false};
  const Stage slowest = slowest_stage(plan, piece);
  // A token of a sequence needs the one before it: a micro-batch comes again when it has been through all stages, or
  // when the slowest has served all others.
  const Estimate served = slowest.all().times(micro_batches), through = walk(plan, piece);
  return phase(plan, slowest, micro_batches, served.seconds >= through.seconds ? served : through);
}

PhaseBudget Planner::prefill(const ParallelPlan& plan) {
  const double tokens = static_cast<double>(work_.input_tokens) * work_.batch;
  const int fewest = ceil_div(static_cast<int64_t>(tokens), options_.prefill_tokens);
  PhaseBudget best;
  // More and smaller pieces fill a pipeline sooner; fewer read the weights less often.
  for (int pieces = fewest;; pieces *= 2) {
    const Piece piece{tokens / pieces, double(work_.batch) / pieces, true};
    const Stage slowest = slowest_stage(plan, piece);
    const Estimate total = walk(plan, piece) + slowest.all().times(pieces - 1);
    PhaseBudget one = phase(plan, slowest, pieces, total);
    if (best.rows.empty() || one.total.seconds < best.total.seconds) best = std::move(one);
    if (plan.pipeline == 1 || tokens / (2.0 * pieces) < kSmallestChunk) return best;
  }
}

std::vector<Crossing> Planner::crossings(const ParallelPlan& plan, const PhaseBudget& decode) {
  std::vector<Crossing> result;
  if (plan.tensor == 1 || decode.num_messages == 0) return result;
  for (const Tier tier : {Tier::kNvlink, Tier::kLeaf, Tier::kSpine}) {
    double slowest_s = 0;
    bool differs = false;
    const Groups& all = groups(plan.tensor);
    for (size_t i = 0; i < all.shapes.size() && all.first_use[i] < plan.pipeline * plan.replicas; ++i) {
      differs = differs || (all.shapes[i].widest() > tier && all.shapes[i].num_islands > 1);
      const GroupShape near = packed(all.shapes[i], tier);
      try {
        slowest_s = std::max(slowest_s, times_.all_reduce(near, decode.message_bytes).total.seconds);
      } catch (const Error&) {
        return result;  // the tables do not know such a group
      }
    }
    if (!differs) continue;
    const double now_s = decode.communication.seconds / decode.num_messages;
    const bool waits = decode.rows.back().name == "bubbles";  // which are other stages' work, all-reduces included
    const double work_s = decode.total.seconds - (waits ? decode.rows.back().time.seconds : 0);
    Estimate cost = decode.communication.times((now_s - slowest_s) / now_s * decode.total.seconds / work_s);
    if (cost.seconds < 0) std::swap(cost.low_s, cost.high_s);
    result.push_back({tier, cost});
  }
  return result;
}

Budget Planner::budget(const ParallelPlan& plan, bool fit) {
  check(plan, work_.shape);
  if (plan.num_ranks() > num_gpus())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("TP {} x PP {} x {} replicas are {} ranks, but there are {} free GPUs", plan.tensor,
                            plan.pipeline, plan.replicas, plan.num_ranks(), num_gpus()));
  Budget result{.plan = plan, .batch = work_.batch, .memory = memory(plan)};
  const MemoryBudget& memory = result.memory;
  if (fit && !memory.fits())
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("TP {} x PP {} does not fit: a rank needs {} (weights {}, KV cache {}, buffers {}) of a "
                            "{}'s {}; use more ranks, a smaller batch or shorter sequences",
                            plan.tensor, plan.pipeline, bytes_text(memory.total()), bytes_text(memory.weights),
                            bytes_text(memory.kv), bytes_text(memory.buffers), options_.peaks.name,
                            bytes_text(memory.available)));
  result.decode = decode(plan);
  result.prefill = prefill(plan);
  if (plan.tensor > 1) {
    const Groups& all = groups(plan.tensor);
    for (size_t i = 0; i < all.shapes.size() && all.first_use[i] < plan.pipeline * plan.replicas; ++i)
      result.widest = std::max(result.widest, all.shapes[i].widest());
  }
  result.crossings = crossings(plan, result.decode);
  return result;
}

std::string Planner::advice(const Budget& budget) {
  const auto& rows = budget.decode.rows;
  const auto most = std::max_element(
      rows.begin(), rows.end(), [](const BudgetRow& a, const BudgetRow& b) { return a.time.seconds < b.time.seconds; });
  const double step_s = budget.decode.total.seconds;
  std::string text =
      fmt::format("{} takes most of a decode step: {} of {} ({:.0f} %).", most->name,
                  format_duration(most->time.seconds), format_duration(step_s), 100 * most->time.seconds / step_s);
  const ParallelPlan& plan = budget.plan;
  const auto say = [&](const ParallelPlan& other, const char* what) {
    try {
      const Budget one = this->budget(other);
      text += fmt::format(" {} (TP {} x PP {}): {} between tokens, first token after {}.", what, other.tensor,
                          other.pipeline, format_duration(one.decode.total.seconds),
                          format_duration(one.prefill.total.seconds));
    } catch (const Error&) {  // does not fit, does not cut the model, or needs more GPUs than there are
    }
  };
  say({plan.tensor * 2, plan.pipeline, 1}, "With twice the GPUs a replica");
  if (plan.pipeline > 1) say({plan.tensor * 2, (plan.pipeline + 1) / 2, 1}, "With more tensor parallelism");
  if (plan.tensor > 1) say({plan.tensor / 2, plan.pipeline * 2, 1}, "With more stages");
  if (plan.tensor > 1) say({plan.tensor / 2, plan.pipeline, 1}, "With half of the GPUs a replica");
  if (options_.collectives != Collectives::kLane && budget.decode.communication.seconds > 0.1 * step_s &&
      budget.decode.algorithm.starts_with("nccl")) {
    CollectiveTimes lane(Collectives::kLane);
    const Groups& all = groups(plan.tensor);
    const double other_s = lane.all_reduce(all.shapes.front(), budget.decode.message_bytes).total.seconds;
    const double saved_s = budget.decode.communication.seconds - other_s * budget.decode.num_messages;
    if (saved_s > 0)
      text += fmt::format(" Lane's own all-reduce in place of NCCL's would save about {}.", format_duration(saved_s));
  }
  return text;
}

}  // namespace lane::plan
