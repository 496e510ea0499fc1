// How the kernels of this folder are started, and how one overlaps the end of the one before it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

#include "lane/device/cuda/native.cuh"
#include "lane/device/tensor.h"

namespace lane::cuda {

// Programmatic dependent launch (CUDA programming guide, 6.2.4): a kernel may start while the one before it on the
// stream still runs. It must not read what that one writes, nor write what that one reads, before this call. Every
// thread of a kernel that is launched chained makes it, so that the end of a kernel is the end of all before it.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on, once all blocks got here, the next kernel may start. A kernel that calls it after wait_for_previous()
// promises the next one that all kernels but the last are done: that one may read what those wrote before it waits
// itself. A kernel of the middle of a layer calls it first of all, so that several of them are in place when their turn
// comes, each with its constant inputs under way; before it waits, such a kernel reads constants alone. embedding()
// keeps the promise for all of a step's layers: a step's lists are there when the first of these kernels starts.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

struct Grid {
  dim3 blocks = 1;
  unsigned threads = 128;
  unsigned cluster_y = 1;  // blocks along y that form a cluster
  size_t shared_bytes = 0;
};

// True on GPUs of sm_90 and newer, where a kernel may be chained to the one before.
bool can_chain();

template <class T>
T* at(const TensorView& view) {
  return static_cast<T*>(view.data);
}

// body(T{}) with the element type of `dtype`.
template <class Body>
void with_type(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::kF32:
      return body(float{});
    case DType::kBF16:
      return body(__nv_bfloat16{});
    case DType::kF16:
      return body(__half{});
    default:
      ensure(false, "activations are float32, bfloat16 or float16");
  }
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Grid& grid, const Stream& stream, const char* doing,
            Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = raw(stream);
  config.attrs = attributes;
  if (can_chain()) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster_y > 1) {
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs].val.clusterDim.x = 1;
    attributes[config.numAttrs].val.clusterDim.y = grid.cluster_y;
    attributes[config.numAttrs++].val.clusterDim.z = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Arguments>(arguments))...), doing);
}

}  // namespace lane::cuda
