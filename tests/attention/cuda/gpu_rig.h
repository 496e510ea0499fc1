#pragma once
#include <cuda_runtime_api.h>

#include "lane/attention/cuda/device.h"
#include "tests/attention/attention_rig.h"

namespace lane::testing {

inline constexpr Device kGpu{DeviceKind::kCuda, 0};

inline bool has_gpu() {
  int count = 0;
  const bool has = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  cudaGetLastError();
  return has;
}

inline AttentionLimits limits_of(const AttentionBatch& batch) {
  return {batch.num_seqs, batch.num_tokens, batch.max_query, batch.max_kv};
}

// A state, a plan and a run for each call.
inline Runner gpu_runner(const AttentionBackend& backend) {
  return [&backend](const Call& c) {
    const auto state = backend.make_state(c.shape, limits_of(c.batch), c.cache.keys.dtype, kGpu);
    backend.plan(c.shape, c.batch, c.host, state.get(), c.stream);
    backend.run(c.shape, c.batch, c.qkv, c.window, c.cache, c.out, state.get(), c.stream);
    c.stream.synchronize();
  };
}

// FlashInfer keeps partial results in the type of the result: a second rounding, relative to what was summed.
inline Precision precision_of(const AttentionBackend& backend, const Model& model) {
  if (backend.name() == "reference") return plain_precision(model.shape.dtype);
  Precision precision = matrix_precision(model.dtype);
  if (backend.name() == "flashinfer") precision.weight += precision.result;
  return precision;
}

inline Model gpu_model(DType dtype, int num_heads, int num_kv_heads, int head_dim, int window = 0, float soft_cap = 0,
                       int block_tokens = 16) {
  AttentionShape shape = shape_of(num_heads, num_kv_heads, head_dim, block_tokens, soft_cap);
  shape.dtype = dtype;
  return {shape, dtype, window};
}

// The backends that take a model. The reference is one of them, and the kernels of this project are unless `dtype` or
// head_dim say otherwise; FlashInfer's are if the build has them.
inline std::vector<const AttentionBackend*> backends_for(const Model& model) {
  std::vector<const AttentionBackend*> backends;
  for (const AttentionBackend* backend : attention_backends(kGpu))
    if (backend->why_not(model.shape, model.dtype, kGpu).empty()) backends.push_back(backend);
  return backends;
}

inline std::string describe(const AttentionBackend& backend, const Model& model) {
  const AttentionShape& s = model.shape;
  return std::string(backend.name()) + ": heads " + std::to_string(s.num_heads) + "/" + std::to_string(s.num_kv_heads) +
         " x " + std::to_string(s.head_dim) + ", " + std::string(name_of(s.dtype)) + " over " +
         std::string(name_of(model.dtype)) + ", blocks of " + std::to_string(s.block_tokens) + ", window " +
         std::to_string(model.window) + ", cap " + std::to_string(s.soft_cap);
}

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "there is no GPU";
    stream = std::make_unique<Stream>(kGpu);
  }

  // Sequences run together, `chunk` tokens a step, on every backend that takes the model.
  void sweep(const Model& model, const std::vector<int64_t>& lengths, int64_t chunk) {
    for (const AttentionBackend* backend : backends_for(model)) {
      Rig rig(model, lengths, static_cast<uint64_t>(chunk), kGpu);
      rig.run_all(gpu_runner(*backend), chunk, *stream);
      expect_close(model, rig, describe(*backend, model), precision_of(*backend, model));
    }
  }

  std::unique_ptr<Stream> stream;
};

}  // namespace lane::testing
