#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "lane/plan/collective_time.h"
#include "lane/plan/gpu_peaks.h"
#include "lane/plan/parallel.h"

namespace lane::plan {

// What is to be served: `batch` sequences at a time by each replica, each with a prompt and an answer of these lengths.
struct Work {
  ModelShape shape;
  int batch = 1;
  int64_t input_tokens = 512, output_tokens = 128;
  int weight_bytes = 2, kv_bytes = 2, activation_bytes = 2;  // of an element
  bool tied_embeddings = false;
};

// What the time of a GPU of the slowest stage goes to.
struct BudgetRow {
  std::string name;  // "matmul", "attention", "all-reduce nvlink", "all-reduce leaf", "behind products",
                     // "transfers", "other", "bubbles"
  Estimate time;
  std::string note = {};  // how it comes about
};

struct PhaseBudget {
  std::vector<BudgetRow> rows;  // add up to `total`
  Estimate total;
  int micro_batches = 1;
  Estimate communication;     // those of the rows that are all-reduces
  int64_t message_bytes = 0;  // of one
  double num_messages = 0;
  std::string algorithm;
};

struct MemoryBudget {
  int64_t weights = 0, kv = 0, buffers = 0, available = 0;  // bytes of the fullest rank
  int64_t total() const { return weights + kv + buffers; }
  bool fits() const { return total() <= available; }
};

// What a decode step would save if all of a tensor-parallel group's ranks were no further apart than `tier`; negative
// if it would take longer.
struct Crossing {
  Tier tier = Tier::kNvlink;
  Estimate cost;
};

struct Budget {
  ParallelPlan plan;
  int batch = 1;
  PhaseBudget decode, prefill;
  MemoryBudget memory;
  Tier widest = Tier::kSelf;  // that a tensor-parallel group crosses
  std::vector<Crossing> crossings;

  // Of the last sequence of a batch whose prompts came together, and of all others at most.
  const Estimate& time_to_first_token() const { return prefill.total; }
  const Estimate& time_between_tokens() const { return decode.total; }
  double tokens_per_s() const { return batch / decode.total.seconds; }  // of a replica, while it decodes
};

struct PlannerOptions {
  Collectives collectives = Collectives::kAuto;
  int micro_batches = 0;  // of a decode step; 0: one for each stage, as far as there are sequences
  GpuPeaks peaks = {};    // name empty: those of the topology's GPUs
  // At most so many tokens of prompts are under way at a time; they bound the buffers. vLLM's default on such GPUs.
  int64_t prefill_tokens = 8192;
};

// Prices plans for one piece of work on one topology; keeps a reference to `reach`, and what it found out. Rank i of a
// plan is on the i-th free GPU, those of a leaf together. docs/planning.md has the formulas.
class Planner {
 public:
  // Error{kInvalidArgument}: no free GPU, free ones of several kinds, one whose peaks or memory nobody knows.
  Planner(const Reach& reach, const Work& work, const PlannerOptions& options = {});

  int num_gpus() const { return static_cast<int>(gpus_.size()); }
  const GpuPeaks& peaks() const { return options_.peaks; }
  const Work& work() const { return work_; }

  // Error{kInvalidArgument} with the numbers: a plan that does not cut the model, more ranks than GPUs; and, unless
  // `fit` is false, a rank that does not fit into its GPU's memory.
  Budget budget(const ParallelPlan& plan, bool fit = true);
  MemoryBudget memory(const ParallelPlan& plan) const;

  // A paragraph: what costs most, and which neighbouring plan would change it by how much.
  std::string advice(const Budget& budget);

 private:
  struct Stage;
  struct Groups {                                // of one tensor-parallel size
    std::vector<GroupShape> shapes;              // different ones
    std::vector<int> first_use;                  // of a shape: the first group that has it, ascending
    std::vector<std::pair<int, Tier>> widening;  // first group that is further from the next than all before it
  };
  const Groups& groups(int tensor);
  struct Piece {  // of the work that goes through the stages together
    double tokens = 1, sequences = 1;
    bool prefill = false;
  };
  CollectiveCost slowest_all_reduce(const ParallelPlan& plan, int64_t bytes);
  CollectiveCost slowest_transfer(const ParallelPlan& plan, int64_t bytes);
  Stage stage_of(const ParallelPlan& plan, const Piece& piece, int num_layers, bool has_head);
  Stage slowest_stage(const ParallelPlan& plan, const Piece& piece);
  Estimate walk(const ParallelPlan& plan, const Piece& piece);  // once through all stages
  PhaseBudget phase(const ParallelPlan& plan, const Stage& slowest, int micro_batches, const Estimate& total) const;
  PhaseBudget decode(const ParallelPlan& plan);
  PhaseBudget prefill(const ParallelPlan& plan);
  std::vector<Crossing> crossings(const ParallelPlan& plan, const PhaseBudget& decode);

  const Reach& reach_;
  Work work_;
  PlannerOptions options_;
  std::vector<topology::GpuRef> gpus_;
  CollectiveTimes times_;
  std::map<int, Groups> groups_;
};

}  // namespace lane::plan
