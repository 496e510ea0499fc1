#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lane/device/tensor.h"
#include "lane/kernels/kernels.h"
#include "lane/model/config.h"
#include "lane/plan/parallel.h"

namespace lane {

// One layer's weights on this rank.
struct LayerWeights {
  Buffer attention_norm, mlp_norm;  // [hidden] float32, as are all norms and biases
  kernels::PackedMatrix qkv;        // [(heads + 2 kv_heads) * head_dim, hidden]
  Buffer qkv_bias;                  // empty if the model has none
  Buffer q_norm, k_norm;            // [head_dim], empty if the model has none
  kernels::PackedMatrix out;        // [hidden, heads * head_dim]
  Buffer out_bias;                  // whole on rank 0, empty elsewhere: it is added once
  kernels::PackedMatrix gate_up;    // [2 * intermediate, hidden]: gate, then up
  Buffer gate_up_bias;
  kernels::PackedMatrix down;  // [hidden, intermediate]
  Buffer down_bias;            // whole on rank 0, empty elsewhere
};

struct Weights {
  kernels::PackedMatrix embedding;  // [vocab slice, hidden]
  std::vector<LayerWeights> layers;
  Buffer final_norm;              // [hidden]
  kernels::PackedMatrix lm_head;  // [vocab slice, hidden]; empty if tied to the embedding
  int64_t bytes() const;          // held by this rank
};

struct LoadOptions {
  DType dtype = DType::kBF16;  // of the weights in memory
  // Seeded random weights; only config.json is needed. A value depends on the seed, its tensor's name and its place
  // in the whole tensor, so any number of ranks hold the same model.
  bool dummy = false;
  uint64_t dummy_seed = 0;
  // Called now and then from the thread that called load_weights(), with bytes done and bytes in all.
  std::function<void(int64_t done, int64_t total)> progress = {};
};
struct LoadReport {
  int64_t bytes_read = 0;   // from the checkpoint, by this rank
  int64_t bytes_share = 0;  // this rank's slices plus what is replicated, in the checkpoint's dtype
  double seconds = 0;
};

// What load_weights() takes for them on `device`.
int64_t weight_bytes(const ModelConfig& config, const plan::ParallelPlan& plan, int rank, DType dtype, Device device);

// Reads the slices that `plan` gives to `rank`, on all threads of `stream`, straight to where they are wanted. Beyond
// the weights themselves it needs a few MB a thread; for a GPU, at most 64 MiB of page-locked memory in all, through
// which they go while the next are read. Random weights are made on the GPU itself. Error{kCorruptData} names the file
// and tensor that does not fit; it comes before anything is read.
Weights load_weights(const std::string& folder, const ModelConfig& config, const plan::ParallelPlan& plan, int rank,
                     const LoadOptions& options, Stream& stream, LoadReport* report);

}  // namespace lane
